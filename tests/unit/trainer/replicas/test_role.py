# SPDX-License-Identifier: Apache-2.0
import asyncio
import contextlib
import threading

import pytest
from finetree_runtime.config.settings import SettingsError
from finetree_runtime.errors import Unavailable
from finetree_trainer.replicas import role
from finetree_trainer.replicas.role import Replica
from sqlalchemy.exc import OperationalError, ResourceClosedError
from structlog.testing import capture_logs

ERRORS = [
    SettingsError("DATABASE_UNREACHABLE", "no connection"),
    OperationalError("SELECT", None, Exception("the connection is lost")),
    Unavailable("STORE_UNAVAILABLE", "away", retry_delay=1.0),
    OSError(5, "I/O error"),
    ResourceClosedError("closed"),
]


class Database:
    """A backend, and a store which leads once it has failed of each of some errors twice."""

    def __init__(self, errors: list[Exception]) -> None:
        self._errors = [error for error in errors for _ in range(2)]
        self.closing, self.leads, self.patience = threading.Event(), False, 0.0

    def lead(self) -> None:
        if self._errors:
            raise self._errors.pop(0)
        self.leads = True


class Follower:
    """What follows, for as long as it is left to."""

    leader = ""

    def __init__(self) -> None:
        self.running = False

    async def run(self) -> None:
        self.running = True
        try:
            await asyncio.Event().wait()
        finally:
            self.running = False

    async def catch_up(self) -> None:
        assert not self.running


@pytest.mark.parametrize("errors", [[error] for error in ERRORS] + [ERRORS])
async def test_a_replica_stands_for_election_until_it_leads_whatever_a_try_fails_of(monkeypatch, errors):
    monkeypatch.setattr(role, "RETRY_SECONDS", 0.01)
    database, taken = Database(errors), asyncio.Event()

    async def take_over() -> None:
        taken.set()

    replica = Replica("me:1", database, database, following=Follower(), take_over=take_over)
    with capture_logs() as told:
        running = asyncio.create_task(replica.run())
        await asyncio.wait({running, asyncio.create_task(taken.wait())}, return_when="FIRST_COMPLETED", timeout=60)
        assert taken.is_set()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await replica.close()
    # Once for each cause; with the stack where it is none that a database or its settings have.
    refusals = [line for line in told if line["event"] == "replica_cannot_lead"]
    assert [line["why"] for line in refusals] == [getattr(e, "reason", type(e).__name__) for e in errors]
    unknown = {"OSError", "ResourceClosedError"}
    assert [("exc_info" in line) for line in refusals] == [line["why"] in unknown for line in refusals]
