# SPDX-License-Identifier: Apache-2.0
"""Makes the harness importable as `trainer_harness`: test folders are no packages.

What the contract promises is tested by `serve`, once over the service and once over the SDK's fake suite; what is the
service's own (processes, files, the database) by `trainer` of the harness.
"""

import importlib.util
import sys
from pathlib import Path

import pytest

for _name, _file in (("trainer_harness", "harness.py"), ("trainer_fake_suite", "fake_suite.py")):
    if _name not in sys.modules:
        _spec = importlib.util.spec_from_file_location(_name, Path(__file__).with_name(_file))
        assert _spec is not None
        assert _spec.loader is not None
        _module = importlib.util.module_from_spec(_spec)
        sys.modules[_name] = _module
        _spec.loader.exec_module(_module)


@pytest.fixture
def serve(served_by):
    """`serve(tmp_path, script, **settings)`: a trainer to talk to, the real one or the fake suite's."""
    if served_by == "suite":
        return sys.modules["trainer_fake_suite"].suite
    return sys.modules["trainer_harness"].trainer


@pytest.fixture
def stored(tmp_path):
    """Settings of a trainer with an object store, which is a folder."""
    place = tmp_path / "store"
    place.mkdir()
    return {"object_store": f"file://{place}"}


@pytest.fixture(autouse=True)
def no_worker_is_left(tmp_path):
    """End the workers that outlive the trainer of a test, as they should."""
    yield
    sys.modules["trainer_harness"].end_workers(tmp_path)
