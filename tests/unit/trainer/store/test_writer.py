# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN202, PT012 - inner functions are pieces of work for the store; a full disk may show at any of them
import sqlite3
import threading

import pytest
from finetree_runtime.errors import ResourceExhausted, Unavailable
from finetree_trainer.store import jobs
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs


def test_work_that_fails_is_undone_alone_while_its_group_commits(store, new_row):
    started = threading.Event()
    go_on = threading.Event()

    def hold(_connection):
        started.set()
        go_on.wait(60)

    def fail(connection):
        jobs.create(connection, new_row("lost"), {})
        raise LookupError("on purpose")

    first = store.submit(hold)
    assert started.wait(60)
    # These three wait together, hence become one transaction.
    kept = store.submit(lambda connection: jobs.create(connection, new_row("a"), {}))
    broken = store.submit(fail)
    also = store.submit(lambda connection: jobs.create(connection, new_row("b"), {}))
    go_on.set()
    first.result(60)
    kept.result(60)
    also.result(60)
    with pytest.raises(LookupError):
        broken.result(60)
    there = store.read_now(lambda connection: [row.uid for row in jobs.page(connection, "p", before="", limit=9)])
    assert there == ["b", "a"]


def test_a_full_database_is_a_refusal_and_the_writer_goes_on(store, new_row, create_job):
    create_job(new_row())
    store.submit(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 1").scalar()).result()
    with pytest.raises(ResourceExhausted) as error:
        for number in range(200):
            create_job(new_row(f"x{number:03}", record=b"x" * 3000))
    assert error.value.reason == "DISK_FULL"
    store.submit(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 100000").scalar()).result()
    create_job(new_row("after"))


def test_a_commit_that_fails_and_stays_open_does_not_keep_the_next_one_from_its_turn(store, new_row, create_job):
    failures = [sqlite3.OperationalError("disk I/O error")]

    def fail_once(_connection):
        if failures:
            raise OperationalError("COMMIT", None, failures.pop())

    event.listen(store._writing, "commit", fail_once)
    with pytest.raises(Unavailable):
        create_job(new_row("lost"))
    create_job(new_row("kept"))
    there = store.read_now(lambda connection: [row.uid for row in jobs.page(connection, "p", before="", limit=9)])
    assert there == ["kept"]


def test_a_connection_that_is_broken_is_replaced(store, new_row, create_job):
    with pytest.raises(Unavailable):
        store.submit(lambda connection: connection.connection.dbapi_connection.close()).result(60)
    create_job(new_row("kept"))


def test_the_writer_outlives_whoever_measures_its_commits(store, new_row, create_job):
    def fail(_seconds, _changes):
        raise ZeroDivisionError

    store.on_commit = fail
    with capture_logs() as told:
        store.submit(lambda connection: jobs.create(connection, new_row("kept"), {})).result(60)
    assert [line["event"] for line in told] == ["commit_not_measured"]
    assert isinstance(told[0]["exc_info"], ZeroDivisionError)
    store.submit(lambda connection: jobs.create(connection, new_row("too"), {})).result(60)


def test_a_connection_that_cannot_be_cleaned_is_never_used_again(store, new_row, create_job, monkeypatch):
    failures = [sqlite3.OperationalError("disk I/O error")]

    def fail_once(_connection):
        if failures:
            raise OperationalError("COMMIT", None, failures.pop())

    def unable(_connection):
        raise ZeroDivisionError

    connections = [store.submit(lambda connection: connection.connection.dbapi_connection).result(60)]
    event.listen(store._writing, "commit", fail_once)
    monkeypatch.setattr(store._backend, "abandon", unable)
    with capture_logs() as told, pytest.raises(Unavailable):
        store.submit(lambda connection: jobs.create(connection, new_row("lost"), {})).result(60)
    assert [line["event"] for line in told] == ["connection_not_abandoned"]
    assert isinstance(told[0]["exc_info"], ZeroDivisionError)
    store.submit(lambda connection: jobs.create(connection, new_row("kept"), {})).result(60)
    there = store.read_now(lambda connection: [row.uid for row in jobs.page(connection, "p", before="", limit=9)])
    assert there == ["kept"]
    connections.append(store.submit(lambda connection: connection.connection.dbapi_connection).result(60))
    assert connections[0] is not connections[1]
