# SPDX-License-Identifier: Apache-2.0
"""Where downloads land, and what of them is trusted."""

import hashlib

import finetree
import pytest
from finetree._shared.downloads import Download, TransferProgress, inside
from finetree_api.trainer.v1 import artifact_pb2

DATA = bytes(range(256)) * 40


def file(data=DATA, path="model/weights.bin"):
    return artifact_pb2.ArtifactFile(path=path, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def fresh(folder, **options: object):
    progress = TransferProgress(len(DATA), None)
    return Download("projects/p/jobs/1/artifacts/a", file(**options), folder=folder, progress=progress)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", "a\\..\\x", "C:x", "a/\0", ".."])
def test_no_file_leaves_its_folder(tmp_path, path):
    with pytest.raises(finetree.Internal) as caught:
        inside(tmp_path, path)
    assert caught.value.reason == "UNSAFE_PATH"


def test_no_file_leaves_its_folder_through_a_link(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "out").symlink_to(tmp_path)
    with pytest.raises(finetree.Internal):
        inside(tmp_path / "folder", "out/x")


def test_a_file_gets_its_name_when_it_is_whole_and_right(tmp_path):
    target = fresh(tmp_path)
    target.write(0, DATA[:5000])
    assert not (tmp_path / "model/weights.bin").exists()
    target.write(5000, DATA[5000:])
    assert target.complete
    target.finish()
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["weights.bin"]
    assert (tmp_path / "model/weights.bin").read_bytes() == DATA


def test_a_later_try_goes_on_where_the_first_one_stopped(tmp_path):
    first = fresh(tmp_path)
    first.write(0, DATA[:5000])
    first.close()
    second = fresh(tmp_path)
    assert second.request().offset == 5000
    second.write(5000, DATA[5000:])
    second.finish()
    assert fresh(tmp_path).done


def test_damage_is_found_and_the_next_try_begins_anew(tmp_path):
    target = fresh(tmp_path)
    target.write(0, DATA[:-1] + b"?")
    with pytest.raises(finetree.Internal) as caught:
        target.finish()
    assert caught.value.reason == "ARTIFACT_CORRUPT"
    assert list((tmp_path / "model").iterdir()) == []
    again = fresh(tmp_path)
    assert again.offset == 0
    again.close()


@pytest.mark.parametrize(("offset", "chunk"), [(1, b"x"), (0, DATA + b"x")])
def test_bytes_that_do_not_belong_are_refused(tmp_path, offset, chunk):
    target = fresh(tmp_path)
    with pytest.raises(finetree.Internal, match="arrived damaged"):
        target.write(offset, chunk)
    target.close()
