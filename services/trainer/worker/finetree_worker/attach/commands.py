# SPDX-License-Identifier: Apache-2.0
"""Requests to the running task: commands of the service, signals of the machine, the end of the lease."""

import threading
import time
from collections.abc import Callable
from enum import IntEnum

from finetree_api.worker.v1 import worker_pb2

from finetree_worker.control import Signal


class Stop(IntEnum):
    """Reason why the task is to end; a higher one replaces a lower one, never the other way round."""

    NONE = 0
    PAUSE = 1
    """Paused by the user: save a checkpoint, end as paused."""
    FINISH = 2
    """A limit of the job was reached: publish what there is, end as finished early."""
    INTERRUPT = 3
    """The machine is taken away, or the service is gone: save a checkpoint, end as interrupted."""
    SHUTDOWN = 4
    """The service has no more use for the task: a training ends as if interrupted, a serving task is done."""
    CANCEL_SAVING = 5
    """Cancelled by the user, who keeps a checkpoint."""
    CANCEL = 6
    """Cancelled by the user."""


_SIGNALS = {
    Stop.NONE: Signal.NONE,
    Stop.PAUSE: Signal.PAUSE,
    Stop.FINISH: Signal.FINISH,
    Stop.INTERRUPT: Signal.PAUSE,
    Stop.SHUTDOWN: Signal.SHUTDOWN,
    Stop.CANCEL_SAVING: Signal.CANCEL_SAVING,
    Stop.CANCEL: Signal.CANCEL,
}


class Commands:
    """The core's `Control`: written by the stream and by signal handlers, read by the training thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._checkpoint = threading.Event()
        self._stop = Stop.NONE
        self._deadline = float("inf")

    @property
    def stop(self) -> Stop:
        """Reason why the task is to end; NONE while it is not."""
        return self._stop

    def poll(self) -> Signal:
        """Return the request that holds now. After the deadline of a stop there is no time left for a checkpoint."""
        # No lock: this runs between micro-batches, and each field is replaced in one go.
        if self._stop is not Stop.NONE:
            late = self._clock() >= self._deadline
            return Signal.CANCEL if late else _SIGNALS[self._stop]
        if self._checkpoint.is_set():
            self._checkpoint.clear()
            return Signal.CHECKPOINT
        return Signal.NONE

    def checkpoint(self) -> None:
        """Ask for a checkpoint, once."""
        self._checkpoint.set()

    def end(self, stop: Stop, seconds: float = float("inf")) -> None:
        """Ask the task to end within `seconds`. Safe in a signal handler."""
        self._deadline = min(self._deadline, self._clock() + seconds)
        self._stop = max(self._stop, stop)

    def apply(self, command: worker_pb2.Command) -> None:
        """Apply a command of the service; one of an unknown kind is ignored."""
        seconds = float("inf")
        if command.HasField("deadline"):
            seconds = command.deadline.ToNanoseconds() / 1e9 - time.time()
        if command.kind == worker_pb2.COMMAND_KIND_CHECKPOINT:
            self.checkpoint()
        elif command.kind == worker_pb2.COMMAND_KIND_PAUSE:
            self.end(Stop.PAUSE, seconds)
        elif command.kind == worker_pb2.COMMAND_KIND_FINISH:
            self.end(Stop.FINISH, seconds)
        elif command.kind == worker_pb2.COMMAND_KIND_CANCEL:
            self.end(Stop.CANCEL_SAVING if command.save_checkpoint else Stop.CANCEL, seconds)
        elif command.kind == worker_pb2.COMMAND_KIND_PREEMPT:
            self.end(Stop.INTERRUPT, seconds)
        elif command.kind == worker_pb2.COMMAND_KIND_SHUTDOWN:
            self.end(Stop.SHUTDOWN, seconds)
