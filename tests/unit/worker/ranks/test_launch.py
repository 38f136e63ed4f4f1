# SPDX-License-Identifier: Apache-2.0
"""Ranks as processes: what becomes of the others, and of what they leave, when one is lost."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from finetree_api.worker.v1 import worker_pb2
from finetree_worker.errors import RankError
from finetree_worker.process import outcome
from finetree_worker.ranks import launch
from finetree_worker.ranks.launch import Crew, RankFailedError
from finetree_worker.ranks.speaker import ranks_of  # noqa: F401 - that it is imported without a cycle
from google.rpc import error_details_pb2

SCRIPT = Path(__file__).with_name("scripted_rank.py")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(launch, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(launch, "CAUSE_SECONDS", 60.0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def crew(what: str, count: int = 2) -> Crew:
    task = worker_pb2.Task(job="projects/p/jobs/j", token="secret", hub=worker_pb2.HubAccess(token="secret"))
    return Crew(task, count, command=(sys.executable, str(SCRIPT), what))


def begun(started: Crew) -> None:
    until((started.folder / "begun").exists)


def until(condition: Callable[[], bool]) -> None:
    """Wait for another process; the test's own limit ends it."""
    while not condition():
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_rank_is_named_and_the_others_are_killed(tmp_path: Path) -> None:
    told = []
    with crew("work", 3) as started:
        started.on_lost = lambda: told.append("lost")
        begun(started)
        started.check()
        pids = started.pids
        os.kill(pids[2], signal.SIGKILL)
        with pytest.raises(RankError, match=r"Rank 2 was ended by signal 9") as lost:
            started.check_soon()
        assert (lost.value.reason, lost.value.retryable) == ("RANK_LOST", True)
        until(lambda: not any(map(alive, pids.values())))
        until(lambda: bool(told))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["work", "sleep"])
def test_a_rank_that_stands_still_is_lost_after_the_stated_time(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by a signal, or silent from its beginning."""
    monkeypatch.setattr(launch, "SILENT_SECONDS", 2.0)
    with crew(what) as started:
        begun(started)
        if what == "work":
            os.kill(started.pids[1], signal.SIGSTOP)
        with pytest.raises(RankError, match=r"Rank 1 shows no sign of life for 2 s"):
            started.check_soon()
        pid = started.pids[1]
    assert not alive(pid)


def test_what_a_rank_fails_of_is_the_outcome_with_its_number() -> None:
    with pytest.raises(RankFailedError) as failed, crew("fail") as started:
        started.check_soon()
    found = outcome.failed(failed.value)
    assert found.error.message.startswith("Rank 1: No memory.")
    info = error_details_pb2.ErrorInfo()
    assert found.error.details[0].Unpack(info)
    assert (info.reason, info.metadata["field"]) == ("OUT_OF_MEMORY", "training.sequence_length")


def test_ranks_that_are_done_are_waited_for_and_leave_nothing(tmp_path: Path) -> None:
    with crew("leave") as started:
        begun(started)
        pid = started.pids[1]
        until(lambda: not alive(pid))
        started.check()
    assert not alive(pid)
    assert not list(tmp_path.iterdir())


def test_ranks_end_with_a_speaker_that_is_killed(tmp_path: Path) -> None:
    """Whatever they are doing, and also where they have been stopped."""
    program = (
        "import sys, time; from finetree_api.worker.v1 import worker_pb2; "
        "from finetree_worker.ranks.launch import Crew; "
        f"crew = Crew(worker_pb2.Task(), 2, command=(sys.executable, {str(SCRIPT)!r}, 'work')); "
        "print(crew.pids[1], crew.folder, flush=True); time.sleep(600)"
    )
    speaker = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)}
    )
    assert speaker.stdout is not None
    pid, folder = speaker.stdout.readline().split()
    until((Path(folder) / "begun").exists)
    os.kill(int(pid), signal.SIGSTOP)
    speaker.kill()
    speaker.wait()
    speaker.stdout.close()
    until(lambda: not alive(int(pid)))
