# SPDX-License-Identifier: Apache-2.0
"""A --model that names a folder, and those that stay a name or a hub id."""

import pytest
from finetree_cli.errors import BadInput
from finetree_cli.options.model_folder import model_folder, model_root, refuse_server


@pytest.fixture
def tuned(tmp_path, monkeypatch):
    folder = tmp_path / "models" / "tuned"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(folder.parent)
    return folder


@pytest.mark.parametrize(
    "text", ["./tuned", "tuned/config.json", "../models/tuned", "./tuned/", "tuned/../tuned/config.json"]
)
def test_a_folder_or_its_config_is_found(tuned, text):
    found = model_folder(text)
    assert found == tuned.resolve()
    assert model_root(found) == {"FINETREE_ESTIMATOR_MODEL_ROOT": str(tuned.resolve().parent)}


def test_the_present_folder_has_a_name(tuned, monkeypatch):
    monkeypatch.chdir(tuned)
    assert model_folder(".") == tuned.resolve()


@pytest.mark.parametrize("text", ["llama-3.1-8b", "tuned", "models/tuned", "Qwen/Qwen2.5-7B@main", "", None])
def test_names_and_hub_ids_stay_what_they_are(tuned, text):
    assert model_folder(text) is None
    assert model_root(None) == {}


@pytest.mark.parametrize("text", ["./nothing", "/", "nothing/config.json"])
def test_a_folder_without_a_config_is_refused(tuned, text):
    with pytest.raises(BadInput, match="config"):
        model_folder(text)


def test_a_folder_with_an_address_is_refused(tuned):
    refuse_server(None, address_given=True)
    refuse_server(tuned, address_given=False)
    with pytest.raises(BadInput, match="server"):
        refuse_server(tuned, address_given=True)
