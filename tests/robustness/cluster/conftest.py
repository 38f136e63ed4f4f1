# SPDX-License-Identifier: Apache-2.0
"""One Ray cluster for the tests of a file."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from trainer_harness import end_workers

HERE = Path(__file__).parent


class RayNodes:
    """The cluster of cluster_program.py."""

    def __init__(self) -> None:
        command = [sys.executable, str(HERE / "cluster_program.py")]
        # A session of its own: whatever of it is left is found by it.
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        told = self._answer()
        self.address, self.folder = told["address"], told["folder"]
        self.names: list[str] = []

    def _answer(self) -> dict:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()
        assert self._answer() == {"done": command}

    def have(self, *names: str) -> None:
        """Let exactly these nodes be there, of one processor each."""
        for name in set(self.names) - set(names):
            self.kill(name)
        for name in names:
            if name not in self.names:
                self.tell(f"add {name} 1")
                self.names.append(name)

    def kill(self, name: str) -> None:
        self.tell(f"kill {name}")
        self.names.remove(name)

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(60)
        for process in self.left():
            process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def left(self) -> list[psutil.Process]:
        """Processes of the cluster that live: they know its folder."""
        found = []
        for process in psutil.process_iter(["pid"]):
            try:
                if process.pid != os.getpid() and any(self.folder in text for text in process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    """A head without processors, and nothing else yet."""
    made = RayNodes()
    yield made
    made.end()


@pytest.fixture(autouse=True)
def no_worker_is_left(tmp_path):
    """End the workers that outlive the trainer of a test, as they should."""
    yield
    end_workers(tmp_path)
