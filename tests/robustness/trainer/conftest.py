# SPDX-License-Identifier: Apache-2.0
"""Makes the harness importable as `trainer_harness`: test folders are no packages."""

import importlib.util
import sys
from pathlib import Path

import pytest

if "trainer_harness" not in sys.modules:
    _spec = importlib.util.spec_from_file_location(
        "trainer_harness", Path(__file__).parents[2] / "contract" / "trainer" / "harness.py"
    )
    assert _spec is not None
    assert _spec.loader is not None
    _module = importlib.util.module_from_spec(_spec)
    sys.modules["trainer_harness"] = _module
    _spec.loader.exec_module(_module)


@pytest.fixture(autouse=True)
def no_worker_is_left(tmp_path):
    """End the workers that outlive the trainer of a test, as they should."""
    yield
    sys.modules["trainer_harness"].end_workers(tmp_path)
