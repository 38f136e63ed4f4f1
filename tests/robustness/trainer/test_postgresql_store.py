# SPDX-License-Identifier: Apache-2.0
"""The store in PostgreSQL: the tests of its parts once more, and what becomes of commits, locks and limits."""

import contextlib
import importlib.util
import select
import socket
import threading
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path

import pytest
from finetree_runtime.config.settings import SettingsError
from finetree_runtime.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable
from finetree_trainer.store import events, jobs, migrations, schema
from finetree_trainer.store.backends import postgresql as backend_module
from finetree_trainer.store.backends.folder_mark import FolderMark
from finetree_trainer.store.backends.postgresql import PostgreSQL
from finetree_trainer.store.backends.url import parse
from finetree_trainer.store.database import Store
from finetree_trainer.store.migrations import MIGRATIONS, SchemaTooNewError
from postgresql_server import repeated
from sqlalchemy import inspect

UNIT = Path(__file__).parents[2] / "unit" / "trainer"

pytestmark = pytest.mark.slow(20)

_spec = importlib.util.spec_from_file_location("unit_fixtures", UNIT / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_unit = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_unit)
new_row, create_job, append_lines = _unit.new_row, _unit.create_job, _unit.append_lines

OF_EVENTS = repeated(UNIT / "store" / "test_events.py")
del OF_EVENTS["test_a_damaged_block_is_said_to_be_so"]  # it damages one with SQLite's words; below with the other's
globals().update(
    OF_EVENTS
    | repeated(UNIT / "store" / "test_jobs.py")
    | repeated(UNIT / "store" / "test_attempts.py")
    | repeated(UNIT / "store" / "test_request_ids.py")
    | repeated(UNIT / "joblog" / "test_transaction.py")
    | repeated(
        UNIT / "store" / "test_writer.py",
        "test_work_that_fails_is_undone_alone_while_its_group_commits",
        "test_a_connection_that_is_broken_is_replaced",
    )
)


@pytest.fixture
def database(postgresql):
    return postgresql.new_schema()


def mark_of(tmp_path, folder):
    return FolderMark(tmp_path / f"{folder}.json")


@pytest.fixture
def open_store(postgresql, database, tmp_path):
    """`open_store(port=…, folder=…)`: the store of the test's database; closed at the end."""
    opened = []

    def make(*, port=postgresql.port, folder="here") -> Store:
        url = parse(postgresql.url(database)).set(port=port)
        opened.append(Store(PostgreSQL(url, mark_of(tmp_path, folder))))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


@pytest.fixture
def store(open_store):
    return open_store()


def uids(store) -> list[str]:
    return store.read_now(lambda connection: [r.uid for r in jobs.page(connection, "p", before="", limit=9999)])


def create(store, row):
    return store.submit(lambda connection: jobs.create(connection, row, {}))


