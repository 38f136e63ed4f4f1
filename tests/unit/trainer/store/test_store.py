# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN003, ANN202, PT012 - inner functions are pieces of work for the store; a full disk may show at any of them
import sqlite3
import threading

import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_runtime.errors import AlreadyExists, FailedPrecondition, ResourceExhausted
from finetree_trainer.joblog.transaction import Draft
from finetree_trainer.store import attempts, events, jobs, schema
from finetree_trainer.store.database import Store
from finetree_trainer.store.migrations import MIGRATIONS, SchemaTooNewError
from sqlalchemy import MetaData, inspect, text


def put(store, row, texts, *, now=1000):
    """Append log lines to a job as one block."""

    def work(connection):
        draft = Draft(row, now)
        expected = row.attempt, row.last_seq
        for line in texts:
            draft.add(event_pb2.JobEvent(log_line=event_pb2.LogLine(text=line)))
        draft.seal()
        events.append(connection, row, draft.events, attempt=expected[0], last_seq=expected[1])

    store.submit(work).result()


def create(store, row):
    store.submit(lambda connection: jobs.create(connection, row, {"team": "x"})).result()


def seqs(found):
    return [event.seq for event in found]


def test_the_migrations_make_the_tables_that_the_queries_name(store):
    def compare(connection):
        found = inspect(connection)
        for table in schema.metadata.sorted_tables:
            columns = {column["name"]: column["nullable"] for column in found.get_columns(table.name)}
            assert set(columns) == {column.name for column in table.columns}, table.name
            keys = found.get_pk_constraint(table.name)["constrained_columns"]
            assert keys == [column.name for column in table.primary_key.columns], table.name
            assert {index["name"] for index in found.get_indexes(table.name)} >= {i.name for i in table.indexes}
        reflected = MetaData()
        reflected.reflect(connection)
        assert set(reflected.tables) == set(schema.metadata.tables)

    store.read_now(compare)


def test_a_database_is_migrated_once_and_keeps_its_epoch(tmp_path):
    first = Store(tmp_path / "a.db")
    epoch = first.log_epoch
    first.close()
    again = Store(tmp_path / "a.db")
    assert (again.log_epoch, again.schema_version) == (epoch, len(MIGRATIONS))
    again.close()
    other = Store(tmp_path / "b.db")
    assert other.log_epoch != epoch
    other.close()


def test_a_database_of_a_newer_version_is_refused(tmp_path):
    Store(tmp_path / "a.db").close()
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    connection.close()
    with pytest.raises(SchemaTooNewError):
        Store(tmp_path / "a.db")


def test_only_the_owner_can_read_the_database(store, tmp_path):
    assert (tmp_path / "trainer.db").stat().st_mode & 0o777 == 0o600


def test_every_commit_is_on_disk_before_it_is_told(store):
    def pragmas(connection):
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("synchronous", "journal_mode")]

    assert store.submit(pragmas).result() == [2, "wal"]


def test_work_that_fails_is_undone_alone_while_its_group_commits(store, new_row):
    started = threading.Event()
    go_on = threading.Event()

    def hold(_connection):
        started.set()
        go_on.wait(5)

    def fail(connection):
        jobs.create(connection, new_row("lost"), {})
        raise LookupError("on purpose")

    first = store.submit(hold)
    assert started.wait(5)
    # These three wait together, hence become one transaction.
    kept = store.submit(lambda connection: jobs.create(connection, new_row("a"), {}))
    broken = store.submit(fail)
    also = store.submit(lambda connection: jobs.create(connection, new_row("b"), {}))
    go_on.set()
    first.result(5)
    kept.result(5)
    also.result(5)
    with pytest.raises(LookupError):
        broken.result(5)
    there = store.read_now(lambda connection: [row.uid for row in jobs.page(connection, "p", before="", limit=9)])
    assert there == ["b", "a"]


