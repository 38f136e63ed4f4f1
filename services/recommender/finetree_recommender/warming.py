# SPDX-License-Identifier: Apache-2.0
"""Find ahead what recommendations share, so that the first thousand need not.

What is found is kept where a recommendation would keep it (`fan.py`), by the pack's identity. Packs that let the
estimator's word decide the gate are left out: what they share depends on which methods fit, of which there is no end.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from itertools import islice, product

from finetree_recommender.fan import abroad, fan, memories
from finetree_recommender.gist import alike
from finetree_recommender.policy.answers import Answers
from finetree_recommender.policy.pack import Pack

DELAY = 2.0
"""Seconds after the start: whoever starts a server for one question should not share the processor with this."""
AT_ONCE = 4
"""Gists between two pauses; a call that comes meanwhile waits for some 0.15 ms."""
PAUSE = 0.002
"""Seconds of a pause."""
MOST = 8192
"""Gists of a pack up to which they are found ahead: no more fans are kept."""


def gists(pack: Pack) -> Iterator[Answers]:
    """Every gist of answers that name a memory."""
    firsts = [dict.fromkeys(of.values()) for of in alike(pack, memory_known=True).values()]
    return (Answers._make((*found, ())) for found in product(memories(pack), *firsts))


def find(pack: Pack) -> Iterator[None]:
    """Find what each gist's changes lead to, a few gists at each step; nothing for a pack that asks what fits."""
    if pack.rules.gate.physics is not None:
        return
    waiting = islice(gists(pack), MOST)
    while some := list(islice(waiting, AT_ONCE)):
        for gist in some:
            fan(pack, gist, None)
            abroad(pack, gist)
        yield


class Warming:
    """Finds in the background, once the service runs, and ends with it."""

    def __init__(self, pack: Pack) -> None:
        self._pack = pack
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin, in a while."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End, wherever it is."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        await asyncio.sleep(DELAY)
        for _ in find(self._pack):
            await asyncio.sleep(PAUSE)
