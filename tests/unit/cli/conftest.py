# SPDX-License-Identifier: Apache-2.0
"""Makes the reports of the gate's tests importable as `gate_reports`: test folders are no packages."""

import importlib.util
import sys
from pathlib import Path

if "gate_reports" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("gate_reports", Path(__file__).with_name("gate_reports.py"))
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules["gate_reports"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["gate_reports"])
