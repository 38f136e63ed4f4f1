# SPDX-License-Identifier: Apache-2.0
"""Makes modules of the tests importable by their names, and the folder `campaign`: test folders are no packages."""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MODULES = {
    "cluster_nodes": HERE / "cluster/cluster_nodes.py",
    "replica_group": HERE / "trainer/replica_group.py",
    "scripted_training": HERE / "campaign/scripted_training.py",
    "trainer_harness": HERE.parent / "contract/trainer/harness.py",
}


class _Finder:
    """Finds such a module where a test imports it."""

    @staticmethod
    def find_spec(name: str, *_: object) -> ModuleSpec | None:
        if name == "campaign":
            return importlib.util.spec_from_loader(name, None, is_package=True)
        if name.startswith("campaign."):
            return importlib.util.spec_from_file_location(name, HERE / "campaign" / f"{name.partition('.')[2]}.py")
        return importlib.util.spec_from_file_location(name, MODULES[name]) if name in MODULES else None


sys.meta_path.append(_Finder)


@pytest.fixture(scope="session")
def preloaded():
    """Gives a kind of program of tests/preloaded.py, loaded once for all tests of a process."""
    return sys.modules["preloaded"].loaded
