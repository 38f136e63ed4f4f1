# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_estimator.methods.adapter import Adapter
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.prefix import Prefix
from finetree_estimator.methods.qlora import Qlora

MIXTRAL = {"name": "mixtral-8x7b"}


@pytest.mark.parametrize(
    ("parts", "method"),
    [
        ({"full": {}}, Full),
        ({"full": {"frozen_layers": 3}}, Full),
        ({"lora": {"rank": 4}}, Lora),
        ({"qlora": {"quantization": "QUANTIZATION_INT8"}}, Qlora),
        ({"prefix": {"virtual_tokens": 30}}, Prefix),
        ({"adapter": {"placement": "ADAPTER_PLACEMENT_HOULSBY"}}, Adapter),
    ],
)
def test_each_method_is_read(run_of, parts, method):
    assert type(run_of(**parts).method) is method


def test_settings_of_the_methods_are_read(run_of):
    assert run_of(qlora={"quantization": "QUANTIZATION_INT8"}).method.bits == 8
    assert run_of(prefix={"virtual_tokens": 30}).method.virtual_tokens == 30
    assert run_of(adapter={"placement": "ADAPTER_PLACEMENT_HOULSBY"}).method.places == 2
    assert run_of(lora={"targets": "TARGET_PRESET_MLP"}).method.targets == ("gate_proj", "up_proj", "down_proj")
    assert run_of(lora={"target_modules": ["q_proj"]}).method.targets == ("q_proj",)


def test_adapters_of_experts_are_read_where_they_are_asked_for(run_of):
    targets = run_of(model=MIXTRAL, lora={"targets": "TARGET_PRESET_MLP", "include_experts": True}).method.targets

    assert targets == ("experts.gate_up_proj", "experts.down_proj")
    assert run_of(model=MIXTRAL, lora={}).method.targets == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert run_of(lora={"include_experts": True}).method == run_of(lora={"dropout": 0}).method


def test_trained_embeddings_and_head_are_read_in_both_methods(run_of):
    said = {"train_embeddings": True, "train_head": True}
    for parts in ({"lora": said}, {"qlora": {"lora": said}}):
        found = run_of(**parts).method
        assert (found.train_embeddings, found.train_head) == (True, True)
        assert found.trains_embeddings
        assert found.trains_head
