# SPDX-License-Identifier: Apache-2.0
"""What every test process is started with, and which of several processes runs which file.

The training libraries cost a process six seconds and 0.9 GB. Hence the first of the processes alone collects the tests
that compute with them, and begins with those; the others never import them.
"""

import gc
import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.report import report_collection_diff
from xdist.scheduler import LoadFileScheduling

# Test processes that compute share the cores with each other and with workers: threads that spin for long while they
# wait would burn the time of those they wait for. Read by OpenMP when torch is first imported, hence set here.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Two trainings with two threads each on two cores took three to four times as long as with one each.
    for _name in ("OMP_NUM_THREADS", "FINETREE_TRAINER_CPU_THREADS"):
        os.environ.setdefault(_name, "1")

# No test reads the configuration file of whoever runs it, nor uses a profile or a token of theirs.
os.environ["XDG_CONFIG_HOME"] = str(Path(__file__).parent / "no-configuration")
for _name in ("FINETREE_PROFILE", "FINETREE_PROJECT", "FINETREE_TOKEN"):
    os.environ.pop(_name, None)

TRAINING = (
    "tests/contract/worker/models/",
    "tests/unit/worker/data/",
    "tests/unit/worker/generate/",
    "tests/unit/worker/methods/",
    "tests/unit/worker/models/",
    "tests/unit/worker/process/test_core.py",
    "tests/unit/worker/process/test_surroundings.py",
    "tests/unit/worker/test_device_memory.py",
    "tests/unit/worker/test_plan_from_task.py",
    "tests/unit/worker/test_randomness.py",
    "tests/unit/worker/tokenize/",
    "tests/unit/worker/training/",
)
"""Folders and files whose tests import the training libraries, many of them when they are collected."""


USUAL_SECONDS = 10
"""What a file takes that is marked `slow` without a number of seconds."""


def computes(path: str) -> bool:
    """Whether a test file, or the file of a test's id, is one that imports the training libraries."""
    return path.startswith(TRAINING)


def leaves_training_alone(config: pytest.Config) -> bool:
    """Whether this is a test process other than the first; one that replaces a crashed one runs everything."""
    given = getattr(config, "workerinput", None)
    return given is not None and 0 < int(given["workerid"].removeprefix("gw")) < given["workercount"]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not collection_path.is_relative_to(config.rootpath):
        return None
    place = collection_path.relative_to(config.rootpath).as_posix()
    return ((computes(place) or computes(f"{place}/")) and leaves_training_alone(config)) or None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect without looking for garbage: nothing of what is imported is, and never will be."""
    gc.disable()
    result = yield
    gc.freeze()
    gc.enable()
    return result


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where processes share the files, long ones come first: they compute, are slow, wait for programs, or are many."""
    if hasattr(config, "workerinput"):
        tests = Counter(item.location[0] for item in items)
        slow: Counter[str] = Counter()
        for item in items:
            for mark in item.iter_markers("slow"):
                slow[item.location[0]] = max(slow[item.location[0]], *(mark.args or (USUAL_SECONDS,)), 1)

        def place(item: pytest.Item) -> tuple[bool, int, bool, int, str]:
            file = item.location[0]
            return not computes(file), -slow[file], file.startswith("tests/unit/"), -tests[file], file

        items.sort(key=place)


class Sharing(LoadFileScheduling):  # type: ignore[misc]
    """Gives whole files to processes, and those that compute to one that collected them."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        self._files: dict[Any, set[str]] = {}

    def add_node_collection(self, node: Any, collection: list[str]) -> None:
        self.registered_collections[node] = list(collection)
        self._files[node] = {self._split_scope(test) for test in collection}

    def _check_nodes_have_same_collection(self) -> bool:
        """Put the process that collected everything first; but for what computes, the others must have the same."""
        found = sorted(self.registered_collections.items(), key=lambda entry: -len(entry[1]))
        self.registered_collections = dict(found)
        light = [[test for test in collection if not computes(test)] for _, collection in found]
        for (node, _), tests in zip(found[1:], light[1:], strict=True):
            message = report_collection_diff(light[0], tests, found[0][0].gateway.id, node.gateway.id)
            if message:
                report = pytest.CollectReport(node.gateway.id, "failed", message, result=[])
                self.config.hook.pytest_collectreport(report=report)
                return False
        return True

    def _next_for(self, node: Any) -> str | None:
        return next((file for file in self.workqueue if file in self._files.get(node, ())), None)

    def _assign_work_unit(self, node: Any) -> None:
        file = self._next_for(node)
        if file is not None:
            self.workqueue.move_to_end(file, last=False)
            super()._assign_work_unit(node)

    def _reschedule(self, node: Any) -> None:
        if node in self._files and self._next_for(node) is None and not node.shutting_down:
            node.shutdown()
        else:
            super()._reschedule(node)


_SERVER = importlib.util.spec_from_file_location("postgresql_server", Path(__file__).with_name("postgresql_server.py"))
assert _SERVER is not None
assert _SERVER.loader is not None
sys.modules["postgresql_server"] = importlib.util.module_from_spec(_SERVER)
_SERVER.loader.exec_module(sys.modules["postgresql_server"])


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Any]:
    """A running PostgreSQL server of this test process: `new_database()`, `url(name)`, `kill()`, `start()`."""
    server = sys.modules["postgresql_server"].PostgreSQLServer()
    yield server
    server.close()


@pytest.hookimpl(optionalhook=True)  # pytest -p no:xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Sharing:
    config.option.loadscopereorder = False  # the files are in order already
    return Sharing(config, log)
