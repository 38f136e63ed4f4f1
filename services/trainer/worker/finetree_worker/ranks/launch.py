# SPDX-License-Identifier: Apache-2.0
"""The speaker's side of the other ranks: child processes of the same program, watched until they end.

They are in the speaker's process group and hold its `alive.lock`, so that whoever proves the worker's death or kills
its group means all of them. One that dies, stands still or fails ends the attempt: the others are killed, whereupon the
speaker's message to them fails, and the error that it raises names the first one.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from finetree_api.worker.v1 import worker_pb2

from finetree_worker.errors import RankError
from finetree_worker.ranks.progress import Beats, processor_ticks

COMMAND = (sys.executable, "-m", "finetree_worker.process.rank")
SILENT_SECONDS = 30
"""How long a rank may show no sign of life: no beat of its counter, no processor time."""
POLL_SECONDS = 1.0
LEAVE_SECONDS = 30.0
"""How long ranks that are done may take to end."""
CAUSE_SECONDS = 3 * POLL_SECONDS
"""How long after a failed message the watch may take to find out why it failed."""
STUCK_SECONDS = 300.0
"""How long after a loss the speaker may stay in a call before its process ends without a word."""
EXIT_STUCK = 70
"""Exit status (EX_SOFTWARE of sysexits.h) of such a process."""
TASK, OUTCOME, BEATS = "task", "outcome", "beats"
"""Files of the ranks' folder: the task without its secrets, how a rank has failed, and signs of life."""
_LOCK = "alive.lock"


class RankFailedError(Exception):
    """A rank has failed by itself; `outcome` is the failure as the rank has reported it."""

    def __init__(self, rank: int, outcome: worker_pb2.TaskOutcome) -> None:
        super().__init__(f"rank {rank}: {outcome.error.message}")
        self.rank, self.outcome = rank, outcome


class Crew:
    """Ranks 1 to count - 1 of a task."""

    def __init__(self, task: worker_pb2.Task, count: int, *, command: Sequence[str] = COMMAND) -> None:
        """Start them; they load the libraries while the speaker loads the model. Raises OSError."""
        # In the attempt's own folder, which is cleared with it also where this process is killed.
        own = task.folders.work_dir or tempfile.gettempdir()
        Path(own).mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="ranks-", dir=own))
        self._count, self._lost = count, threading.Event()
        self._cause: Exception | None = None
        self._leaving = threading.Event()
        self.on_lost: Callable[[], None] = _nothing
        """Called in the watch's thread once a rank is lost: makes messages that wait for it fail."""
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._beats = Beats(self.folder / BEATS, count)
        try:
            (self.folder / TASK).write_bytes(_without_secrets(task).SerializeToString())
            for rank in range(1, count):
                self._children[rank] = self._start(rank, command)
        except OSError:
            self.end()
            raise
        self._thread = threading.Thread(target=self._watch, name="rank-watch", daemon=True)
        self._thread.start()

    def _start(self, rank: int, command: Sequence[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*command, "--rank", str(rank), "--folder", str(self.folder), "--parent", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            pass_fds=_lock_descriptors(),
        )

    @property
    def pids(self) -> dict[int, int]:
        """Process ids by rank."""
        return {rank: child.pid for rank, child in self._children.items()}

    def check(self) -> None:
        """Raise the error of the first rank that was lost: RankError RANK_LOST, or RankFailedError."""
        if self._lost.is_set() and self._cause is not None:
            raise self._cause

    def check_soon(self) -> None:
        """Do so, but give the watch time to notice: a message to a rank fails before its death is seen."""
        self._lost.wait(CAUSE_SECONDS)
        self.check()

    def leave(self) -> None:
        """Say that the ranks are done, and wait for them."""
        self._leaving.set()
        deadline = time.monotonic() + LEAVE_SECONDS
        for child in self._children.values():
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, deadline - time.monotonic()))

    def end(self) -> None:
        """Kill whoever is left, and remove the folder."""
        self._leaving.set()
        for child in self._children.values():
            child.kill()
        for child in self._children.values():
            child.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.leave()
        self.end()

    # ------------------------------------------------------------------------------------------------ watch

    def _watch(self) -> None:
        seen = dict.fromkeys(self._children, (0, 0))
        silent = dict.fromkeys(self._children, 0)
        while not self._leaving.wait(POLL_SECONDS):
            for rank, child in self._children.items():
                status = child.poll()
                if status == 0:
                    continue  # it has done all that was asked of it
                if status is not None:
                    self._lose(self._ended(rank, status))
                    return
                sign = (self._beats.read(rank), processor_ticks(child.pid))
                # Polls are counted, not seconds: while the whole machine or the group is frozen, so is this thread.
                silent[rank] = silent[rank] + 1 if sign == seen[rank] else 0
                seen[rank] = sign
                if silent[rank] * POLL_SECONDS >= SILENT_SECONDS:
                    self._lose(_lost(rank, f"shows no sign of life for {SILENT_SECONDS:.0f} s"))
                    return

    def _ended(self, rank: int, status: int) -> Exception:
        with suppress(OSError):
            outcome = worker_pb2.TaskOutcome.FromString((self.folder / f"{OUTCOME}-{rank}").read_bytes())
            return RankFailedError(rank, outcome)
        return _lost(rank, f"was ended by signal {-status}" if status < 0 else f"ended with status {status}")

    def _lose(self, cause: Exception) -> None:
        self._cause = cause
        self._lost.set()
        # Messages of the speaker to any of them fail from now on, also where it waits for a third.
        for child in self._children.values():
            child.kill()
        self.on_lost()
        if not self._leaving.wait(STUCK_SECONDS):
            # Whatever holds the speaker's thread, nothing reaches it; the service sees the worker end.
            os._exit(EXIT_STUCK)


def _nothing() -> None:
    """Do nothing."""


def _lost(rank: int, how: str) -> RankError:
    return RankError(
        "RANK_LOST",
        f"Rank {rank} {how}.",
        remedy="The next attempt resumes from the last checkpoint. Where it happens again, look at the memory of the "
        "machine, which the system may have run out of, and at the rank's log in the folder of the attempt.",
    )


def _without_secrets(task: worker_pb2.Task) -> worker_pb2.Task:
    copy = worker_pb2.Task()
    copy.CopyFrom(task)
    copy.ClearField("token")
    copy.ClearField("hub")
    return copy


def _lock_descriptors() -> list[int]:
    """Return the descriptor of the lock by which the service knows that the worker lives; none without a service."""
    found = []
    for entry in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):
            if entry.readlink().name == _LOCK:
                found.append(int(entry.name))
    return found
