# SPDX-License-Identifier: Apache-2.0
"""Bottleneck adapters: on their base and on no other."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_worker.errors import ModelError, PlanError
from finetree_worker.methods import adapter
from finetree_worker.models.gguf import base_facts
from finetree_worker.models.load import load_model, load_tokenizer
from finetree_worker.plan import Plan
from finetree_worker.training.run import adapt, load
from worker_harness import METHODS, run, tuned

# peft 0.21 calls transformers 5 by old names; 8-bit products say how they work at each one.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*past_key_values:FutureWarning"),
    pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning"),
]


CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["pfeiffer", "houlsby", "parallel"])
@pytest.mark.parametrize("quantised", [False, True], ids=["plain", "nf4"])
def test_an_adapter_goes_on_its_base_quantised_or_not(plan: Plan, kind: str, quantised: bool) -> None:
    chosen = replace(plan, method=METHODS[kind])
    base_plan = replace(plan, method=METHODS["nf4"]) if quantised else plan
    base = load(base_plan, CPU)
    ids = torch.arange(60)[None] % 256
    with torch.no_grad():
        before = base.eval()(input_ids=ids).logits
        adapted, _ = chosen.method.apply(base, tuned(plan, seed=5))
        assert torch.equal(adapted(input_ids=ids).logits, before), "a new adapter changes nothing"
        for number, tensor in enumerate(adapter.tensors(adapted).values()):
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number)))
        ours = adapted(input_ids=ids).logits
    plan.artifact.mkdir()
    tokenizer, facts = load_tokenizer(plan.base.folder), base_facts(plan.base)
    chosen.method.save(adapted, plan.artifact, base=facts, tokenizer=tokenizer, dtype=torch.float32)
    assert str(plan.base.folder) not in (plan.artifact / "adapter_config.json").read_text()
    with torch.no_grad():
        again = adapter.load(load(base_plan, CPU), plan.artifact).eval()(input_ids=ids).logits
    torch.testing.assert_close(again, ours, atol=1e-6, rtol=0)
    assert (ours - before).abs().max() > 1e-2


@pytest.mark.parametrize(("kind", "places"), [("pfeiffer", 1), ("houlsby", 2), ("parallel", 1)])
def test_an_adapter_has_2hm_m_and_h_numbers_a_place(plan: Plan, kind: str, places: int) -> None:
    _, subject = adapt(replace(plan, method=METHODS[kind]), load(plan, CPU), CPU)
    assert sum(p.numel() for p in subject.trainable.values()) == 2 * places * (2 * 32 * 8 + 8 + 32)


def test_an_adapter_for_another_base_is_refused(plan: Plan, tiny: Callable[..., Any], tmp_path: Path) -> None:
    run(replace(plan, method=METHODS["houlsby"]))
    with pytest.raises(ModelError, match="vocab_size") as refused:
        adapter.load(tiny("llama", vocab_size=300), plan.artifact)
    assert refused.value.reason == "WRONG_BASE"
    tiny("llama", intermediate_size=64).save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="fingerprint") as refused:
        adapter.load(load_model(tmp_path / "other", torch.float32, device=CPU), plan.artifact)
    assert refused.value.reason == "WRONG_BASE"
    (plan.artifact / "adapter.safetensors").write_bytes(b"{}")
    with pytest.raises(ModelError) as refused:
        adapter.load(load(plan, CPU), plan.artifact)
    assert refused.value.reason == "ADAPTER_UNREADABLE"


def test_a_model_without_blocks_to_follow_is_refused(plan: Plan) -> None:
    """OPT's layers have the products of their MLP, and no module around them."""
    from transformers import AutoModelForCausalLM, OPTConfig

    build: Any = AutoModelForCausalLM.from_config
    model = build(OPTConfig(hidden_size=16, num_hidden_layers=2, ffn_dim=16, num_attention_heads=2, vocab_size=272))
    with pytest.raises(PlanError) as refused:
        adapt(replace(plan, method=METHODS["pfeiffer"]), model, CPU)
    assert (refused.value.reason, refused.value.field) == ("ADAPTER_NOT_SUPPORTED", "adapter")
    assert adapt(plan, model, CPU)[1].trainable, "the refusal advises lora"
