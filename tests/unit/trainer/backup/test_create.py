# SPDX-License-Identifier: Apache-2.0
"""What a backup holds: what the database names, and nothing else."""

import os
import shutil
import sqlite3
from contextlib import closing

import pytest
from finetree_runtime.config.settings import SettingsError
from finetree_trainer.backup import create as module
from finetree_trainer.backup.contents import Contents
from finetree_trainer.backup.create import Sources, create
from finetree_trainer.backup.database_copy import View
from finetree_trainer.backup.manifest import SUITE
from finetree_trainer.layout import Layout
from finetree_trainer.store import schema

EXPECTED = {
    "trainer/models/hub/acme/c1/config.json",
    "trainer/jobs/ended/attempts/1/artifacts/adapter/weights.bin",
    "trainer/jobs/runs/attempts/1/job.log",
    "trainer/jobs/runs/attempts/1/journal.bin",
    "trainer/jobs/runs/checkpoints/step-00000002/manifest.json",
    "trainer/trainer.db",
    "trainer/uploads/d2.part",
}


def paths(manifest):
    return {file.path for file in manifest.files if not file.path.startswith("trainer/datasets/")}


def test_it_holds_what_the_database_names_and_no_draft(data):
    found = create(data.repository, data.sources).manifest
    assert paths(found) == EXPECTED
    assert sum(file.path.startswith("trainer/datasets/") for file in found.files) == 1
    assert next(file.size for file in found.files if file.path == "trainer/uploads/d2.part") == 4
    assert (found.jobs, found.live, found.missing) == (2, ("projects/p/jobs/runs",), ())
    listed = [file.path for file in found.files]
    checkpoint = listed.index("trainer/jobs/runs/checkpoints/step-00000002/manifest.json")
    assert checkpoint < listed.index("trainer/jobs/runs/attempts/1/journal.bin")


def test_base_models_can_be_left_out(data):
    found = create(data.repository, data.sources, with_models=False).manifest
    assert paths(found) == EXPECTED - {"trainer/models/hub/acme/c1/config.json"}


def test_the_second_one_writes_what_is_new_alone(data):
    repository = data.repository
    first = create(repository, data.sources)
    data.write("jobs/runs/attempts/1/job.log", b"log and a second line")
    second = create(data.repository, data.sources)
    assert second.written == len(b"log and a second line")
    assert [file.sha256 for file in first.manifest.files if file.path.endswith("rows.jsonl")] == [
        file.sha256 for file in second.manifest.files if file.path.endswith("rows.jsonl")
    ]
    assert repository.ids() == [first.manifest.id, second.manifest.id]


def test_what_is_removed_between_the_database_and_the_files_is_in_no_backup(data, monkeypatch):
    """Retention removes the row first and the folder then: the second view does not name it any more."""
    listed = module.contents_of

    def removed(layout: Layout, view: View, *, with_models: bool) -> Contents:
        found = listed(layout, view, with_models=with_models)
        if "ended" in view.jobs:
            with closing(sqlite3.connect(layout.database)) as connection, connection:
                for table, key in (("jobs", "uid"), ("attempts", "job_uid"), ("artifacts", "job_uid")):
                    connection.execute(f"DELETE FROM {table} WHERE {key} = 'ended'")
            shutil.rmtree(layout.job("ended"))
        return found

    monkeypatch.setattr(module, "contents_of", removed)
    found = create(data.repository, data.sources).manifest
    assert found.jobs == 1
    assert found.missing == ()
    assert not any("ended" in file.path for file in found.files)


def test_what_the_trainer_itself_lacks_is_named(data):
    shutil.rmtree(data.layout.job("ended"))
    found = create(data.repository, data.sources).manifest
    assert found.missing == ("jobs/ended", "jobs/ended/attempts/1/artifacts/adapter")


def test_a_log_with_a_gap_is_not_taken(data):
    create(data.repository, data.sources)
    block = {"job_uid": "runs", "first_seq": 5, "last_seq": 6, "payload": b"events"}
    data.insert((schema.event_blocks, block))
    with pytest.raises(SettingsError) as error:
        create(data.repository, data.sources)
    assert error.value.reason == "BACKUP_DATABASE_TORN"
    assert len(data.repository.ids()) == 1
    assert not list(data.repository.drafts.iterdir())


def test_a_damaged_database_is_not_taken(data):
    with data.layout.database.open("r+b") as stream:
        stream.seek(8192)
        stream.write(b"\xff" * 4096)
    with pytest.raises(SettingsError) as error:
        create(data.repository, data.sources)
    assert error.value.reason == "BACKUP_DATABASE_DAMAGED"
    assert data.repository.ids() == []


def test_links_are_named_and_not_followed(data, tmp_path):
    """A worker may write in its job's folder: a link there must not bring another project's file into it."""
    secret = data.write("datasets/another.jsonl", b"secret")
    (data.root / "models/linked.json").symlink_to(secret)
    (data.root / "models/alias.json").symlink_to(data.root / "models/hub/acme/c1/config.json")
    (data.root / "jobs/runs/attempts/1/stolen.log").symlink_to(secret)
    (data.root / "jobs/runs/attempts/1/artifacts").symlink_to(data.root / "datasets")
    (data.root / "jobs/ended/checkpoints").symlink_to(data.root / "datasets")
    os.mkfifo(data.root / "jobs/runs/attempts/1/pipe")
    found = create(data.repository, data.sources).manifest
    assert paths(found) == EXPECTED | {"trainer/models/alias.json"}
    assert found.missing == (
        "jobs/ended/checkpoints (a link)",
        "jobs/runs/attempts/1/stolen.log (a link)",
        "models/linked.json (a link)",
    )


def test_a_file_that_becomes_a_link_once_it_is_listed_is_not_followed(data, monkeypatch):
    secret = data.write("datasets/another.jsonl", b"secret")
    log, listed = data.root / "jobs/runs/attempts/1/job.log", module.contents_of

    def replaced(layout: Layout, view: View, *, with_models: bool) -> Contents:
        found = listed(layout, view, with_models=with_models)
        log.unlink()
        log.symlink_to(secret)
        return found

    monkeypatch.setattr(module, "contents_of", replaced)
    found = create(data.repository, data.sources).manifest
    assert "trainer/jobs/runs/attempts/1/job.log" not in paths(found)


def test_a_folder_of_finetree_up_has_both_services(data, tmp_path):
    suite = tmp_path / "suite"
    suite.mkdir()
    data.root.rename(suite / "trainer")
    (suite / "estimator").mkdir()
    found = Sources.of(suite)
    assert (found.trainer, found.estimator, found.layout) == (suite / "trainer", suite / "estimator", SUITE)
    assert create(data.repository, found).manifest.parts == ("trainer",)


def test_what_stays_as_it_is_costs_one_more_look_at_the_database(data, monkeypatch):
    """An attempt's folder is made before the attempt is in the log, and may be left by one that never began."""
    data.write("jobs/runs/attempts/2/job.log", b"never begun")
    looks, copy = [], module.database_copy.copy_database
    monkeypatch.setattr(module.database_copy, "copy_database", lambda *given: looks.append(1) or copy(*given))
    found = create(data.repository, data.sources).manifest
    assert len(looks) == 2
    assert paths(found) == EXPECTED
