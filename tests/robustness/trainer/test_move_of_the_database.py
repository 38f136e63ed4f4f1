# SPDX-License-Identifier: Apache-2.0
"""A data folder's database is moved to a server and back: every row of it, or nothing, wherever the move is killed."""

import contextlib
import fcntl
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from finetree_cli.app import cli
from finetree_data.fail_points import VARIABLE
from finetree_runtime.config.settings import SecretUrl, SettingsError
from finetree_trainer.layout import Layout
from finetree_trainer.store.backends.opening import open_store
from finetree_trainer.store.database import Store
from finetree_trainer.store.migrations import MIGRATIONS
from finetree_trainer.store.move.__main__ import main
from finetree_trainer.store.schema import metadata
from sqlalchemy import text

RELEASED = Path(__file__).parents[2] / "unit/trainer/store/released/schema-5.sql"
URL = "FINETREE_TRAINER_DATABASE_URL"
LIMIT_SECONDS = 60.0

pytestmark = pytest.mark.slow(10)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """The folder of a stopped trainer with three jobs that a release has left, and blocks for many batches."""
    layout = Layout(tmp_path_factory.mktemp("stopped"))
    layout.service_lock.touch()
    with contextlib.closing(sqlite3.connect(layout.database)) as connection:
        connection.executescript(RELEASED.read_text(encoding="utf-8"))
    store = Store(layout.database)
    block = "INSERT INTO event_blocks VALUES ('more', :n, :n, 1, 1, 2, 3, 4, 5, :payload)"
    rows = [{"n": number, "payload": bytes([number % 256]) * 300} for number in range(1, 700)]
    store.submit(lambda connection: connection.execute(text(block), rows)).result()
    # Deleted blocks leave holes in the positions, which cursors of projects name.
    store.submit(lambda connection: connection.execute(text("DELETE FROM event_blocks WHERE first_seq = 17"))).result()
    store.close()
    return layout.root


@pytest.fixture
def layout(tmp_path, stopped) -> Layout:
    return Layout(Path(shutil.copytree(stopped, tmp_path / "data")))


@pytest.fixture
def url(postgresql, monkeypatch) -> str:
    found = postgresql.url(postgresql.new_schema())
    monkeypatch.setenv(URL, found)
    return found