def insist(store, row, seconds=60):
    """Create a job, again while the database is away."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.1)):
        with contextlib.suppress(Unavailable):
            return create(store, row).result(60)
        pause.wait(0.1)
    raise AssertionError("the database never came back")


def test_the_migrations_make_the_tables_that_the_queries_name(store, postgresql, database):
    def compare(connection) -> None:
        found = inspect(connection)
        for table in schema.metadata.sorted_tables:
            columns = {column["name"] for column in found.get_columns(table.name)}
            assert columns - {"rowid"} == {column.name for column in table.columns}, table.name
            assert {index["name"] for index in found.get_indexes(table.name)} >= {i.name for i in table.indexes}

    store.read_now(compare)
    # Pages and cursors go by the bytes of a text, as in SQLite.
    texts = postgresql.run(
        "SELECT DISTINCT collation_name FROM information_schema.columns "
        "WHERE table_schema = current_schema() AND data_type = 'text'",
        database=database,
    )
    assert texts == [("C",)]


def test_an_older_database_is_brought_to_this_version_and_a_newer_one_refused(
    open_store, postgresql, database, new_row, monkeypatch
):
    monkeypatch.setattr(migrations, "MIGRATIONS", MIGRATIONS[:4])
    first = open_store()
    assert first.schema_version == 4
    first.close()
    monkeypatch.undo()
    again = open_store()
    assert (again.schema_version, again.log_epoch) == (len(MIGRATIONS), first.log_epoch)
    create(again, new_row("a")).result()
    again.close()
    postgresql.run("UPDATE meta SET value = '99' WHERE key = 'schema_version'", database=database)
    with pytest.raises(SchemaTooNewError):
        open_store()


def test_events_have_the_bytes_that_sqlite_keeps(store, tmp_path, new_row, append_lines, create_job):
    lines = ["straße", "雪", "\N{WAVING HAND SIGN}", "x" * 70_000]
    create_job(new_row())
    append_lines(new_row(), lines)
    embedded = Store(tmp_path / "trainer.db")
    create(embedded, new_row()).result()
    _unit.append_lines.__wrapped__(embedded)(new_row(), lines)

    def blocks(connection) -> list:
        return [tuple(row) for row in connection.execute(schema.event_blocks.select())]

    assert store.read_now(blocks) == embedded.read_now(blocks)
    embedded.close()


def test_a_damaged_block_is_said_to_be_so(store, postgresql, database, new_row, append_lines):
    create(store, new_row()).result()
    append_lines(new_row(), ["a"])
    postgresql.run("UPDATE event_blocks SET payload = '\\x0a00'", database=database)
    with pytest.raises(FailedPrecondition) as error:
        store.read_now(lambda connection: events.read_after(connection, "j1", 0, last_seq=1))
    assert error.value.reason == "EVENTS_DAMAGED"


def test_what_was_acknowledged_before_kill_9_of_the_server_is_there_and_both_sides_go_on(store, postgresql, new_row):
    acknowledged, stop = [], threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            row = new_row(f"j{number:05}")
            with contextlib.suppress(Unavailable):
                create(store, row).result(60)
                acknowledged.append(row.uid)
            number += 1

    writing = threading.Thread(target=write)
    writing.start()
    try:
        while len(acknowledged) < 20:
            stop.wait(0.01)
        postgresql.kill()
        before = len(acknowledged)
        postgresql.start()
        while len(acknowledged) < before + 5:
            stop.wait(0.01)
    finally:
        stop.set()
        writing.join()
    # The pool's connections are of the server that was killed: a read finds that out and is answered all the same.
    found = uids(store)
    assert set(acknowledged) <= set(found)
    assert len(found) - len(acknowledged) == 0


class Cut:
    """A proxy that loses the connection of a COMMIT: `before` the server has it, or `after`, with its answer."""

    def __init__(self, port: int) -> None:
        self.cut, self.closed, self.cuts = "", False, 0
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.closed:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._target))
                threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        with client, server, contextlib.suppress(OSError):
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is client and self.cut and b"COMMIT\0" in data:
                        kind, self.cut = self.cut, ""
                        self.cuts += 1
                        if kind == "after":
                            server.sendall(data)
                            server.recv(65536)
                        return
                    (server if source is client else client).sendall(data)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def proxy(postgresql):
    cut = Cut(postgresql.port)
    yield cut
    cut.close()


def test_a_commit_whose_answer_is_lost_is_acknowledged_and_made_once(open_store, proxy, new_row):
    store = open_store(port=proxy.port)
    proxy.cut = "after"
    create(store, new_row("a")).result(60)
    assert (proxy.cuts, uids(store)) == (1, ["a"])
    create(store, new_row("b")).result(60)


def test_a_commit_that_never_arrived_is_refused_and_nothing_of_it_is_stored(open_store, proxy, new_row):
    store = open_store(port=proxy.port)
    proxy.cut = "before"
    with pytest.raises(Unavailable) as error:
        create(store, new_row("a")).result(60)
    assert (error.value.reason, error.value.retry_delay) == ("STORE_UNAVAILABLE", 1.0)
    assert (proxy.cuts, uids(store)) == (1, [])
    create(store, new_row("a")).result(60)


def test_while_nobody_knows_what_became_of_a_commit_it_waits_and_others_are_refused(open_store, proxy, new_row):
    store = open_store(port=proxy.port)
    proxy.cut, proxy.closed = "after", True
    doubtful = create(store, new_row("a"))
    while not proxy.cuts:
        threading.Event().wait(0.01)
    with pytest.raises(Unavailable):
        create(store, new_row("b")).result(60)
    with pytest.raises(NotYet):
        doubtful.result(0)
    proxy.closed = False
    doubtful.result(60)
    assert "a" in uids(store)


def test_a_service_that_stops_meanwhile_does_not_say_that_it_is_stored(open_store, proxy, new_row):
    store = open_store(port=proxy.port)
    proxy.cut, proxy.closed = "after", True
    doubtful = create(store, new_row("a"))
    store._writer.close()
    with pytest.raises(Unavailable):
        doubtful.result(60)


def test_one_trainer_at_a_time_and_the_next_one_begins_when_the_lock_is_free(open_store, monkeypatch, new_row):
    monkeypatch.setattr(backend_module, "LOCK_SECONDS", 0.3)
    first = open_store()
    with pytest.raises(SettingsError) as error:
        open_store()
    assert error.value.reason == "DATABASE_IN_USE"
    create(first, new_row("a")).result()
    first.close()
    assert uids(open_store()) == ["a"]


def test_a_trainer_whose_database_was_taken_meanwhile_writes_nothing_ever_again(
    open_store, postgresql, database, new_row
):
    first = open_store()
    create(first, new_row("a")).result()
    # Its connection is lost, and before it has a new one another trainer was here and has gone.
    postgresql.run(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory'",
        database=database,
    )
    second = open_store()
    create(second, new_row("b")).result()
    second.close()
    for _ in range(3):
        with pytest.raises(Unavailable):
            create(first, new_row("c")).result(60)
    assert uids(first) == ["b", "a"]


def test_a_database_of_another_folder_is_refused_and_left_as_it_is(open_store, postgresql, database, monkeypatch):
    monkeypatch.setattr(migrations, "MIGRATIONS", MIGRATIONS[:4])
    open_store().close()
    monkeypatch.undo()
    with pytest.raises(SettingsError) as error:
        open_store(folder="there")
    assert error.value.reason == "DATABASE_OF_OTHER_FOLDER"
    version = postgresql.run("SELECT value FROM meta WHERE key = 'schema_version'", database=database)
    assert version == [("4",)]


def test_a_statement_that_takes_too_long_fails_alone_and_the_writer_goes_on(store, postgresql, database, new_row):
    def slow(connection) -> None:
        connection.exec_driver_sql("SET LOCAL statement_timeout = '50ms'")
        connection.exec_driver_sql("SELECT pg_sleep(20)")

    failing = store.submit(slow)
    with pytest.raises(Unavailable):
        failing.result(60)
    create(store, new_row("a")).result(60)
    assert uids(store) == ["a"]


def test_a_full_disk_of_the_server_is_named(store, postgresql, database, new_row):
    postgresql.run(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$;",
        database=database,
    )
    postgresql.run(
        "CREATE TRIGGER full_disk BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION full_disk()", database=database
    )
    with pytest.raises(ResourceExhausted) as error:
        create(store, new_row("a")).result(60)
    assert error.value.reason == "DISK_FULL"
    postgresql.run("DROP TRIGGER full_disk ON jobs", database=database)
    create(store, new_row("a")).result(60)


def test_a_text_that_the_server_cannot_store_is_refused_as_the_callers_and_changes_nothing(store, new_row):
    with pytest.raises(InvalidArgument) as error:
        store.submit(lambda connection: jobs.create(connection, new_row("a"), {"team": "a\0b"})).result(60)
    assert error.value.reason == "INVALID_REQUEST"
    assert uids(store) == []


def test_tables_that_somebody_has_changed_are_damage_not_an_outage(store, postgresql, database, new_row):
    postgresql.run("ALTER TABLE job_labels RENAME TO other", database=database)
    with pytest.raises(FailedPrecondition) as error:
        create(store, new_row("a")).result(60) or store.submit(
            lambda connection: jobs.replace_record(connection, "a", b"", {"k": "v"})
        ).result(60)
    assert error.value.reason == "STORE_DAMAGED"


@pytest.mark.parametrize(
    ("make", "reason", "words"),
    [
        ("ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0", "DATABASE_UNSUPPORTED", "LATIN1"),
        ("", "DATABASE_READ_ONLY", "takes no writes"),
    ],
)
def test_a_database_that_cannot_be_used_is_refused(postgresql, tmp_path, make, reason, words):
    name = postgresql.new_database(options=make)
    if not make:
        postgresql.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(SettingsError) as error:
        Store(PostgreSQL(parse(postgresql.url(name)), mark_of(tmp_path, "here")))
    assert error.value.reason == reason
    assert words in str(error.value)
    assert postgresql.run("SELECT COUNT(*) FROM pg_class WHERE relname = 'meta'", database=name) == [(0,)]


def test_a_server_that_is_too_old_is_refused(postgresql, database, tmp_path, monkeypatch):
    monkeypatch.setattr(backend_module, "OLDEST_SERVER", 990000)
    with pytest.raises(SettingsError) as error:
        Store(PostgreSQL(parse(postgresql.url(database)), mark_of(tmp_path, "here")))
    assert error.value.reason == "DATABASE_UNSUPPORTED"
    assert "PostgreSQL 16" in str(error.value)