def test_a_full_database_is_a_refusal_and_the_writer_goes_on(store, new_row):
    create(store, new_row())
    store.submit(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 1").scalar()).result()
    with pytest.raises(ResourceExhausted) as error:
        for number in range(200):
            create(store, new_row(f"x{number:03}", record=b"x" * 3000))
    assert error.value.reason == "DISK_FULL"
    store.submit(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 100000").scalar()).result()
    create(store, new_row("after"))


def test_events_are_read_after_any_number_whatever_their_blocks(store, new_row):
    row = new_row()
    create(store, row)
    for size in (1, 3, 2, 5, 1):
        put(store, row, [f"line {n}" for n in range(size)])
    assert row.last_seq == 12

    def after(number, blocks=16):
        return store.read_now(
            lambda connection: events.read_after(connection, "j1", number, last_seq=12, blocks=blocks)
        )

    for number in range(13):
        found, covered = after(number)
        assert seqs(found) == list(range(number + 1, 13))
        assert covered == 12
    found, covered = after(2, blocks=2)
    assert (seqs(found), covered) == ([3, 4, 5, 6], 6)


def test_a_kind_that_is_not_asked_for_is_passed_over(store, new_row):
    row = new_row()
    create(store, row)
    put(store, row, ["a", "b"])
    mask = events.kinds_mask([event_pb2.EVENT_KIND_STEP_METRICS])
    found = store.read_now(lambda connection: events.read_after(connection, "j1", 0, last_seq=2, mask=mask))
    assert found == ([], 2)


def test_events_are_read_backwards(store, new_row):
    row = new_row()
    create(store, row)
    for size in (2, 3, 1):
        put(store, row, ["x"] * size)

    def before(number, after=0, blocks=16):
        return store.read_now(
            lambda c: events.read_before(c, "j1", number, after=after, mask=events.ALL_KINDS, blocks=blocks)
        )

    assert seqs(before(7)[0]) == [6, 5, 4, 3, 2, 1]
    assert seqs(before(5, after=1)[0]) == [4, 3, 2]
    found, reached = before(7, blocks=2)
    assert (seqs(found), reached) == ([6, 5, 4, 3], 3)


def test_a_time_finds_the_event_before_it(store, new_row):
    row = new_row()
    create(store, row)
    for now in (1000, 2000, 3000):
        put(store, row, ["x", "y"], now=now)

    def at(time):
        return store.read_now(lambda connection: events.seq_before_time(connection, "j1", time, last_seq=6))

    assert [at(time) for time in (0, 999, 1000, 1999, 2500, 3000)] == [0, 0, 2, 2, 4, 6]


def test_the_fence_lets_no_stale_writer_through(store, new_row):
    row = new_row()
    create(store, row)
    put(store, row, ["first"])
    stale = new_row(last_seq=1)
    put(store, row, ["second"])
    with pytest.raises(events.StaleWriterError):
        put(store, stale, ["from the past"])
    other = new_row(last_seq=2, attempt=7)
    with pytest.raises(events.StaleWriterError):
        put(store, other, ["from another attempt"])
    found, _ = store.read_now(lambda connection: events.read_after(connection, "j1", 0, last_seq=2))
    assert [event.log_line.text for event in found] == ["first", "second"]


def test_a_damaged_block_is_said_to_be_so(store, new_row):
    row = new_row()
    create(store, row)
    put(store, row, ["x"])
    store.submit(lambda connection: connection.execute(text("UPDATE event_blocks SET payload = x'0a00'"))).result()
    with pytest.raises(FailedPrecondition) as error:
        store.read_now(lambda connection: events.read_after(connection, "j1", 0, last_seq=1))
    assert error.value.reason == "EVENTS_DAMAGED"


def test_retention_never_takes_the_last_block(store, new_row):
    row = new_row()
    create(store, row)
    for now in (1000, 2000, 3000):
        put(store, row, ["x", "y"], now=now)

    def expired(before):
        return store.read_now(lambda connection: events.expired_seq(connection, "j1", before))

    assert [expired(before) for before in (1000, 1500, 2500, 9000)] == [0, 2, 4, 4]
    store.submit(lambda connection: events.cut(connection, "j1", 5)).result()
    found, _ = store.read_now(lambda connection: events.read_after(connection, "j1", 4, last_seq=6))
    assert seqs(found) == [5, 6]
    loaded = store.read_now(lambda connection: jobs.load(connection, "j1"))
    assert loaded.oldest_seq == 5


def test_a_request_id_belongs_to_one_request_of_a_project(store):
    def claim(project="p", method="CreateJob", body="h", resource="r1"):
        return store.submit(
            lambda connection: jobs.claim_request_id(
                connection, project, "id", method=method, body_hash=body, resource=resource, now=1
            )
        ).result()

    assert claim() is None
    assert claim(resource="r2") == "r1"
    assert claim(project="q", resource="r3") is None
    for other in ({"body": "other"}, {"method": "CreateDataset"}):
        with pytest.raises(AlreadyExists) as error:
            claim(**other)
        assert error.value.reason == "REQUEST_ID_REUSED"


def test_what_changes_is_read_without_the_record(store, new_row):
    create(store, new_row(record=b"x" * 1000))
    assert store.read_now(lambda connection: jobs.load_hot(connection, "j1")).record == b""
    assert store.read_now(lambda connection: jobs.load(connection, "j1")).record == b"x" * 1000


def test_an_attempt_is_acknowledged_ended_and_counted_once(store):
    row = attempts.AttemptRow("j1", 1, "h", "w1", "wh", 42, "cpu/0", started=1)
    store.submit(lambda connection: attempts.create(connection, row)).result()

    def run(work):
        return store.submit(work).result()

    assert run(lambda connection: attempts.acknowledge(connection, row, 5, now=2))
    assert not run(lambda connection: attempts.acknowledge(connection, row, 6, now=2))
    assert run(lambda connection: attempts.load(connection, "j1", 1)).acknowledged == 5
    assert [found.worker for found in run(attempts.open_attempts)] == ["w1"]
    assert run(lambda connection: attempts.end(connection, "j1", 1, "SYSTEM", now=3))
    assert not run(lambda connection: attempts.end(connection, "j1", 1, "OTHER", now=4))
    assert run(attempts.open_attempts) == []
    assert run(lambda connection: attempts.count_by_cause(connection, "j1", "SYSTEM")) == 1


def test_jobs_are_found_by_label_state_and_dataset(store, new_row):
    create(store, new_row("a", state=job_pb2.JOB_STATE_QUEUED, dataset_uid="d1"))
    create(store, new_row("b", state=job_pb2.JOB_STATE_SUCCEEDED, evaluation_uid="d2"))

    def page(**filters):
        return [row.uid for row in store.read_now(lambda c: jobs.page(c, "p", before="", limit=9, **filters))]

    assert page() == ["b", "a"]
    assert page(states=[job_pb2.JOB_STATE_QUEUED]) == ["a"]
    assert page(labels={"team": "x"}) == ["b", "a"]
    assert page(labels={"team": "y"}) == []
    live = [job_pb2.JOB_STATE_QUEUED]
    assert store.read_now(lambda c: jobs.user_of_dataset(c, "d1", live)).uid == "a"
    assert store.read_now(lambda c: jobs.user_of_dataset(c, "d2", live)) is None
