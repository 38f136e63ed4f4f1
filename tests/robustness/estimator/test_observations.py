# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: PT012 - which of the calls meets the full disk depends on the page that is full
"""An estimator that is killed in the middle of reports, and one whose disk is full, lose nothing that they answered."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from finetree_api.estimator.v1 import calibration_pb2, estimator_pb2_grpc
from finetree_estimator.catalog import price_book
from finetree_estimator.estimate import estimate
from finetree_estimator.evidence.learner import Learner, load
from finetree_estimator.evidence.observation_store import FILE_NAME
from finetree_estimator.spec.resolve import Knowledge
from finetree_runtime.errors import ResourceExhausted
from google.protobuf import json_format

KNOWN = Knowledge(price_book.packaged())
RUN = {
    "spec": {"model": {"name": "llama-3.2-3b"}, "lora": {}, "hardware": {"accelerator": "rtx-4090"}},
    "dataset_profile": {"examples": 1000, "total_tokens": 200_000},
}


def report(number: int) -> calibration_pb2.ReportObservationRequest:
    body = {"job": f"jobs/{number}", "attempt": 1, "run": RUN, "step_seconds": 1.2, "steps": 60}
    body |= {"end_time": "2026-11-01T10:00:00Z"}
    return json_format.ParseDict(
        {"observation": body, "request_id": str(number)}, calibration_pb2.ReportObservationRequest()
    )


class Server:
    """An estimator in a process of its own, to be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "finetree_estimator", "--address", f"unix:{folder}/socket"]
        command += ["--state-dir", str(folder / "state"), "--log-level", "error"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = json.loads(self.process.stdout.readline())["address"]

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(60)


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    running = Server(tmp_path)
    yield running
    running.end()


def test_what_was_accepted_before_a_kill_is_there_after_it(server, tmp_path):
    """Reports come without a pause until the process is gone; each that was answered must have survived."""
    accepted: list[str] = []

    def send() -> None:
        with grpc.insecure_channel(server.address) as channel:
            stub = estimator_pb2_grpc.EstimatorServiceStub(channel)
            for number in range(100_000):
                try:
                    answer = stub.ReportObservation(report(number), timeout=60)
                except grpc.RpcError:
                    return
                assert answer.accepted
                accepted.append(f"jobs/{number}")

    sender = threading.Thread(target=send)
    sender.start()
    deadline = time.monotonic() + 60
    while len(accepted) < 30 and time.monotonic() < deadline:
        time.sleep(0.001)
    server.end(signal.SIGKILL)
    sender.join(60)

    assert len(accepted) >= 30
    found = [point.job for point in load(tmp_path / "state", KNOWN, estimate).points]
    assert set(accepted) <= set(found)
    # At most the one report that was under way may be there without an answer.
    assert len(found) <= len(accepted) + 1

    again = Server(tmp_path)
    with grpc.insecure_channel(again.address) as channel:
        stub = estimator_pb2_grpc.EstimatorServiceStub(channel)
        repeated = stub.ReportObservation(report(0), timeout=60)
        shown = stub.GetCalibration(calibration_pb2.GetCalibrationRequest(page_size=1), timeout=60)
    assert not repeated.accepted
    assert shown.entries[0].observations == min(len(found), 100)
    assert again.end(signal.SIGTERM) == 0


def test_a_second_estimator_on_the_same_folder_says_so_and_exits(server, tmp_path):
    command = [sys.executable, "-m", "finetree_estimator", "--address", f"unix:{tmp_path}/other"]
    second = subprocess.run(
        [*command, "--state-dir", str(tmp_path / "state")], capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 2
    assert second.stderr.startswith("STATE_DIR_IN_USE: ")


async def test_a_full_database_refuses_and_keeps_what_it_has(tmp_path):
    learner = Learner(tmp_path, KNOWN, estimate)
    await learner.report(report(0))
    before = learner.calibration
    # SQLite's own "disk is full".
    learner._store._database.execute("PRAGMA max_page_count = 1")
    with pytest.raises(ResourceExhausted) as refused:
        for number in range(1, 200):
            before = learner.calibration
            await learner.report(report(number))
    assert refused.value.reason == "DISK_FULL"
    assert learner.calibration is before
    kept = len(before.points)
    learner._store._database.execute("PRAGMA max_page_count = 100000")
    assert await learner.report(report(1000))
    learner.close()

    assert len(load(tmp_path, KNOWN, estimate).points) == kept + 1


_FILL = """
import asyncio, sys
from pathlib import Path
from finetree_api.estimator.v1 import calibration_pb2
from finetree_estimator.catalog import price_book
from finetree_estimator.estimate import estimate
from finetree_estimator.evidence.learner import Learner, load
from finetree_estimator.spec.resolve import Knowledge
from finetree_runtime.errors import DomainError

folder, known = Path(sys.argv[1]), Knowledge(price_book.packaged())
request = calibration_pb2.ReportObservationRequest.FromString(bytes.fromhex(sys.argv[2]))

async def main():
    learner = Learner(folder, known, estimate)
    accepted = 0
    try:
        while True:
            request.observation.job = request.request_id = f"jobs/{accepted}"
            accepted += await learner.report(request)
    except DomainError as error:
        print(error.reason, accepted > 10, len(learner.calibration.points) == accepted, end=" ")
    (folder / "ballast").unlink()
    print(await learner.report(request), end=" ")
    learner.close()
    print(len(load(folder, known, estimate).points) == accepted + 1)

(folder / "ballast").write_bytes(b"x" * 300_000)
asyncio.run(main())
"""


def in_small_disk(folder, command):
    """Run in a mount namespace of its own, where `folder` is a disk of 1 MiB."""
    mount = 'mount -t tmpfs -o size=1m none "$1" && shift && exec "$@"'
    everything = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", str(folder), *command]
    return subprocess.run(everything, capture_output=True, text=True, timeout=60, check=False)


def test_a_disk_that_is_really_full_loses_nothing_and_is_used_again_when_there_is_room(tmp_path):
    if shutil.which("unshare") is None or in_small_disk(tmp_path, ["true"]).returncode != 0:
        pytest.skip("needs user and mount namespaces")
    request = report(0).SerializeToString().hex()
    done = in_small_disk(tmp_path, [sys.executable, "-c", _FILL, str(tmp_path), request])
    assert done.stdout.strip() == "DISK_FULL True True True True", done.stderr


def test_a_file_of_garbage_where_the_log_was_does_not_hide_what_is_in_the_database(tmp_path):
    learner = Learner(tmp_path, KNOWN, estimate)
    learner.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    (tmp_path / f"{FILE_NAME}-wal").write_bytes(os.urandom(5000))
    again = Learner(tmp_path, KNOWN, estimate)
    assert again.calibration.points == ()
    again.close()