def move(target: str, layout: Layout) -> tuple[int, dict[str, Any]]:
    """Run the program in this process."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = main([target, str(layout.root)])
    return code, json.loads(printed.getvalue().splitlines()[-1])


def refusal(target: str, layout: Layout) -> str:
    code, document = move(target, layout)
    assert code == 1, document
    return document["error"]["reason"]


def killed_at(point: str, target: str, layout: Layout) -> None:
    words = [sys.executable, "-P", "-m", "finetree_trainer.store.move", target, str(layout.root)]
    done = subprocess.run(words, env=os.environ | {VARIABLE: point}, stdout=subprocess.DEVNULL, check=False)
    assert done.returncode == -signal.SIGKILL


def rows_in(database: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of a file, with the positions of blocks, read without the code under test."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        found = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in metadata.tables}
        found["positions"] = connection.execute("SELECT rowid, job_uid, first_seq FROM event_blocks").fetchall()
    return {name: sorted(rows) for name, rows in found.items()}


def until_the_server_has_let_go(postgresql) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while postgresql.run("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_everything_is_moved_to_a_server_and_back(layout, url):
    before = rows_in(layout.database)
    code, document = move("postgresql", layout)
    assert code == 0, document
    assert {name: each["rows"] for name, each in document["result"]["tables"].items()} == {
        name: len(rows) for name, rows in before.items() if name != "positions"
    }
    assert sorted(path.name for path in layout.root.iterdir()) == [
        "database.json",
        "service.lock",
        document["result"]["kept"],
    ]
    assert rows_in(layout.root / document["result"]["kept"]) == before

    store = open_store(layout, SecretUrl(url))
    try:
        assert [("log_epoch", store.log_epoch)] == [row for row in before["meta"] if row[0] == "log_epoch"]
        newest = max(position for position, *_ in before["positions"])
        new = "INSERT INTO event_blocks VALUES ('new', 1, 1, 1, 1, 2, 3, 4, 5, '') RETURNING rowid"
        assert store.submit(lambda connection: connection.execute(text(new)).scalar()).result() > newest
        store.submit(lambda connection: connection.execute(text("DELETE FROM event_blocks WHERE job_uid = 'new'")))
    finally:
        store.close()

    # The command, on the folder of a suite.
    told = CliRunner().invoke(cli, ["database", "move", "--to", "embedded", "--data-dir", str(layout.root), "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["tables"] == document["result"]["tables"]
    assert rows_in(layout.database) == before
    assert not layout.database_mark.exists()
    open_store(layout, SecretUrl()).close()
    # The tables on the server are of no folder now, and nobody writes over them.
    assert refusal("postgresql", layout) == "DATABASE_OF_OTHER_FOLDER"


@pytest.mark.parametrize("point", ["move.before_commit", "move.after_commit", "move.before_end"])
def test_a_move_to_a_server_that_is_killed_is_run_again(layout, url, postgresql, point):
    before = rows_in(layout.database)
    killed_at(point, "postgresql", layout)
    if point == "move.before_end":  # both are whole: neither may go on alone
        for given in (SecretUrl(), SecretUrl(url)):
            with pytest.raises(SettingsError) as refused:
                open_store(layout, given)
            assert refused.value.reason == "DATA_DIR_UNFINISHED"
    else:  # a trainer may go on in the folder, and what it writes is moved too
        store = open_store(layout, SecretUrl())
        store.submit(lambda c: c.execute(text("INSERT INTO uploaded_bytes VALUES ('p', 'me', 'day', 9)"))).result()
        store.close()
        before["uploaded_bytes"].append(("p", "me", "day", 9))
    until_the_server_has_let_go(postgresql)
    code, document = move("postgresql", layout)
    assert code == 0, document
    assert rows_in(layout.root / document["result"]["kept"]) == before
    open_store(layout, SecretUrl(url)).close()
    assert document["result"]["tables"]["uploaded_bytes"]["rows"] == len(before["uploaded_bytes"])


def test_a_move_into_the_folder_that_is_killed_is_run_again(layout, url, postgresql):
    before = rows_in(layout.database)
    assert move("postgresql", layout)[0] == 0
    killed_at("move.before_end", "embedded", layout)
    until_the_server_has_let_go(postgresql)
    code, document = move("embedded", layout)
    assert code == 0, document
    assert rows_in(layout.database) == before
    open_store(layout, SecretUrl()).close()


def change(database: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute(statement)
        connection.commit()


def damage(layout: Layout) -> None:
    content = bytearray(layout.database.read_bytes())
    content[4096 * 3 : 4096 * 12] = os.urandom(4096 * 9)
    layout.database.write_bytes(content)


REFUSED = {
    "DATA_DIR_OTHER_VERSION": lambda layout: change(
        layout.database, f"UPDATE meta SET value = '{len(MIGRATIONS) + 1}' WHERE key = 'schema_version'"
    ),
    "DATA_DIR_DAMAGED": damage,
    "DATABASE_UNUSABLE": lambda layout: change(layout.database, "UPDATE jobs SET owner = 'a' || char(0)"),
    "DATA_DIR_UNFINISHED": lambda layout: layout.restoring.write_text("{}"),
    "DATA_DIR_EMPTY": lambda layout: layout.database.unlink(),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_folder_that_cannot_be_moved_stays_as_it_was(layout, url, postgresql, reason):
    REFUSED[reason](layout)
    content = layout.database.read_bytes() if layout.database.exists() else b""
    assert refusal("postgresql", layout) == reason
    assert (layout.database.read_bytes() if layout.database.exists() else b"") == content
    assert not layout.database_mark.exists()
    assert not postgresql.run("SELECT 1 FROM pg_tables WHERE schemaname = current_schema()", database=schema_of(url))


def schema_of(url: str) -> str:
    return url.rpartition("search_path%3D")[2]


def test_a_database_of_an_older_release_is_refused(layout, url):
    change(layout.database, "UPDATE meta SET value = '5' WHERE key = 'schema_version'")
    assert refusal("postgresql", layout) == "DATA_DIR_OTHER_VERSION"


def test_a_folder_in_use_and_what_is_where_it_should_be_are_refused(layout, url, monkeypatch):
    with layout.service_lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert refusal("postgresql", layout) == "DATA_DIR_IN_USE"
    assert refusal("embedded", layout) == "DATA_DIR_NOT_ON_SERVER"
    assert move("postgresql", layout)[0] == 0
    assert refusal("postgresql", layout) == "DATA_DIR_ON_SERVER"
    monkeypatch.delenv(URL)
    assert refusal("embedded", layout) == "DATABASE_URL_MISSING"


def test_another_database_than_the_folders_is_refused(layout, url, postgresql, monkeypatch, tmp_path):
    other = Layout(tmp_path / "other")
    other.root.mkdir()
    open_store(other, SecretUrl(url)).close()
    assert refusal("postgresql", layout) == "DATABASE_OF_OTHER_FOLDER"
    schema = postgresql.new_schema()
    monkeypatch.setenv(URL, postgresql.url(schema))
    postgresql.run("CREATE TABLE jobs (name TEXT)", database=schema)
    assert refusal("postgresql", layout) == "DATABASE_NOT_EMPTY"
    postgresql.run("DROP TABLE jobs", database=schema)
    assert move("postgresql", layout)[0] == 0
    monkeypatch.setenv(URL, postgresql.url(postgresql.new_schema()))
    assert refusal("embedded", layout) == "DATABASE_OF_OTHER_FOLDER"
    monkeypatch.setenv(URL, postgresql.url(schema))
    newer = f"UPDATE meta SET value = '{len(MIGRATIONS) + 1}' WHERE key = 'schema_version'"
    postgresql.run(newer, database=schema)
    assert refusal("embedded", layout) == "DATABASE_OTHER_VERSION"
