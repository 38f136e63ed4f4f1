# SPDX-License-Identifier: Apache-2.0
"""What a call costs does not grow with the jobs that wait, nor a start with the jobs that have ended."""

import contextlib
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from finetree_api.trainer.v1 import event_log_pb2, trainer_pb2
from sqlalchemy import Engine, event
from trainer_harness import ROWS, jsonl, trainer

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks/trainer"))
history = pytest.importorskip("history")
sys.path.pop(0)

FEW, MANY = 20, 400


@contextlib.contextmanager
def statements() -> Iterator[list[str]]:
    """Statements that are sent to any database while the block runs, without those of transactions."""
    sent: list[str] = []

    def note(_connection, _cursor, statement, *_rest: object) -> None:
        if not statement.startswith(("BEGIN", "SAVEPOINT", "RELEASE", "COMMIT", "ROLLBACK", "PRAGMA", "EXPLAIN")):
            sent.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


async def costs(folder, queued) -> dict[str, int]:
    """Statements of each call on a trainer with so many waiting jobs, and of its start those that read events."""
    history.fill(folder / "data", queued=queued, ended=queued, suspended=True)
    with statements() as sent:
        async with trainer(folder) as talk:
            assert len(talk.application._queue) == queued
            found = {"start": len([text for text in sent if "FROM event_blocks" in text])}
            dataset = (await talk.upload(jsonl(ROWS))).name
            name = (await talk.train(dataset=dataset, suspended=True)).name
            calls = {
                "create": partial(talk.train, dataset=dataset, suspended=True),
                "list": partial(talk.stub.ListJobs, trainer_pb2.ListJobsRequest(page_size=50)),
                "get": partial(talk.job, name),
            }
            for what, call in calls.items():
                counts = []
                # The fewest of some: now and then a loop of the service looks for something of its own.
                for _ in range(5):
                    sent.clear()
                    await call()
                    counts.append(len(sent))
                found[what] = min(counts)
    return found


async def test_statements_do_not_grow_with_the_jobs(tmp_path):
    few = await costs(tmp_path / "few", FEW)
    many = await costs(tmp_path / "many", MANY)
    assert few == many
    assert few["start"] == 0


async def test_a_long_log_is_read_in_whole_batches(tmp_path):
    (uid,) = history.fill(tmp_path / "data", queued=0, events_of_one=6000)
    async with trainer(tmp_path) as talk:
        events, batches = [], 0
        with statements() as sent:
            async for batch in talk.stub.WatchJob(event_log_pb2.WatchJobRequest(name=uid)):
                events += [event.seq for event in batch.events]
                batches += 1
        assert events == list(range(1, 6001))
        reads = len([text for text in sent if "FROM event_blocks" in text])
        # Events of 250 bytes: a read fills a batch of 64 KiB, and neither is made for a handful.
        assert reads <= batches + 3 <= 6000 / 150


@pytest.mark.parametrize(
    "filters", [{}, {"states": [1]}, {"tasks": [1]}, {"before": "f"}, {"states": [1, 3], "tasks": [1]}]
)
def test_a_page_of_jobs_is_read_in_the_order_of_an_index(tmp_path, filters):
    from finetree_trainer.store import jobs
    from finetree_trainer.store.database import Store

    store = Store(tmp_path / "trainer.db")
    try:
        with store._reading.begin() as connection:
            asked = []
            event.listen(connection, "before_cursor_execute", lambda *given: asked.append(given[2:4]))
            jobs.page(connection, "p", **({"before": "", "limit": 50} | filters))
            text, values = asked[-1]
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values)]
        assert not [line for line in plan if "SCAN" in line or "TEMP B-TREE" in line], plan
    finally:
        store.close()
