# SPDX-License-Identifier: Apache-2.0
"""The file of an upload: what counts as committed is on the disk."""

import os

import pytest
from finetree_trainer.datasets.uploads import UploadFile


@pytest.fixture
def failing(monkeypatch):
    """Lets the next flush fail, as that of a disk which returns an error for a page; later ones succeed."""
    failures, fsync = [], os.fsync

    def flush(descriptor) -> None:
        if failures:
            raise failures.pop()
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flush)
    return failures


def test_after_a_flush_that_failed_no_later_one_is_believed(tmp_path, failing):
    """Linux reports a lost page once: the next fsync of the same file succeeds without it."""
    upload = UploadFile(tmp_path / "part", 0)
    upload.write(b"first")
    assert upload.sync() == 5
    upload.write(b"second")
    failing.append(OSError(5, "Input/output error"))
    with pytest.raises(OSError, match="Input/output error"):
        upload.sync()
    assert upload.sync() == 5
    upload.close()
    again = UploadFile(tmp_path / "part", 5)
    assert (again.position, (tmp_path / "part").read_bytes()) == (5, b"first")
    again.write(b"second")
    assert again.sync() == 11
    again.close()
