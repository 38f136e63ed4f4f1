# SPDX-License-Identifier: Apache-2.0
"""Makes the receiver of webhooks importable as `receiver`: test folders are no packages."""

import importlib.util
import sys
from pathlib import Path

if "receiver" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("receiver", Path(__file__).with_name("receiver.py"))
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules["receiver"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["receiver"])
