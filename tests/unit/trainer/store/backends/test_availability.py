# SPDX-License-Identifier: Apache-2.0
import asyncio

import pytest
from finetree_runtime.errors import Unavailable
from finetree_trainer.store.backends import availability
from finetree_trainer.store.backends.availability import Availability


class Database:
    """A store whose next answers end as it is told: with nothing, an error, or not at all."""

    def __init__(self, ends, *, leads=True) -> None:
        self.ends, self.leads = ends, leads

    async def write(self, _run) -> None:
        assert self.leads
        await self._answer()

    async def read(self, _run) -> None:
        assert not self.leads
        await self._answer()

    async def _answer(self) -> None:
        end = self.ends.pop(0)
        if end == "hang":
            await asyncio.Event().wait()
        if end is not None:
            raise end


@pytest.mark.parametrize("leads", [True, False])
async def test_readiness_follows_what_is_found_and_is_told_each_change_once(monkeypatch, leads):
    monkeypatch.setattr(availability, "PATIENCE_SECONDS", 0.01)
    away = Unavailable("STORE_UNAVAILABLE", "away")
    told = []

    async def set_ready(*, ready) -> None:
        told.append(ready)

    database = Database([None, away, away, None, None, "hang", None], leads=leads)
    watch = Availability(database, set_ready)
    while database.ends:
        await watch.look()
    assert told == [False, True, False, True]
