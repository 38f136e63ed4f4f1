# SPDX-License-Identifier: Apache-2.0
import os
import stat

import pytest
from finetree_data import durable_files
from finetree_data.durable_files import draft_of, make_folder, replace_file


@pytest.fixture
def synced(monkeypatch):
    """Places on the disk that were flushed, in order: (inode, size)."""
    found, fsync = [], os.fsync

    def record(descriptor: int) -> None:
        stated = os.fstat(descriptor)
        found.append((stated.st_ino, stated.st_size if stat.S_ISREG(stated.st_mode) else None))
        fsync(descriptor)

    monkeypatch.setattr(durable_files.os, "fsync", record)
    return found


def test_the_content_is_on_the_disk_before_its_name_is(tmp_path, synced):
    file = tmp_path / "kept.json"
    file.write_bytes(b"old")

    replace_file(file, b"newer")

    assert file.read_bytes() == b"newer"
    assert synced == [(file.stat().st_ino, 5), (tmp_path.stat().st_ino, None)]
    assert [path.name for path in tmp_path.iterdir()] == ["kept.json"]


def test_a_write_that_fails_leaves_the_file_before_it(tmp_path, monkeypatch):
    file = tmp_path / "kept.json"
    file.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable_files.os, "fsync", full)

    with pytest.raises(OSError, match="No space"):
        replace_file(file, b"newer")
    assert file.read_bytes() == b"old"
    assert draft_of(file).exists()

    monkeypatch.undo()
    replace_file(file, b"newer")
    assert file.read_bytes() == b"newer"


def test_a_private_file_is_its_owners_alone(tmp_path):
    replace_file(tmp_path / "private", b"", private=True)

    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600


def test_each_new_name_of_a_path_is_on_the_disk(tmp_path, synced):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")

    assert {inode for inode, _ in synced} == {(tmp_path / "a").stat().st_ino, tmp_path.stat().st_ino}
