# SPDX-License-Identifier: Apache-2.0
"""Whether an artifact loads: real folders of peft and transformers, whole and spoiled."""

import pytest
from finetree_api.types.v1 import serving_pb2
from finetree_worker.methods.full import Full
from finetree_worker.methods.lora import Lora
from safetensors import safe_open

# peft 0.21 asks transformers 5 by the old name whether it checkpoints, and renames the base that it was given.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The PEFT config's `base_model_name_or_path`:UserWarning"),
]


@pytest.fixture
def base(tmp_path, tiny):
    tiny().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapter(tmp_path, tiny):
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(tiny(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def change(folder, file, edit):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / file)
    edit(tensors)
    save_file(tensors, folder / file, metadata={"format": "pt"})


def verdict(method, folder, base):
    made = method.compatibility(folder, base)
    assert made.loads is (not made.reason)
    assert made.server == serving_pb2.SERVING_TARGET_TRANSFORMERS
    return made.reason


def test_a_whole_adapter_loads(adapter, base):
    assert verdict(Lora(), adapter, base) == ""


def test_a_whole_mixture_whose_experts_are_apart_in_the_file_loads(tmp_path, tiny):
    tiny("mixtral").save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as stored:
        assert any("experts.3." in name for name in stored.keys())  # noqa: SIM118 - no mapping
    assert Full().compatibility(tmp_path, tmp_path).loads


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_whole_model_loads(tmp_path, tiny, tied):
    tiny(tie_word_embeddings=tied).save_pretrained(tmp_path / "model")
    assert verdict(Full(), tmp_path / "model", tmp_path / "model") == ""


def test_a_model_in_several_files_loads(tmp_path, tiny):
    tiny().save_pretrained(tmp_path / "model", max_shard_size="20KB")
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 1
    assert verdict(Full(), tmp_path / "model", tmp_path / "model") == ""


def drop(tensors):
    del tensors[min(tensors)]


def widen(tensors):
    import torch

    tensors[min(tensors)] = torch.zeros(5, 7)


def add(tensors):
    import torch

    tensors["nobody.weight"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("edit", "problem"), [(drop, "is missing"), (widen, "shape"), (add, "does not belong to any layer")]
)
def test_a_spoiled_adapter_does_not_load_and_says_why(adapter, base, edit, problem):
    change(adapter, "adapter_model.safetensors", edit)
    assert problem in verdict(Lora(), adapter, base)


@pytest.mark.parametrize(
    ("edit", "problem"), [(drop, "is missing"), (widen, "shape"), (add, "does not belong to any layer")]
)
def test_a_spoiled_model_does_not_load_and_says_why(base, edit, problem):
    change(base, "model.safetensors", edit)
    assert problem in verdict(Full(), base, base)


@pytest.mark.parametrize("edit", [drop, widen])
def test_a_mixture_with_a_spoiled_expert_does_not_load_and_says_why(tmp_path, tiny, edit):
    tiny("mixtral").save_pretrained(tmp_path)

    def spoil(tensors) -> None:
        experts = {name: tensor for name, tensor in tensors.items() if "experts" in name}
        for name in experts:
            del tensors[name]
        edit(experts)
        tensors |= experts

    change(tmp_path, "model.safetensors", spoil)
    assert verdict(Full(), tmp_path, tmp_path) == "its tensors are not those of its config.json"


def test_an_adapter_of_another_base_does_not_load(adapter, tmp_path, tiny):
    tiny(hidden_size=64).save_pretrained(tmp_path / "other")
    assert "shape" in verdict(Lora(), adapter, tmp_path / "other")
