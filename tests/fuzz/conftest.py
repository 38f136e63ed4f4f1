# SPDX-License-Identifier: Apache-2.0
"""Makes helpers importable: test folders are no packages."""

import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).parent
FILES = {
    "fuzz_messages": HERE / "messages.py",
    "fuzz_services": HERE / "services.py",
    "fuzz_estimator": HERE / "estimator.py",
    "full_requests": HERE.parent / "contract" / "runtime" / "full_requests.py",
}

for _name, _file in FILES.items():
    if _name in sys.modules:
        continue
    _spec = importlib.util.spec_from_file_location(_name, _file)
    assert _spec is not None
    assert _spec.loader is not None
    _module = sys.modules[_name] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_module)
