# SPDX-License-Identifier: Apache-2.0
"""Databases that released versions have left, brought to the newest tables: nothing of them changes for a client.

The texts are made by tests/robustness/upgrade/stored_database.py, once for each release that has changed the tables.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from finetree_api.trainer.v1 import event_log_pb2, event_pb2, job_pb2
from finetree_trainer.joblog import cursor
from finetree_trainer.store import events, jobs
from finetree_trainer.store.database import Store
from finetree_trainer.store.migrations import MIGRATIONS

TEXTS = sorted((Path(__file__).parent / "released").glob("schema-*.sql"))


def stored_events(database: Path) -> dict[str, list[event_pb2.JobEvent]]:
    """Every job's events, read from the blocks without the code under test."""
    found: dict[str, list[event_pb2.JobEvent]] = {}
    with closing(sqlite3.connect(database)) as connection:
        for uid, payload in connection.execute(
            "SELECT job_uid, payload FROM event_blocks ORDER BY job_uid, first_seq"
        ).fetchall():
            found.setdefault(uid, []).extend(event_log_pb2.WatchJobResponse.FromString(payload).events)
    return found


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.stem)
def test_a_released_database_is_brought_to_the_newest_tables(tmp_path, text):
    file = tmp_path / "trainer.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(text.read_text(encoding="utf-8"))
        epoch = connection.execute("SELECT value FROM meta WHERE key = 'log_epoch'").fetchone()[0]
        was = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()[0]
    assert text.stem == f"schema-{was}"
    before = stored_events(file)
    store = Store(file)
    try:
        assert store.schema_version == len(MIGRATIONS)
        assert stored_events(file) == before
        assert len(before) == 3
        assert store.log_epoch == epoch  # cursors hold
        states = []
        for uid, expected in before.items():
            row = store.read_now(lambda connection, uid=uid: jobs.load(connection, uid))
            assert row is not None
            assert not row.damaged
            assert row.last_seq == len(expected)
            states.append(row.state)
            place = cursor.encode(epoch, uid, 1)
            after = cursor.decode(place, store.log_epoch, uid)
            read, _ = store.read_now(
                lambda connection, uid=uid, after=after, row=row: events.read_after(
                    connection, uid, after, last_seq=row.last_seq, blocks=100
                )
            )
            assert list(read) == expected[1:]
        assert job_pb2.JOB_STATE_SUCCEEDED in states
        assert job_pb2.JOB_STATE_QUEUED in states
    finally:
        store.close()


def test_the_oldest_release_that_can_be_upgraded_is_among_them():
    assert TEXTS[0].stem == "schema-1"
