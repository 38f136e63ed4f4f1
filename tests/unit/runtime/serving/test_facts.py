# SPDX-License-Identifier: Apache-2.0
"""Facts of runs and of artifacts."""

import pytest
from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.types.v1 import method_pb2, model_pb2, run_spec_pb2
from finetree_runtime.serving.facts import Facts, Form, facts_of_artifact, facts_of_spec

ADAPTER, MODEL = artifact_pb2.ARTIFACT_KIND_ADAPTER, artifact_pb2.ARTIFACT_KIND_MODEL
HUB = model_pb2.ModelSource(hub=model_pb2.HubModel(id="org/base"))


def spec(**method: object) -> run_spec_pb2.RunSpec:
    return run_spec_pb2.RunSpec(model=HUB, **method)


def test_an_unset_rank_and_alpha_are_those_of_the_contract():
    found = facts_of_spec(spec(lora=method_pb2.Lora()))
    assert (found.form, found.rank, found.alpha, found.base) == (Form.LORA, 8, 16.0, "org/base")
    assert found.targets == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert facts_of_spec(spec(lora=method_pb2.Lora(rank=32))).alpha == 64.0


def test_a_preset_has_the_names_of_its_family():
    queries = method_pb2.Lora(targets=method_pb2.TARGET_PRESET_QUERY_VALUE)
    assert facts_of_spec(spec(lora=queries), family="llama").targets == {"q_proj", "v_proj"}
    assert facts_of_spec(spec(lora=queries), family="gpt2").targets == {"c_attn"}
    assert facts_of_spec(spec(lora=queries), family="phi3").targets == {"qkv_proj"}
    named = method_pb2.Lora(target_modules=["model.layers.0.mlp.up_proj", "q_proj"])
    assert facts_of_spec(spec(lora=named), family="gpt2").targets == {"up_proj", "q_proj"}


def test_the_adapter_of_a_quantized_base_is_a_lora_adapter():
    lora = method_pb2.Lora(weight_decomposed=True, rank_stabilized=True, train_head=True)
    found = facts_of_spec(spec(qlora=method_pb2.Qlora(lora=lora)))
    assert (found.form, found.dora, found.rslora, found.saved) == (Form.LORA, True, True, {"lm_head"})


@pytest.mark.parametrize(
    ("method", "form"),
    [
        ({"full": method_pb2.FullFineTuning()}, Form.MODEL),
        ({"prefix": method_pb2.PrefixTuning()}, Form.PREFIX),
        ({"adapter": method_pb2.AdapterLayers()}, Form.BOTTLENECK),
    ],
)
def test_each_method_makes_its_own_form(method, form):
    assert facts_of_spec(spec(**method), family="llama") == Facts(form, family="llama", base="org/base")


def test_a_run_without_a_method_has_no_facts():
    assert facts_of_spec(spec()) is None


def test_an_artifact_has_the_settings_of_the_run_that_made_it():
    base = artifact_pb2.ArtifactBase(hub_id="org/base", family="llama")
    made = artifact_pb2.Artifact(kind=ADAPTER, peft_type="LORA", base=base)
    assert facts_of_artifact(made, spec(lora=method_pb2.Lora(rank=64))).rank == 64
    assert facts_of_artifact(made, None) == Facts(Form.LORA, family="llama", base="org/base")
    # What a LoRA run's model is merged into is a model.
    assert facts_of_artifact(artifact_pb2.Artifact(kind=MODEL), spec(lora=method_pb2.Lora())).form is Form.MODEL
    assert facts_of_artifact(artifact_pb2.Artifact(kind=ADAPTER), None).form is Form.BOTTLENECK
    assert facts_of_artifact(artifact_pb2.Artifact(kind=ADAPTER, peft_type="IA3"), None).form is Form.OTHER_PEFT
    gguf = artifact_pb2.Artifact(kind=artifact_pb2.ARTIFACT_KIND_GGUF, format=artifact_pb2.EXPORT_FORMAT_GGUF_LORA)
    assert facts_of_artifact(gguf, None).form is Form.GGUF_LORA
    gguf.format = artifact_pb2.EXPORT_FORMAT_GGUF
    assert facts_of_artifact(gguf, None).form is Form.GGUF_MODEL
    assert facts_of_artifact(artifact_pb2.Artifact(kind=artifact_pb2.ARTIFACT_KIND_REPORT), None) is None
