# SPDX-License-Identifier: Apache-2.0
import asyncio
import contextlib
import threading

import pytest
from finetree_runtime.errors import Unavailable
from finetree_trainer.replicas import following
from finetree_trainer.replicas.following import Following
from sqlalchemy.exc import ResourceClosedError
from structlog.testing import capture_logs

LOCKED = Unavailable("STORE_UNAVAILABLE", "away", retry_delay=1.0)


class Failing:
    """A database on a server, and a log whose reads fail as they are told, and then find nothing new."""

    def __init__(self, listening: list[Exception], reads: list[Exception]) -> None:
        self._listening, self._reads = listening, reads
        self.store, self.read_again = self, asyncio.Event()

    def watched(self) -> list[str]:
        return []

    async def read(self, _run) -> tuple[list[object], str]:
        if self._reads:
            raise self._reads.pop(0)
        self.read_again.set()
        return [], "leader:1"

    def listening(self) -> object:
        if self._listening:
            raise self._listening.pop(0)
        return None


class Deaf:
    """A listener that hears nothing."""

    open = 0

    def __init__(self, *_: object) -> None:
        Deaf.open += 1

    def close(self) -> None:
        assert threading.current_thread() is not threading.main_thread()
        Deaf.open -= 1


@pytest.mark.parametrize(
    ("listening", "reads"),
    [([], [LOCKED]), ([], [ResourceClosedError("closed")]), ([], [OSError(5, "I/O error")]), ([RuntimeError()], [])],
)
async def test_a_follower_goes_on_whatever_a_look_fails_of_and_says_of_what(monkeypatch, listening, reads):
    monkeypatch.setattr(following, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(following, "Listener", Deaf)
    failing = Failing(listening, reads)
    follower = Following(failing, None, failing)
    with capture_logs() as told:
        running = asyncio.create_task(follower.run())
        await asyncio.wait_for(failing.read_again.wait(), 60)
        assert Deaf.open == 1
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    assert Deaf.open == 0
    assert follower.leader == "leader:1"
    assert [line["event"] for line in told] == ["replica_cannot_follow"]
    # An outage is told by its reason, a fault of ours with its stack.
    assert told[0].get("reason") == "STORE_UNAVAILABLE" or isinstance(told[0]["exc_info"], Exception)
