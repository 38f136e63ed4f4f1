# SPDX-License-Identifier: Apache-2.0
"""Folders of base models that are named by path: what in them is refused before anything reads it."""

import os

import pytest
from finetree_api.types.v1 import model_pb2
from finetree_runtime.errors import InvalidArgument, PermissionDenied
from finetree_trainer.models import locate


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "models/base"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (tmp_path / "secret").write_text("secret")
    return folder


def located(model):
    found = locate.Models(model.parent / "own", (str(model.parent),))
    return found.locate(model_pb2.ModelSource(path="base"), "spec.model")


def test_links_between_files_under_a_root_are_followed_as_in_a_cache_of_a_hub(model):
    blobs = model.parent / "blobs"
    blobs.mkdir()
    (blobs / "abc").touch()
    (model / "model.safetensors").symlink_to("../blobs/abc")
    assert located(model).folder == model


@pytest.mark.parametrize("target", ["../../secret", "/etc/passwd", "loop"])
def test_a_link_out_of_the_roots_is_refused_without_where_it_leads(model, target):
    (model / "loop").symlink_to("loop") if target == "loop" else (model / "tokenizer.json").symlink_to(target)
    with pytest.raises(PermissionDenied, match="is a link out of the configured roots") as caught:
        located(model)
    assert caught.value.reason == "PATH_OUTSIDE_ROOTS"
    assert "secret" not in str(caught.value)


def test_a_pipe_that_would_be_read_for_ever_is_refused_by_name(model):
    os.mkfifo(model / "tokenizer.json")
    with pytest.raises(
        InvalidArgument, match=r"'tokenizer\.json' in the model's folder is neither a file nor a folder"
    ):
        located(model)


def test_a_folder_of_far_too_many_entries_is_refused(model, monkeypatch):
    monkeypatch.setattr(locate, "MAX_ENTRIES", 3)
    for number in range(3):
        (model / str(number)).touch()
    with pytest.raises(InvalidArgument, match="more than 3 entries"):
        located(model)
