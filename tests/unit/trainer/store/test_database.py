# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN202 - inner functions are pieces of work for the store


def test_only_the_owner_can_read_the_database(store, tmp_path):
    assert (tmp_path / "trainer.db").stat().st_mode & 0o777 == 0o600


def test_only_the_owner_can_read_what_is_not_yet_in_the_database(store, tmp_path):
    beside = [path for path in tmp_path.iterdir() if path.name.endswith(("-wal", "-shm"))]
    assert len(beside) == 2
    assert {path.stat().st_mode & 0o777 for path in beside} == {0o600}


def test_every_commit_is_on_disk_before_it_is_told(store):
    def pragmas(connection):
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("synchronous", "journal_mode")]

    assert store.submit(pragmas).result() == [2, "wal"]
