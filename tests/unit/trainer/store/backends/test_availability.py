# SPDX-License-Identifier: Apache-2.0
import asyncio

from finetree_runtime.errors import Unavailable
from finetree_trainer.store.backends import availability
from finetree_trainer.store.backends.availability import Availability


class Database:
    """A store whose next writes end as it is told: with nothing, an error, or not at all."""

    def __init__(self, ends) -> None:
        self.ends = ends

    async def write(self, _run) -> None:
        end = self.ends.pop(0)
        if end == "hang":
            await asyncio.Event().wait()
        if end is not None:
            raise end


async def test_readiness_follows_what_is_found_and_is_told_each_change_once(monkeypatch):
    monkeypatch.setattr(availability, "PATIENCE_SECONDS", 0.01)
    away = Unavailable("STORE_UNAVAILABLE", "away")
    told = []

    async def set_ready(*, ready) -> None:
        told.append(ready)

    database = Database([None, away, away, None, None, "hang", None])
    watch = Availability(database, set_ready)
    while database.ends:
        await watch.look()
    assert told == [False, True, False, True]
