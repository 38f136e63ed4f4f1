# SPDX-License-Identifier: Apache-2.0
"""A data folder from before goes on under another user, and back; nothing outside of it changes hands."""

import fcntl
import os
from pathlib import Path

import pytest
from finetree_runtime.config.settings import SettingsError
from finetree_trainer.layout import Layout
from finetree_trainer.worker_user import WorkerUser
from finetree_trainer.workers.handover import hand_over
from finetree_trainer.workers.process import LOCK

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to another user")

USER = WorkerUser("54321", 54321, 54322)
THEIRS = (
    "jobs/j/checkpoints/step-00000002/weights.safetensors",
    "jobs/j/attempts/1/journal.bin",
    "jobs/j/attempts/1/artifacts/adapter/manifest.json",
    "models/hub/a--b/refs.json",
    "tokens/t/tokens.safetensors",
)
OURS = ("trainer.db", "uploads/u.part", "workers/w/process.json", "run/worker.sock")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder as a root trainer without a user for its workers leaves it."""
    for name in (*THEIRS, *OURS, "datasets/d.jsonl"):
        file = tmp_path / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.write_text(name)
        file.chmod(0o600)
    return tmp_path / "data"


def owner(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid


def test_what_tasks_write_becomes_the_users_and_the_rest_stays(data):
    assert hand_over(Layout(data, USER))
    for name in THEIRS:
        for path in (data / name, (data / name).parent):
            assert owner(path) == (USER.uid, USER.gid)
    assert owner(data / "models") == owner(data / "tokens") == (USER.uid, USER.gid)
    for name in OURS:
        assert owner(data / name) == (0, 0)
    assert (owner(data / "datasets/d.jsonl"), (data / "datasets/d.jsonl").stat().st_mode & 0o777) == (
        (0, USER.gid),
        0o640,
    )
    for passed in ("jobs/j", "jobs/j/attempts"):
        assert (owner(data / passed), (data / passed).stat().st_mode & 0o777) == ((0, USER.gid), 0o710)


def test_it_is_done_once_and_again_where_it_was_cut_off(data):
    layout = Layout(data, USER)
    hand_over(layout)
    assert not hand_over(layout)
    os.chown(data / "models", 0, 0)
    os.chown(data / THEIRS[0], 0, 0)
    assert hand_over(layout)
    assert owner(data / THEIRS[0]) == (USER.uid, USER.gid)


def test_without_the_setting_it_goes_back_to_root(data):
    hand_over(Layout(data, USER))
    assert hand_over(Layout(data))
    assert {owner(data / name) for name in THEIRS} == {(0, 0)}
    assert not hand_over(Layout(data))


def test_neither_links_nor_second_names_give_away_what_is_outside(data, tmp_path):
    secret, folder = tmp_path / "secret", tmp_path / "folder"
    secret.write_text("secret")
    folder.mkdir()
    (folder / "file").write_text("file")
    attempt = data / "jobs/j/attempts/1"
    (attempt / "link").symlink_to(secret)
    (attempt / "way").symlink_to(folder)
    (data / "jobs/j/attempts/2").symlink_to(folder)
    (data / "jobs/k").symlink_to(folder)
    (data / "datasets/e.jsonl").symlink_to(secret)
    os.link(secret, attempt / "name")
    before = {path: (owner(path), path.stat().st_mode) for path in (secret, folder, folder / "file")}
    hand_over(Layout(data, USER))
    assert {path: (owner(path), path.stat().st_mode) for path in before} == before


def test_files_of_workers_that_are_alive_are_not_taken_from_them(data):
    (data / "workers/w" / LOCK).touch()
    with (data / "workers/w" / LOCK).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SettingsError, match="1 workers of an earlier start still run as another user") as caught:
            hand_over(Layout(data, USER))
        assert caught.value.reason == "WORKERS_RUNNING"
    assert {owner(data / name) for name in THEIRS} == {(0, 0)}
    assert hand_over(Layout(data, USER))


def test_a_new_folder_needs_nothing(tmp_path):
    assert not hand_over(Layout(tmp_path / "new", USER))
    assert not (tmp_path / "new").exists()


def test_a_disk_that_knows_no_owners_is_refused_for_a_user_and_left_alone_without_one(data, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(SettingsError, match="use a folder on a local disk") as caught:
        hand_over(Layout(data, USER))
    assert caught.value.reason == "WORKER_USER_UNUSABLE"
    monkeypatch.undo()
    os.chown(data / "models", USER.uid, USER.gid)
    monkeypatch.setattr(os, "chown", refuse)
    monkeypatch.setattr(os, "fchown", refuse)
    assert not hand_over(Layout(data))
