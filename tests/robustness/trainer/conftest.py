# SPDX-License-Identifier: Apache-2.0
"""Makes modules for the tests importable by their names: test folders are no packages."""

import importlib.util
import sys
from pathlib import Path

import pytest

_MODULES = {
    "trainer_harness": Path(__file__).parents[2] / "contract" / "trainer" / "harness.py",
    "replica_group": Path(__file__).with_name("replica_group.py"),
}
for _name, _file in _MODULES.items():
    if _name not in sys.modules:
        _spec = importlib.util.spec_from_file_location(_name, _file)
        assert _spec is not None
        assert _spec.loader is not None
        sys.modules[_name] = importlib.util.module_from_spec(_spec)
        _spec.loader.exec_module(sys.modules[_name])


@pytest.fixture(autouse=True)
def no_worker_is_left(tmp_path):
    """End the workers that outlive the trainer of a test, as they should."""
    yield
    sys.modules["trainer_harness"].end_workers(tmp_path)


@pytest.fixture
async def replicas(tmp_path, postgresql):
    made = []

    def make(script, **changes: object) -> object:
        group = sys.modules["replica_group"].Replicas
        made.append(group(tmp_path, script, postgresql, postgresql.new_schema(), **changes))
        return made[-1]

    yield make
    for each in made:
        await each.end()
