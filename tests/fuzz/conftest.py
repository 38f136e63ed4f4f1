# SPDX-License-Identifier: Apache-2.0
"""Makes the message maker importable as `fuzz_messages`: test folders are no packages."""

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location("fuzz_messages", Path(__file__).with_name("messages.py"))
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules.setdefault("fuzz_messages", _module)
_spec.loader.exec_module(_module)
