# SPDX-License-Identifier: Apache-2.0
"""What a worker may put in the place of a file that the service reads."""

import os

import pytest
from finetree_data.confinement.own_files import open_own
from finetree_data.exchange import journal, log_file


def test_a_file_is_read(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    with open_own(tmp_path / "file") as stream:
        assert stream.read() == b"content"


def test_links_pipes_and_folders_count_as_no_file(tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder", "missing"):
        with pytest.raises(FileNotFoundError):
            open_own(tmp_path / name)


def test_a_log_and_a_journal_show_nothing_that_a_link_leads_to(tmp_path):
    (tmp_path / "secret").write_text("secret\n")
    for name in (log_file.JOB_LOG, journal.FILE_NAME):
        (tmp_path / name).symlink_to(tmp_path / "secret")
    assert log_file.read(tmp_path, log_file.JOB_LOG, 0, limit=100, whole_lines=False)[1] == b""
    assert journal.events_after(tmp_path, 0) == []
