# SPDX-License-Identifier: Apache-2.0
"""Requests to a running task (save a checkpoint, pause, cancel), kept until the task can act on them."""

from enum import StrEnum
from typing import Protocol

from finetree_worker.errors import Cancelled


class Signal(StrEnum):
    """Request to a running task."""

    NONE = "none"
    CHECKPOINT = "checkpoint"
    """Save a checkpoint at the next step boundary and continue."""
    PAUSE = "pause"
    """Save a checkpoint at the next step boundary and end, to be resumed."""
    FINISH = "finish"
    """Take no further step, and publish what there is; before the first step: end."""
    SHUTDOWN = "shutdown"
    """Like PAUSE; a task that has no end of its own is done."""
    CANCEL = "cancel"
    """End now; write nothing."""
    CANCEL_SAVING = "cancel_saving"
    """Save a checkpoint at the next step boundary and end as cancelled."""


STOPS = (Signal.PAUSE, Signal.SHUTDOWN, Signal.CANCEL_SAVING)
"""Signals that end a task with a checkpoint."""


class Control(Protocol):
    """Source of requests, polled between micro-batches; CHECKPOINT is returned once, others as long as they hold."""

    def poll(self) -> Signal:
        """Return the request that holds now."""


class Steering:
    """Polls a control for a run; a request for a checkpoint in the middle of a step is kept for the step's end."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._checkpoint = False
        self.publishes = False
        """Whether there is a checkpoint to publish before the first step: FINISH is kept until it is restored."""

    def signal(self) -> Signal:
        """Return the request that holds now. Raises Cancelled where the task is to end at once."""
        asked = self._control.poll()
        if asked is Signal.CANCEL:
            raise Cancelled
        self._checkpoint = self._checkpoint or asked is Signal.CHECKPOINT
        return asked

    def stop_here(self) -> None:
        """Raise Cancelled for every kind of end: for phases that have nothing worth saving."""
        signal = self.signal()
        if signal in STOPS or (signal is Signal.FINISH and not self.publishes):
            raise Cancelled

    def take_checkpoint(self) -> bool:
        """Return whether a checkpoint was asked for since the last call, and forget it."""
        asked, self._checkpoint = self._checkpoint, False
        return asked
