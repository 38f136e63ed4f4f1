# SPDX-License-Identifier: Apache-2.0
"""The folder of backups: one writer, damage found by name, nothing of another kind touched."""

import hashlib
import json

import pytest
from finetree_runtime.config.settings import SettingsError
from finetree_trainer.backup.create import create
from finetree_trainer.backup.repository import PIECE_BYTES, Repository


def reason_of(call, *arguments: object) -> str:
    with pytest.raises(SettingsError) as error:
        call(*arguments)
    return error.value.reason


def flip(file):
    file.chmod(0o600)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_flipped_bit_is_found_with_the_file_and_every_backup_that_needs_it(data):
    repository = data.repository
    made = [create(repository, data.sources).manifest for _ in range(2)]
    assert repository.verify(repository.ids(), lambda _: None).damaged == {}
    file = next(file for file in made[0].files if file.path.endswith("journal.bin"))
    flip(data.backups / "pieces" / file.pieces[0][:2] / file.pieces[0])
    found = repository.verify(repository.ids(), lambda _: None)
    text = f"trainer/jobs/runs/attempts/1/journal.bin: piece {file.pieces[0]} is damaged or missing"
    assert found.damaged == {manifest.id: [text] for manifest in made}


def test_a_flipped_bit_in_a_manifest_is_found(data):
    repository = data.repository
    made = create(repository, data.sources).manifest
    flip(data.backups / "backups" / f"{made.id}.json")
    assert list(repository.verify(repository.ids(), lambda _: None).damaged) == [made.id]
    assert reason_of(repository.load, made.id) == "BACKUP_DAMAGED"


def test_a_manifest_that_would_be_restored_elsewhere_is_refused(data):
    from finetree_trainer.backup import manifest as module

    made = create(data.repository, data.sources).manifest
    place = data.backups / "backups" / f"{made.id}.json"
    content = json.loads(place.read_bytes())["manifest"]
    content["files"][0]["path"] = "trainer/../../outside"
    digest = hashlib.sha256(module._canonical(content)).hexdigest()
    place.write_text(json.dumps({"format": 1, "manifest": content, "sha256": digest}))
    assert reason_of(data.repository.load, made.id) == "BACKUP_DAMAGED"


def test_a_file_is_kept_in_pieces_of_which_only_changed_ones_are_new(data):
    log = data.write("jobs/runs/attempts/1/worker.log", b"a" * PIECE_BYTES + b"b" * PIECE_BYTES)
    create(data.repository, data.sources)
    with log.open("ab") as stream:
        stream.write(b"c" * 10)
    assert create(data.repository, data.sources).written == 10


def test_one_backup_at_a_time(data):
    repository = data.repository
    with repository.locked(writing=True):
        assert reason_of(create, data.repository, data.sources) == "BACKUP_IN_PROGRESS"
    with repository.locked(writing=False), data.repository.locked(writing=False):
        assert reason_of(create, data.repository, data.sources) == "BACKUP_IN_PROGRESS"


def test_a_folder_with_something_else_is_not_taken(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.png").write_bytes(b"x")
    assert reason_of(Repository.made, tmp_path / "photos") == "BACKUP_FOLDER_NOT_EMPTY"
    assert reason_of(Repository, tmp_path / "photos") == "BACKUP_FOLDER_UNKNOWN"


def test_pruning_keeps_what_the_kept_ones_need(data):
    repository = data.repository
    create(repository, data.sources)
    data.write("jobs/runs/attempts/1/job.log", b"another log")
    kept = create(repository, data.sources).manifest
    removed, freed = repository.prune(1)
    assert len(removed) == 1
    assert freed == len(b"log")
    assert repository.verify(repository.ids(), lambda _: None).damaged == {}
    assert repository.ids() == [kept.id]


def test_pruning_removes_nothing_while_a_manifest_that_stays_is_damaged(data):
    repository = data.repository
    made = [create(repository, data.sources).manifest for _ in range(2)]
    flip(data.backups / "backups" / f"{made[1].id}.json")
    assert reason_of(repository.prune, 1) == "BACKUP_DAMAGED"
    assert len(repository.ids()) == 2
