# SPDX-License-Identifier: Apache-2.0
"""A database is read in every state that a service leaves it in, and not a byte or a file is changed."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from finetree_runtime.config.settings import SettingsError
from finetree_trainer.jobs.stored.database import opened
from finetree_trainer.store.database import Store
from sqlalchemy import text

FILES = ("trainer.db", "trainer.db-wal", "trainer.db-shm")


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """Hash and time of change of every file of a folder."""
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in folder.iterdir()
    }


QUERY = "SELECT key FROM meta WHERE key LIKE 'test%' ORDER BY key"
READ = f"""
import sys
from pathlib import Path
from finetree_trainer.jobs.stored.database import opened
from sqlalchemy import text
with opened(Path(sys.argv[1])) as connection:
    print(*connection.execute(text({QUERY!r})).scalars(), sep=",")
"""


def values(folder: Path, *, apart: bool = False) -> list[str]:
    """What the reader sees, if need be in a process of its own; fails if that changes anything."""
    before = contents(folder)
    if apart:  # connections of one process share what one of them may write
        command = [sys.executable, "-c", READ, str(folder / "trainer.db")]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().split(",")
    else:
        with opened(folder / "trainer.db") as connection:
            found = list(connection.execute(text(QUERY)).scalars())
    assert contents(folder) == before
    return found


def put(store: Store, key: str) -> None:
    insert = text("INSERT INTO meta VALUES (:key, '')")
    store.submit(lambda connection: connection.execute(insert, {"key": key})).result()


def copy(source: Path, target: Path, *files: str) -> Path:
    target.mkdir()
    for name in files:
        shutil.copyfile(source / name, target / name)
    return target


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_what_is_stored_is_read_while_a_service_runs_was_killed_or_has_ended(folder, tmp_path):
    store = Store(folder / "trainer.db")
    put(store, "test 1")
    put(store, "test 2")
    assert values(folder, apart=True) == ["test 1", "test 2"]
    # Files that a kill leaves: what was committed last is in the log alone.
    assert values(copy(folder, tmp_path / "killed", *FILES)) == ["test 1", "test 2"]
    assert values(copy(folder, tmp_path / "copied", *FILES[:2])) == ["test 1", "test 2"]
    assert (folder / "trainer.db-wal").stat().st_size
    put(store, "test 3")
    assert values(folder, apart=True) == ["test 1", "test 2", "test 3"]
    store.close()
    assert [path.name for path in folder.iterdir()] == ["trainer.db"]
    assert values(folder) == ["test 1", "test 2", "test 3"]


def test_what_is_no_database_of_this_release_is_refused_with_its_reason(folder):
    def reason() -> str:
        with pytest.raises(SettingsError) as error, opened(folder / "trainer.db"):
            pass
        return error.value.reason

    assert reason() == "DATA_DIR_EMPTY"
    (folder / "trainer.db").write_bytes(b"no database" * 1000)
    assert reason() == "DATA_DIR_DAMAGED"
    (folder / "trainer.db").unlink()
    store = Store(folder / "trainer.db")
    store.submit(lambda c: c.exec_driver_sql("UPDATE meta SET value = '999' WHERE key = 'schema_version'")).result()
    store.close()
    before = contents(folder)
    assert reason() == "DATA_DIR_OTHER_VERSION"
    assert contents(folder) == before
