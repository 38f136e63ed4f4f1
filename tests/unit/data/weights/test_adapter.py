# SPDX-License-Identifier: Apache-2.0
"""Adapters that others saved: what is read of them, and what is refused by name."""

import json
import pickle
from pathlib import Path

import pytest
from finetree_api.trainer.v1 import artifact_pb2
from finetree_data.weights.adapter import CONFIG, MANIFEST, PEFT_WEIGHTS, content_hash, read_adapter
from finetree_data.weights.errors import WeightsError
from google.protobuf import json_format
from weight_files import A, B, peft_adapter, safetensors


def refusal(folder: Path) -> WeightsError:
    with pytest.raises(WeightsError) as refused:
        content_hash(read_adapter(folder))
    return refused.value


def test_a_plain_peft_adapter_is_read_with_the_base_that_it_names(tmp_path):
    folder = peft_adapter(tmp_path / "a", base_model_name_or_path="org/Model", revision="b" * 40)
    found = read_adapter(folder)
    assert found.method == "lora"
    assert found.base == artifact_pb2.ArtifactBase(hub_id="org/Model", revision="b" * 40)
    assert found.tensors[A].shape == (2, 6)
    assert found.tensors[B].shape == (4, 2)


@pytest.mark.parametrize("path", ["/home/me/models/llama", "./out", "llama", None, 7])
def test_a_base_that_is_named_by_a_folder_is_unknown(tmp_path, path):
    folder = peft_adapter(tmp_path / "a", base_model_name_or_path=path, revision="main")
    assert read_adapter(folder).base == artifact_pb2.ArtifactBase()


def test_an_artifact_that_was_downloaded_keeps_the_identity_of_its_base(tmp_path):
    folder = peft_adapter(tmp_path / "a", base_model_name_or_path="org/Model")
    base = artifact_pb2.ArtifactBase(hub_id="org/Model", fingerprint="f" * 64)
    (folder / MANIFEST).write_text(json_format.MessageToJson(artifact_pb2.Artifact(base=base, attempt=2)))
    assert read_adapter(folder).base == base


def test_content_has_a_hash_that_a_move_keeps_and_a_change_does_not(tmp_path):
    first = content_hash(read_adapter(peft_adapter(tmp_path / "a")))
    assert content_hash(read_adapter((tmp_path / "a").rename(tmp_path / "moved"))) == first
    assert content_hash(read_adapter(peft_adapter(tmp_path / "b", lora_alpha=3))) != first
    folder = peft_adapter(tmp_path / "c")
    (folder / PEFT_WEIGHTS).write_bytes(safetensors({A: (2, 6), B: (4, 2)}, fill=1))
    assert content_hash(read_adapter(folder)) != first


def test_an_artifact_whose_files_were_changed_is_refused(tmp_path):
    folder = peft_adapter(tmp_path / "a")
    (folder / MANIFEST).write_text(json.dumps({"files": [{"path": CONFIG, "sha256": "0" * 64}]}))
    assert "differ from its finetree.json" in refusal(folder).problem


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "IA3"}, "'IA3'"),
        ({"peft_type": None}, "kind"),
        ({"format": "finetree-bottleneck-9"}, "finetree-bottleneck-9"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"init_lora_weights": "loftq"}, "loftq"),
    ],
)
def test_a_kind_that_cannot_be_used_is_named(tmp_path, config, said):
    refused = refusal(peft_adapter(tmp_path / "a", **config))
    assert (refused.reason, said in refused.problem) == ("WEIGHTS_UNREADABLE", True)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"peft_type": "LORA", "x": "' + "y" * 2**20 + '"}'])
def test_a_damaged_configuration_is_refused(tmp_path, text):
    folder = peft_adapter(tmp_path / "a")
    (folder / CONFIG).write_text(text)
    assert "adapter_config.json" in refusal(folder).problem


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    assert "no adapter" in refusal(tmp_path).problem
    folder = peft_adapter(tmp_path / "a")
    (folder / PEFT_WEIGHTS).unlink()
    assert "no weights (adapter_model.safetensors)" in refusal(folder).problem


def test_a_pickle_is_named_and_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    folder = peft_adapter(tmp_path / "a")
    (folder / PEFT_WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    refused = refusal(folder)
    assert (refused.reason, "adapter_model.bin" in refused.problem) == ("MODEL_PICKLED", True)
    (folder / CONFIG).unlink()
    assert refusal(folder).reason == "MODEL_PICKLED"
    assert not (tmp_path / "ran").exists()
