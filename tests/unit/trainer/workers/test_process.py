# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC110 - a process that is gone sets no event
import asyncio
import json
import os
import sys

import psutil
import pytest
from finetree_trainer.workers.process import LOCK, NOTE, Liveness, Process, liveness, worker_environment

SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")
FAMILY = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, 1); time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


async def dead(process, seconds=60):
    await asyncio.wait_for(process.dead.wait(), seconds)


async def test_a_process_lives_until_it_is_proven_dead(tmp_path):
    process = Process.start(SLEEP, os.environ, tmp_path / "w")
    assert liveness(tmp_path / "w") is Liveness.ALIVE
    assert os.getpgid(process.pid) == process.pid
    process.terminate()
    await dead(process)
    assert liveness(tmp_path / "w") is Liveness.DEAD
    assert "SIGTERM" in process.exit


async def test_a_process_that_ends_takes_what_it_started_with_it(tmp_path):
    process = Process.start((sys.executable, "-c", FAMILY), os.environ, tmp_path / "w")
    output = tmp_path / "w" / "output.log"
    async with asyncio.timeout(60):
        while not output.read_text().strip():
            await asyncio.sleep(0.01)
    child = psutil.Process(int(output.read_text()))
    process.terminate()
    await dead(process)
    async with asyncio.timeout(60):
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)


async def test_a_process_of_an_earlier_run_is_watched_and_ended(tmp_path):
    started = Process.start(SLEEP, os.environ, tmp_path / "w")
    adopted = Process.adopt(tmp_path / "w", started.pid)
    adopted.kill()
    await dead(adopted)
    await dead(started)


async def test_a_number_that_another_process_has_now_gets_no_signal(tmp_path):
    stranger = Process.start(SLEEP, os.environ, tmp_path / "stranger")
    began = json.loads((tmp_path / "stranger" / NOTE).read_text())["started"]
    # Two that start in the same tick of the clock, a hundredth of a second, are told apart by their number alone.
    note = {"started": began}
    while note["started"] == began:
        ended = Process.start((sys.executable, "-c", ""), os.environ, tmp_path / "w")
        await dead(ended)
        note = json.loads((tmp_path / "w" / NOTE).read_text())
    # As after a reboot: the note's process is gone, and its number belongs to somebody else.
    (tmp_path / "w" / NOTE).write_text(json.dumps({**note, "pid": stranger.pid}))
    adopted = Process.adopt(tmp_path / "w", stranger.pid)
    adopted.kill()
    assert psutil.pid_exists(stranger.pid)
    assert liveness(tmp_path / "stranger") is Liveness.ALIVE
    stranger.kill()
    await dead(stranger)


def test_without_a_lock_nothing_is_known(tmp_path):
    assert liveness(tmp_path / "nothing") is Liveness.UNKNOWN
    (tmp_path / LOCK).touch()
    assert liveness(tmp_path) is Liveness.DEAD


async def test_the_output_of_a_worker_is_kept(tmp_path):
    process = Process.start((sys.executable, "-c", "import sys; print('out'); sys.exit(3)"), os.environ, tmp_path / "w")
    await dead(process)
    assert (tmp_path / "w" / "output.log").read_text() == "out\n"
    assert process.exit == "it exited with status 3"


async def test_output_that_grows_without_end_is_cut_and_its_end_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("finetree_trainer.workers.process.MAX_OUTPUT_BYTES", 10_000)
    monkeypatch.setattr("finetree_trainer.workers.process.KEPT_OUTPUT_BYTES", 1_000)
    loud = "import os; os.mkfifo('go'); [print('line', n) for n in range(5000)]; open('go').read(); print('after')"
    process = Process.start((sys.executable, "-u", "-c", loud), os.environ, tmp_path / "w")
    output = tmp_path / "w" / "output.log"
    async with asyncio.timeout(60):
        while "line 4999\n" not in output.read_text():
            await asyncio.sleep(0.01)
    process.limit_output()
    lines = output.read_text().splitlines()
    assert lines[0] == "[earlier output was removed]"
    assert lines[-1] == "line 4999"
    assert len(output.read_bytes()) < 1100
    (tmp_path / "w" / "go").write_text("")
    await dead(process)
    process.limit_output()
    assert output.read_text().splitlines() == [*lines, "after"]


@pytest.mark.parametrize("name", ["FINETREE_TOKEN", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "DATABASE_URL"])
def test_a_worker_sees_no_secret_of_the_service(name):
    kept = worker_environment({"PATH": "/bin", name: "secret"}, threads=3, ADDED="x")
    assert name not in kept
    assert (kept["PATH"], kept["ADDED"], kept["HF_HUB_OFFLINE"]) == ("/bin", "x", "1")


@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_a_worker_sees_what_the_operator_says_of_its_devices(name):
    assert worker_environment({name: "said"}, threads=1)[name] == "said"


async def test_a_worker_that_could_not_be_noted_is_not_left_running(tmp_path):
    folder = tmp_path / "w"
    folder.mkdir()
    # The kernel's own full device.
    (folder / NOTE).symlink_to("/dev/full")
    (folder / LOCK).touch()
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / LOCK).hardlink_to(folder / LOCK)
    with pytest.raises(OSError, match="No space left"):
        Process.start(SLEEP, os.environ, folder)
    assert liveness(kept) is Liveness.DEAD
    assert not folder.exists()
