# SPDX-License-Identifier: Apache-2.0
"""What is asked of a running task, remembered until it can be done."""

from finetree_worker.errors import Cancelled
from finetree_worker.events.types import Control, Signal

STOPS = (Signal.PAUSE, Signal.CANCEL_SAVING)
"""Signals that end a task with a checkpoint."""


class Steering:
    """Polls the control. A wish for a checkpoint that comes in the middle of a step waits for its end."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._checkpoint = False

    def signal(self) -> Signal:
        """What is asked now; raises Cancelled where the task is to end at once."""
        asked = self._control.poll()
        if asked is Signal.CANCEL:
            raise Cancelled
        self._checkpoint = self._checkpoint or asked is Signal.CHECKPOINT
        return asked

    def stop_here(self) -> None:
        """Raise Cancelled for every kind of stop: for phases that have nothing worth saving."""
        if self.signal() in STOPS:
            raise Cancelled

    def take_checkpoint(self) -> bool:
        """Whether a checkpoint was asked for since this was last called."""
        asked, self._checkpoint = self._checkpoint, False
        return asked
