# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN202 - inner functions are pieces of work for the store
"""What the disk has damaged is named or unchanged, and never served as if it were what was written."""

import random
import sqlite3
from contextlib import closing

import pytest
from finetree_api.trainer.v1 import job_pb2
from finetree_runtime.errors import DomainError
from finetree_trainer.store import events, jobs
from finetree_trainer.store.backends.failures import is_corrupt
from finetree_trainer.store.database import Store
from finetree_trainer.store.migrations import MIGRATIONS, SchemaTooNewError
from finetree_trainer.store.sealed import Damaged, seal, unseal
from sqlalchemy.exc import DatabaseError

NAMED = {"EVENTS_DAMAGED", "RECORD_DAMAGED", "STORE_DAMAGED", "DATA_DIR_DAMAGED", "DATA_DIR_TOO_NEW"}


@pytest.fixture
def file(tmp_path, new_row):
    """A database of one job with 40 events in 14 blocks, all of it in its file."""
    path = tmp_path / "a.db"
    store = Store(path)
    row = new_row(record=job_pb2.Job(uid="j1", display_name="a name that is to survive " * 20).SerializeToString())
    store.submit(lambda connection: jobs.create(connection, row, {})).result()
    for block in range(14):

        def work(connection, block=block):
            transaction = _transaction(row)
            expected = row.attempt, row.last_seq
            for line in range(3 if block < 13 else 1):
                transaction.add(_line(f"line {line} of block {block}: " + "x" * 150))
            transaction.flush()
            events.append(connection, row, transaction.events, attempt=expected[0], last_seq=expected[1])

        store.submit(work).result()
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def _transaction(row):
    from finetree_trainer.joblog.transaction import Transaction

    return Transaction(row, 1000)


def _line(text):
    from finetree_api.trainer.v1 import event_pb2

    return event_pb2.JobEvent(log_line=event_pb2.LogLine(text=text))


def read_all(path):
    """The job's record, and its events read forwards, backwards and by a filter."""
    store = Store(path)
    try:

        def load(connection):
            row, reach = jobs.load(connection, "j1"), jobs.span(connection, "j1")
            if row is None or reach is None:
                return None
            end = reach.last_seq
            forwards, _ = events.read_after(connection, "j1", 0, last_seq=end, blocks=100)
            backwards, _ = events.read_before(connection, "j1", end + 1, after=0, mask=events.ALL_KINDS, blocks=100)
            assert list(reversed(backwards)) == forwards
            return row.record, [event.SerializeToString() for event in forwards]

        return store.read_now(load)
    finally:
        store.close()


def outcome_of(path):
    """What is read, or the reason why it is not."""
    try:
        return read_all(path)
    except DomainError as error:
        return error.reason
    except SchemaTooNewError:
        return "DATA_DIR_TOO_NEW"
    except DatabaseError as error:  # while it is opened
        return "DATA_DIR_DAMAGED" if is_corrupt(error) else str(error)


def test_a_flipped_bit_anywhere_in_the_file_is_named_or_changes_nothing_that_is_served(file, tmp_path):
    whole, content, chance = read_all(file), file.read_bytes(), random.Random(5)
    assert len(whole[1]) == 40
    named = unchanged = 0
    for number in range(150):
        flipped = bytearray(content)
        flipped[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path = tmp_path / f"{number}.db"
        path.write_bytes(flipped)
        outcome = outcome_of(path)
        if isinstance(outcome, str):
            assert outcome in NAMED
            named += 1
        else:
            # A bit of a job's uid or number may make it another job, or none: it is not found then.
            assert outcome is None or outcome == whole
            unchanged += 1
        path.unlink()
    assert named > 8
    assert unchanged > 30


@pytest.mark.parametrize("place", [0, 5, 13])
def test_a_missing_block_is_named_with_the_numbers_that_are_missing(file, place):
    with closing(sqlite3.connect(file)) as connection, connection:
        first = 1 + 3 * place
        assert connection.execute("DELETE FROM event_blocks WHERE first_seq = ?", (first,)).rowcount == 1
    with pytest.raises(DomainError, match=f"Events {first} to ") as error:
        read_all(file)
    assert error.value.reason == "EVENTS_DAMAGED"


def test_a_database_without_checksums_gets_them_once(file):
    whole = read_all(file)
    with closing(sqlite3.connect(file)) as connection, connection:
        for table, column in (("jobs", "snapshot"), ("job_records", "record")):
            for key, sealed in connection.execute(f"SELECT uid, {column} FROM {table}").fetchall():
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE uid = ?", (sealed[:-4], key))
        for later in ("sweeps", "removed_jobs", "job_costs", "uploaded_bytes"):
            connection.execute(f"DROP TABLE {later}")
        for column in ("priority", "place"):
            connection.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
        connection.execute("UPDATE meta SET value = '1' WHERE key = 'schema_version'")
    assert read_all(file) == whole
    assert read_all(file) == whole
    assert len(MIGRATIONS) == 6


@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256))])
def test_bytes_come_back_from_under_their_checksum(content):
    assert unseal(seal(content)) == content
    assert not isinstance(unseal(seal(content)), Damaged)
    for place in range(min(len(content) + 4, 12)):
        bent = bytearray(seal(content))
        bent[place] ^= 4
        assert isinstance(unseal(bytes(bent)), Damaged)
    assert isinstance(unseal("text"), Damaged)
