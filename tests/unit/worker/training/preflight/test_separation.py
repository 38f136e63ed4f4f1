# SPDX-License-Identifier: Apache-2.0
"""Rows of a pack stay apart in every family that is trained; a model that mixes them is refused before a step."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_worker.errors import ModelError
from finetree_worker.plan import Plan
from finetree_worker.training.loss import sharing
from finetree_worker.training.preflight import separation
from hybrid_models import HYBRIDS
from worker_harness import Recorder, run

_SHAPE: dict[str, Any] = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
_GROUPED = _SHAPE | {"num_key_value_heads": 2}
_EXPERTS = _GROUPED | {"num_experts_per_tok": 2, "num_local_experts": 4, "num_experts": 4, "moe_intermediate_size": 32}
_GPT2 = {"vocab_size": 260, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
_TWO_SHAPES = {
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": 64,
    "layer_types": ["sliding_attention", "full_attention"],
    "hidden_size_per_layer_input": 16,
    "vocab_size_per_layer_input": 260,
    "num_kv_shared_layers": 0,
}
_LATENT = {
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "first_k_dense_replace": 1,
}

ATTENTION: dict[str, dict[str, Any]] = {
    "LlamaConfig": _GROUPED,
    "Qwen2Config": _GROUPED,
    "Qwen3Config": _GROUPED | {"head_dim": 16},
    "SmolLM3Config": _GROUPED,
    "MistralConfig": _GROUPED | {"sliding_window": 64},
    "Gemma2Config": _GROUPED | {"head_dim": 16, "sliding_window": 64},
    "Gemma3TextConfig": _GROUPED | {"head_dim": 16, "sliding_window": 64},
    "PhiConfig": _SHAPE,
    "Phi3Config": _GROUPED,
    "GraniteConfig": _GROUPED | {"logits_scaling": 3.0},
    "CohereConfig": _GROUPED,
    "GPT2Config": _GPT2,
    "GPTNeoXConfig": _SHAPE,
    "OPTConfig": _SHAPE | {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "MixtralConfig": _EXPERTS,
    "Qwen2MoeConfig": _EXPERTS | {"shared_expert_intermediate_size": 32},
    "GptOssConfig": _EXPERTS | {"head_dim": 16, "sliding_window": 64},
    "Ministral3Config": _GROUPED | {"head_dim": 16},
    "Gemma4TextConfig": _GROUPED | _TWO_SHAPES,
    "DeepseekV3Config": _EXPERTS | _LATENT,
    "Glm4MoeLiteConfig": _EXPERTS | _LATENT,
}
"""Families whose attention is computed by document."""
OWN_ATTENTION: dict[str, dict[str, Any]] = {
    "FalconConfig": _SHAPE,
    "GPTNeoConfig": {
        "vocab_size": 260,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
    },
}
"""Families that attend in code of their own, by a mask that transformers makes from the positions."""
HYBRID: dict[str, dict[str, Any]] = {config: _GROUPED | own for config, own in HYBRIDS.values()}
"""Families that mix tokens by convolutions and states too, which are computed by document."""
MIXED: dict[str, dict[str, Any]] = {
    "MambaConfig": _SHAPE | {"state_size": 8},
    "FalconMambaConfig": _SHAPE | {"state_size": 8},
    "RwkvConfig": _SHAPE | {"context_length": 256, "attention_hidden_size": 32},
    "BloomConfig": {"vocab_size": 260, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "MptConfig": {"vocab_size": 260, "d_model": 32, "n_layers": 2, "n_heads": 4},
}
"""Models with a state that transformers computes in a method of a layer, or a bias by place in the row."""


def model_of(config: str, dtype: torch.dtype = torch.float32) -> Any:
    """A tiny random model whose layers do something: as they are made, a leak would hardly change its logits."""
    shape = (ATTENTION | OWN_ATTENTION | HYBRID | MIXED)[config]
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(getattr(transformers, config)(**shape), dtype=torch.float32)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.12)
    return made.to(dtype).eval()


@pytest.mark.parametrize("config", [*ATTENTION, *OWN_ATTENTION, *HYBRID])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_that_keeps_rows_apart_is_taken(config: str, dtype: torch.dtype) -> None:
    separation.check(model_of(config, dtype))


@pytest.mark.parametrize("config", MIXED)
def test_a_model_that_mixes_rows_is_refused_with_the_difference(config: str) -> None:
    with pytest.raises(ModelError) as caught:
        separation.check(model_of(config))
    assert caught.value.reason == "UNSUPPORTED_ATTENTION"
    assert "at its first token" in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("config", ["RwkvConfig", "BloomConfig"])
def test_what_passes_between_rows_is_told_from_rounding_in_bfloat16(config: str) -> None:
    with pytest.raises(ModelError, match="at its first token"):
        separation.check(model_of(config, torch.bfloat16))


def test_a_model_that_cannot_be_called_by_document_is_refused() -> None:
    config = transformers.StableLmConfig(**_GROUPED)
    with pytest.raises(ModelError, match="end in TypeError") as caught:
        separation.check(transformers.AutoModelForCausalLM.from_config(config).eval())
    assert caught.value.reason == "UNSUPPORTED_ATTENTION"


@pytest.mark.parametrize("config", OWN_ATTENTION)
def test_rows_share_nothing_where_a_model_attends_in_its_own_way(config: str) -> None:
    """What follows a shared prefix would not see it: its documents would be computed without their beginning."""
    assert sharing(model_of(config)) is None
    assert sharing(model_of("LlamaConfig")) is not None


def test_a_shared_prefix_that_is_not_seen_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(separation, "sharing", lambda _: sharing(model_of("LlamaConfig")))
    with pytest.raises(ModelError, match=r" 0\.0% at its first token"):
        separation.check(model_of("FalconConfig"))


def test_logits_that_are_not_finite_are_refused() -> None:
    model = model_of("LlamaConfig")
    with torch.no_grad():
        model.model.norm.weight.fill_(float("inf"))
    with pytest.raises(ModelError) as caught:
        separation.check(model)
    assert caught.value.reason == "MODEL_NOT_FINITE"
    assert "float32" in caught.value.message


def test_the_check_leaves_the_model_as_it_was() -> None:
    model = model_of("Gemma2Config")
    before = {name: parameter.clone() for name, parameter in model.state_dict().items()}
    attention = model.config._attn_implementation
    separation.check(model)
    assert model.config._attn_implementation == attention
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())


def test_a_run_is_refused_before_its_rows_are_read(plan: Plan, tmp_path: Path) -> None:
    folder, recorder = tmp_path / "mixing", Recorder()
    shutil.copytree(plan.base.folder, folder)
    model_of("BloomConfig").save_pretrained(folder)
    with pytest.raises(ModelError) as caught:
        run(replace(plan, base=replace(plan.base, folder=folder)), recorder)
    assert caught.value.reason == "UNSUPPORTED_ATTENTION"
    phases = {event.phase for event in recorder.of(event_pb2.PhaseProgress)}
    assert phases == {job_pb2.JOB_PHASE_LOAD_MODEL}
