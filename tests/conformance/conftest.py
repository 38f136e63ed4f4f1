# SPDX-License-Identifier: Apache-2.0
"""The three services as processes on loopback, with scripted workers, for clients in other languages."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import finetree
import pytest

TESTS = Path(__file__).resolve().parents[1]
START_SECONDS = 60


def load(name: str, path: Path) -> ModuleType:
    """Make a file importable by a name: test folders are no packages."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


harness = load("trainer_harness", TESTS / "contract/trainer/harness.py")
load("finetree_chaos", TESTS / "robustness/sdk/chaos.py")
# The tests that languages inherit: imported by name, so that their assertions are explained like any test's.
pytest.register_assert_rewrite("client_conformance")
sys.path.append(str(Path(__file__).parent))


class Services:
    """Recommender, estimator and trainer, each a process; the trainer runs one job at a time and queues two more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.estimator = self._started("finetree_estimator")
        self.recommender = self._started("finetree_recommender", "--estimator-address", self.estimator)
        options = harness.options_of(folder, {}, estimator_address=self.estimator, max_queued=2)
        flags = [
            f"--{key.replace('_', '-')}={','.join(value) if isinstance(value, tuple) else value}"
            for key, value in options.items()
            if key not in ("address", "prewarm")
        ]
        self.trainer = self._started("finetree_trainer", *flags, "--no-prewarm")

    def _started(self, module: str, *flags: str) -> str:
        ready = self.folder / f"{module}.json"
        command = [sys.executable, "-m", module, "--address", "127.0.0.1:0", "--ready-file", str(ready), *flags]
        log = self.folder / f"{module}.log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
        self._processes.append(process)
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{module} did not start: {log.read_bytes()[:2000]!r}")
            time.sleep(0.01)
        address: str = json.loads(ready.read_text())["address"]
        return address

    def script(self, **script: object) -> None:
        """Tell the workers of the jobs to come what to do."""
        harness.write_script(self.folder, script)

    def sdk(self) -> finetree.Client:
        """Make the Python client of these services, to compare with."""
        return finetree.Client(
            recommender_address=self.recommender, estimator_address=self.estimator, trainer_address=self.trainer
        )

    def stop(self) -> None:
        """End the services and the workers."""
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            process.wait(START_SECONDS)
        harness.end_workers(self.folder)


@pytest.fixture(scope="session")
def services(tmp_path_factory) -> Iterator[Services]:
    running = Services(tmp_path_factory.mktemp("services"))
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def sdk(services) -> Iterator[finetree.Client]:
    with services.sdk() as client:
        yield client
