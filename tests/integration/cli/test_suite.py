# SPDX-License-Identifier: Apache-2.0
"""`finetree up` starts the real services, keeps an eye on them and leaves nothing behind."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from finetree_cli.backends.suite import Suite
from finetree_cli.errors import NotAvailable

FINETREE = [sys.executable, "-m", "finetree_cli"]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Up:
    """A running `finetree up --json`."""

    def __init__(self, folder: Path) -> None:
        command = [*FINETREE, "up", "--ports", "auto", "--data-dir", str(folder), "--json"]
        environment = {**os.environ, "FINETREE_TRAINER_PREWARM": "false", "FINETREE_ESTIMATOR_ADDRESS": "127.0.0.1:1"}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], 40)
        assert readable, "not ready in time"
        line = self.process.stdout.readline()
        assert line, self.process.communicate(timeout=60)[1]
        self.ready: Any = json.loads(line)
        self.pids = {service["name"]: service["pid"] for service in self.ready["services"]}

    def end(self, number: signal.Signals = signal.SIGTERM) -> str:
        """Stop it; what it said on stderr."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.communicate(timeout=60)[1]


@pytest.fixture
def up(tmp_path) -> Iterator[Up]:
    running = Up(tmp_path / "data")
    yield running
    running.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_serves_until_a_signal_and_leaves_nothing(up, number):
    addresses = {service["name"]: service["address"] for service in up.ready["services"]}
    flags = [word for name, address in addresses.items() for word in (f"--{name}", address)]
    command = [*FINETREE, "version", "--services", "--json", *flags]
    done = subprocess.run(command, check=False, capture_output=True, timeout=60)
    assert all(json.loads(done.stdout)["services"].values()), done.stderr
    said = up.end(number)
    assert up.process.returncode == 0, said
    assert "Traceback" not in said
    assert not [name for name, pid in up.pids.items() if alive(pid)]


def test_services_stop_by_themselves_when_the_program_that_started_them_is_killed(up):
    services = [psutil.Process(pid) for pid in up.pids.values()]
    up.end(signal.SIGKILL)
    _, running = psutil.wait_procs(services, timeout=60)
    assert not running


def test_a_service_that_ends_ends_the_suite_and_is_named(up):
    os.kill(up.pids["recommender"], signal.SIGKILL)
    assert up.process.wait(timeout=60) == 5
    said = up.end()
    assert "the recommender ended" in said
    assert "recommender.log" in said
    assert not [name for name, pid in up.pids.items() if alive(pid)]


def test_a_taken_port_is_refused_before_anything_starts(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = {"recommender": 0, "estimator": taken.getsockname()[1], "trainer": 0}
        with pytest.raises(NotAvailable, match=r"port \d+ of the estimator") as caught:
            Suite(tmp_path / "data", ports).start()
    assert "--ports auto" in caught.value.remedy
    assert not (tmp_path / "data").exists()


def test_a_service_that_cannot_start_says_why_and_the_others_stop(tmp_path):
    suite = Suite(tmp_path / "data", extra={"trainer": ("--orphan-grace", "soon")})
    with pytest.raises(NotAvailable, match=r"the trainer did not start: SETTING_INVALID: --orphan-grace: "):
        suite.start()
    assert not [child.name for child in suite.children.values() if alive(child.process.pid)]


def test_a_data_folder_belongs_to_one_suite(suite):
    second = Suite(suite.data_dir, extra={"trainer": ("--no-prewarm",)})
    with pytest.raises(NotAvailable, match=r"the estimator did not start: STATE_DIR_IN_USE: ") as caught:
        second.start()
    assert "exit code" not in caught.value.message
