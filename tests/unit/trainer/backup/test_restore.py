# SPDX-License-Identifier: Apache-2.0
"""A backup in a folder again: every byte, another epoch, no attempt of a worker that may live on."""

import errno
import fcntl
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from finetree_runtime.config.settings import SettingsError
from finetree_trainer.backup.create import Sources, create
from finetree_trainer.backup.restore import choose, restore
from finetree_trainer.layout import Layout
from finetree_trainer.workers.process import Liveness, liveness


def rows(folder, query):
    with closing(sqlite3.connect(folder / "trainer.db")) as connection:
        return connection.execute(query).fetchall()


def reason_of(call, *arguments: object, **more: object) -> str:
    with pytest.raises(SettingsError) as error:
        call(*arguments, **more)
    return error.value.reason


@pytest.fixture
def made(data):
    os.utime(data.root / "jobs/runs/checkpoints/step-00000002", ns=(10**18, 10**18))
    return create(data.repository, data.sources).manifest


def test_every_file_is_as_it_was(data, made, tmp_path):
    restore(data.repository, made, tmp_path / "new")
    for file in made.files:
        path = file.path.removeprefix("trainer/")
        if path != "trainer.db":
            restored = tmp_path / "new" / path
            assert restored.read_bytes() == (data.root / path).read_bytes()[: file.size]
            assert restored.stat().st_mtime_ns == file.modified_ns
            assert restored.stat().st_mode & 0o777 == 0o600
    # Retention counts a checkpoint's age from its folder's time.
    assert (tmp_path / "new/jobs/runs/checkpoints/step-00000002").stat().st_mtime_ns == 10**18
    assert not Layout(tmp_path / "new").restoring.exists()


def test_the_log_has_another_epoch_and_open_attempts_have_no_worker(data, made, tmp_path):
    new = tmp_path / "new"
    restore(data.repository, made, new)
    epoch = "SELECT value FROM meta WHERE key = 'log_epoch'"
    assert rows(new, epoch) != rows(data.root, epoch)
    attempts = {job: more for job, *more in rows(new, "SELECT job_uid, token_hash, pid, cause FROM attempts")}
    assert attempts["ended"] == ["old", 0, ""]
    assert attempts["runs"][0] != "old"
    assert attempts["runs"][1:] == [0, "INTERRUPTED"]
    assert liveness(new / "workers/w1") is Liveness.DEAD
    again = tmp_path / "again"
    restore(data.repository, made, again)
    assert rows(again, epoch) != rows(new, epoch)


def test_the_newest_that_is_not_after_a_time_is_chosen(data, made):
    second = create(data.repository, data.sources).manifest
    assert choose(data.repository).id == second.id
    assert choose(data.repository, at=datetime.fromisoformat(made.time)).id == made.id
    assert choose(data.repository, at=datetime.now(UTC)).id == second.id
    assert choose(data.repository, backup=made.id).id == made.id
    assert reason_of(choose, data.repository, at=datetime(2020, 1, 1, tzinfo=UTC)) == "BACKUP_NOT_FOUND"


def test_a_folder_with_data_is_not_touched(data, made):
    before = sorted(data.root.rglob("*"))
    assert reason_of(restore, data.repository, made, data.root) == "RESTORE_TARGET_NOT_EMPTY"
    assert [path for path in sorted(data.root.rglob("*")) if path.name != "service.lock"] == before


def test_a_process_that_ends_while_it_is_looked_at_is_no_worker(data, made, tmp_path, monkeypatch):
    """A look into the folder of a process that ends in that moment finds no such process (ESRCH), not no such file."""
    real = Path.stat

    def stat(path, **more: object) -> os.stat_result:
        if path.name == "cmdline":
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), str(path))
        return real(path, **more)

    monkeypatch.setattr(Path, "stat", stat)
    restore(data.repository, made, tmp_path / "new")
    assert not Layout(tmp_path / "new").restoring.exists()


def test_a_folder_in_use_is_refused(data, made, tmp_path):
    new = tmp_path / "new"
    new.mkdir()
    with (new / "service.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert reason_of(restore, data.repository, made, new) == "RESTORE_TARGET_IN_USE"


def test_a_damaged_piece_leaves_an_empty_folder(data, made, tmp_path):
    piece = next(file.pieces[0] for file in made.files if file.path.endswith("job.log"))
    (data.backups / "pieces" / piece[:2] / piece).unlink()
    assert reason_of(restore, data.repository, made, tmp_path / "new") == "BACKUP_DAMAGED"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["service.lock"]


def test_what_a_killed_restore_has_left_is_replaced(data, made, tmp_path):
    new = tmp_path / "new"
    (new / "jobs/runs").mkdir(parents=True)
    (new / "jobs/runs/half").write_bytes(b"half")
    Layout(new).restoring.write_text("{}")
    restore(data.repository, made, new)
    assert not (new / "jobs/runs/half").exists()
    assert rows(new, "SELECT COUNT(*) FROM jobs") == [(2,)]


def test_the_folders_of_a_suite_come_back_as_two(data, tmp_path):
    suite = tmp_path / "suite"
    suite.mkdir()
    data.root.rename(suite / "trainer")
    (suite / "estimator").mkdir()
    with closing(sqlite3.connect(suite / "estimator/observations.db")) as connection:
        connection.execute("CREATE TABLE observations (job TEXT)")
    manifest = create(data.repository, Sources.of(suite)).manifest
    done = restore(data.repository, manifest, tmp_path / "new")
    assert done.folders == {"trainer": tmp_path / "new/trainer", "estimator": tmp_path / "new/estimator"}
    assert (tmp_path / "new/estimator/observations.db").is_file()
    assert not list((tmp_path / "new").rglob("restoring.json"))


def test_an_estimator_of_its_own_is_restored_where_a_folder_is_named(data, tmp_path):
    own = tmp_path / "estimator"
    own.mkdir()
    with closing(sqlite3.connect(own / "observations.db")) as connection:
        connection.execute("CREATE TABLE observations (job TEXT)")
    manifest = create(data.repository, Sources.of(data.root, own)).manifest
    assert set(restore(data.repository, manifest, tmp_path / "a").folders) == {"trainer"}
    done = restore(data.repository, manifest, tmp_path / "b", estimator_dir=tmp_path / "c")
    assert done.folders == {"trainer": tmp_path / "b", "estimator": tmp_path / "c"}
    assert (tmp_path / "c/observations.db").is_file()
