# SPDX-License-Identifier: Apache-2.0
"""A private file is whole or not there, flushed with its name, and never readable by others."""

import os
import stat

import pytest
from finetree_cli.backends.private_files import write_private


def test_a_file_replaces_one_that_others_could_read(tmp_path):
    path = tmp_path / "token"
    path.write_text("old", encoding="utf-8")
    path.chmod(0o644)
    write_private(path, "new\n")
    assert path.read_text(encoding="utf-8") == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write_private(path, b"public", mode=0o644)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"public", 0o644)
    assert list(tmp_path.iterdir()) == [path]


def test_it_is_flushed_before_it_has_its_name_and_its_name_after(tmp_path, monkeypatch):
    path, flushed, fsync = tmp_path / "token", [], os.fsync

    def noted(handle: int) -> None:
        folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        private = stat.S_IMODE(os.fstat(handle).st_mode) == 0o600
        flushed.append(("folder" if folder else f"file, private {private}", path.exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    write_private(path, "secret")
    assert flushed == [("file, private True", False), ("folder", True)]


def test_one_that_must_be_new_is_left_where_it_is(tmp_path):
    path = tmp_path / "ca.key"
    write_private(path, b"theirs", new=True)
    with pytest.raises(FileExistsError):
        write_private(path, b"ours", new=True)
    assert path.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_one_and_no_draft(tmp_path, monkeypatch):
    path = tmp_path / "token"
    write_private(path, "old")

    def full(_handle: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_private(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]
