# SPDX-License-Identifier: Apache-2.0
"""A root trainer whose workers are another user: prepares the small model, trains it, is killed meanwhile, goes on."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from finetree import Client
from finetree_api.trainer.v1 import capacity_pb2, event_pb2, job_pb2
from held_port import held_port

pytestmark = [
    pytest.mark.slow(60),
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root runs workers as another user"),
]

USER, GROUP = 54321, 54322
STEPS = 5
ROWS = [{"prompt": f"Name number {n}.", "completion": f"It is {n}."} for n in range(1, 17)]
TRY = """
import json, os, sys
from finetree_data.confinement.privileges import become
places = sys.argv[3:]
def tried(place):
    try:
        os.close(os.open(place, os.O_RDONLY))
    except PermissionError:
        return "denied"
    return "read"
become(int(sys.argv[1]), int(sys.argv[2]))
print(json.dumps([tried(place) for place in places]))
"""
# What is mounted is seen by the program alone, and is gone with it.
OPENED = """
set -e
mount --bind "$2" "$1"
mount -t tmpfs -o mode=755 tmpfs "$3"
mkdir -p "$2"
mount --move "$1" "$2"
shift 3
exec "$@"
"""


def closed_folder(path: Path) -> Path | None:
    """The first folder above a path that only its owner may pass through."""
    above = [folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001]
    return above[0] if above else None


def reachable(folder: Path) -> list[str]:
    """How a program begins whose Python every user can read, which that of a root's home is not."""
    base, hold = Path(sys.base_prefix).resolve(), folder / "hold"
    closed = closed_folder(base)
    if closed is None:
        return []
    hold.mkdir()
    start = ["unshare", "--mount", "--propagation", "private", "sh", "-c", OPENED, "sh"]
    start += [str(hold), str(base), str(closed)]
    tried = (
        subprocess.run([*start, "true"], check=False, capture_output=True, text=True)
        if shutil.which("unshare")
        else None
    )
    if tried is None or tried.returncode:
        pytest.skip("this Python is in a folder that is closed to other users, and no namespace can open it")
    return start


class Rig:
    """A trainer whose workers are another user, which can be killed and started again at its address."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        self.start = reachable(folder)
        self.address = self.run(f"127.0.0.1:{held_port()}")
        self.client = Client(trainer_address=self.address, estimator_address=self.address)

    def run(self, address: str) -> str:
        flags = ["--address", address, "--data-dir", str(self.data), "--estimator-address", "127.0.0.1:1"]
        flags += ["--worker-user", f"{USER}:{GROUP}", "--no-prewarm", "--confinement", "required"]
        command = [*self.start, sys.executable, "-m", "finetree_trainer", *flags]
        with (self.folder / "trainer.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, cwd=self.folder
            )
        assert self.process.stdout is not None
        with self.process.stdout as ready:
            line = ready.readline()
        assert line, (self.folder / "trainer.log").read_text()[-2000:]
        return str(json.loads(line)["address"])

    def kill_and_start_again(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.run(self.address) == self.address

    def close(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    # pytest's own folders are closed to other users.
    with tempfile.TemporaryDirectory(prefix="finetree-user-") as name:
        Path(name).chmod(0o711)
        running = Rig(Path(name))
        yield running
        running.close()


@pytest.fixture(scope="module")
def trained(rig: Rig) -> dict[str, Any]:
    """A training whose trainer was killed at its first step: its events, its folder, and what its worker was then."""
    rig.client.prepare(model={"name": "smollm2-135m-instruct"}).wait(timeout=240, check=True)
    training = {"max_steps": STEPS, "effective_batch_size": 2, "micro_batch_size": 2, "sequence_length": 64}
    job = rig.client.train(
        {
            "model": {"name": "smollm2-135m-instruct"},
            "dataset": {"name": rig.client.upload_dataset(ROWS).name},
            "lora": {},
            "training": training,
            "checkpoints": {"every_steps": 2},
        }
    )
    events, status = [], ""
    for event in job.events():
        events.append(event)
        if event.WhichOneof("payload") == "step_metrics" and not status:
            status = worker_status(rig.data)
            rig.kill_and_start_again()
    job.download(rig.folder / "adapter")
    return {"events": events, "status": status, "folder": rig.data / "jobs" / job.name.rpartition("/")[2]}


def worker_status(data: Path) -> str:
    """What the kernel says of the one worker that is at work."""
    (note,) = (data / "workers").glob("*/process.json")
    return Path(f"/proc/{json.loads(note.read_text())['pid']}/status").read_text()


def test_the_capacity_shows_that_workers_have_a_user_of_their_own(rig):
    states = {measure.name: measure.state for measure in rig.client.capacity().confinement}
    assert states["own_user"] == capacity_pb2.CONFINEMENT_STATE_HOLDS
    assert states["files"] == states["capabilities"] == capacity_pb2.CONFINEMENT_STATE_HOLDS


def test_a_worker_is_that_user_without_any_capability(trained):
    status = dict(re.findall(r"^(\w+):\t(.*)$", trained["status"], re.MULTILINE))
    assert status["Uid"].split() == [str(USER)] * 4
    assert status["Gid"].split() == [str(GROUP)] * 4
    assert not status["Groups"].split()
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"


def test_a_training_outlives_its_trainer_and_ends_in_its_first_attempt(trained, rig):
    events = trained["events"]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED, events[-1].message
    assert {event.attempt for event in events if event.WhichOneof("payload") == "step_metrics"} == {1}
    assert [event.kind for event in events].count(event_pb2.EVENT_KIND_TERMINAL) == 1
    assert (trained["folder"] / "checkpoints/step-00000004/manifest.json").stat().st_uid == USER
    assert list((rig.folder / "adapter").rglob("adapter_model.safetensors"))


def test_that_user_reads_neither_the_database_nor_what_the_service_keeps(trained, rig):
    secret = rig.folder / "secret"
    secret.write_text("of the service")
    secret.chmod(0o600)
    (dataset,) = (rig.data / "datasets").iterdir()
    closed = [secret, *(rig.data / name for name in ("trainer.db", "trainer.db-wal", "trainer.db-shm", "service.lock"))]
    # To know a job's name is to pass through its folder; no list of them is to be had.
    closed += [rig.data, rig.data / "jobs", rig.data / "datasets", rig.data / "uploads", rig.data / "workers"]
    opened = [dataset, trained["folder"] / "attempts/1/artifacts/adapter/adapter_model.safetensors"]
    command = (sys.executable, "-c", TRY, str(USER), str(GROUP), *map(str, [*closed, *opened]))
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)
    assert found == ["denied"] * len(closed) + ["read"] * len(opened)
