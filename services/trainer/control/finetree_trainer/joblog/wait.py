# SPDX-License-Identifier: Apache-2.0
"""Waiting for a job to be in a state, for clients that do not stream: a look at the log's tail in memory."""

import asyncio
from collections.abc import Collection

from finetree_api.trainer.v1 import event_pb2
from finetree_runtime.server.limits.table import Caller

from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.joblog.watch import Watches

_MASK = 1 << event_pb2.EVENT_KIND_STATE_CHANGED


class Waits:
    """Answers callers that wait; they count among the watchers of `watches`, and end with them."""

    def __init__(self, log: EventLog, watches: Watches) -> None:
        self._log, self._watches = log, watches

    async def reached(self, uid: str, asked: Collection[int], *, seconds: float, caller: Caller) -> bool:
        """Return whether a job is in one of the states now, or comes to one within the seconds.

        Without states the terminal ones are meant. A job that has ended, and a server that stops, are not waited for.
        Raises NotFound JOB_NOT_FOUND, ResourceExhausted TOO_MANY_WATCHERS.
        """
        wanted = frozenset(asked) or states.TERMINAL
        now = asyncio.get_running_loop().time
        until = now() + seconds
        with self._watches.admitted(caller) as stop, self._log.watching(uid):
            reach = await self._log.span(uid)
            state, after = reach.state, reach.last_seq
            while state not in wanted:
                if state in states.TERMINAL or stop.done() or now() >= until:
                    return False
                await self._log.wait(uid, after, seconds=until - now(), stop=stop)
                found = await self._log.read(uid, after, mask=_MASK)
                after = found.covered
                for event in found.events:
                    state = event.state_changed.current
                    if state in wanted:
                        break
            return True
