# SPDX-License-Identifier: Apache-2.0
"""LoRA on the experts of a mixture, which transformers stacks into parameters: only where it is asked for."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_api.trainer.v1 import event_pb2
from finetree_worker.errors import Cancelled, PlanError
from finetree_worker.methods.lora import Lora
from finetree_worker.methods.targets import Targets, expert_parameters, linear_names
from finetree_worker.models.load import load_tokenizer
from finetree_worker.plan import BaseModel, Checkpointing, OptimizerName, Plan
from peft import PeftModel
from worker_harness import difference, elsewhere, loop_of, pausing, run, scripted, tuned, weights

# peft 0.21 calls transformers 5 by old names.
pytestmark = [pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")]

EXPERTS = Lora(rank=4, alpha=8.0, dropout=0.0, experts=True)
STACKED = r"\.experts\.(base_layer\.)*lora_[AB]\."
INNER = {"mixtral": 48, "qwen2-moe": 24}


@pytest.fixture(scope="module", params=INNER)
def mixture(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Any], tokenizer: Any
) -> Path:
    folder = tmp_path_factory.mktemp("mixtures") / request.param
    tiny(request.param).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def mixed(plan: Plan, mixture: Path) -> Plan:
    return tuned(replace(plan, base=BaseModel(mixture, "example/mixture", "main"), method=EXPERTS), max_steps=3)


@pytest.mark.parametrize("checkpointing", [Checkpointing.OFF, Checkpointing.FULL])
def test_two_steps_change_the_adapters_of_experts_and_of_linear_layers_alone(
    mixed: Plan, checkpointing: Checkpointing
) -> None:
    loop = loop_of(tuned(mixed, gradient_checkpointing=checkpointing, max_steps=2, epochs=None))
    before = {name: p.detach().clone() for name, p in loop.adapted.named_parameters()}
    loop.run(scripted([]))
    changed = {name for name, p in loop.adapted.named_parameters() if not torch.equal(before[name], p)}
    assert changed == {name for name in before if "lora_" in name}
    stacked = {name for name in changed if re.search(STACKED, name)}
    assert len(stacked) == 2 * 2 * 2
    assert not any(re.search(r"(^|\.)(gate|router|shared_expert_gate)\.", name) for name in changed)
    inner = INNER[mixed.base.folder.name]
    # Rank 4 for each of 4 experts; gate and up are one matrix.
    assert sum(before[name].numel() for name in stacked) == 2 * 4 * 4 * ((32 + 2 * inner) + (inner + 32))


def test_experts_are_left_alone_where_nobody_asks(mixed: Plan) -> None:
    loop = loop_of(replace(mixed, method=replace(EXPERTS, experts=False)))
    assert not [name for name in loop.subject.trainable if re.search(STACKED, name)]


def test_the_mlp_of_a_mixture_may_be_experts_alone(plan: Plan, tiny: Callable[..., Any]) -> None:
    model = tiny("mixtral")
    assert linear_names(model, Targets.MLP, required=False) == []
    assert len(expert_parameters(model, Targets.MLP)) == 2 * 2
    assert expert_parameters(model, Targets.ATTENTION) == []
    assert expert_parameters(tiny("llama"), Targets.MLP) == []
    adapted, _ = replace(EXPERTS, targets=Targets.MLP).apply(model, plan)
    assert all("experts" in name for name, p in adapted.named_parameters() if p.requires_grad)
    with pytest.raises(PlanError) as refused:
        replace(EXPERTS, targets=Targets.MLP, experts=False).apply(tiny("mixtral"), plan)
    assert refused.value.reason == "TARGET_NOT_FOUND"


@pytest.mark.parametrize("targets", [Targets.ALL_LINEAR, Targets.MLP])
def test_plain_peft_loads_the_adapter_with_our_logits(mixed: Plan, targets: Targets) -> None:
    from transformers import AutoModelForCausalLM

    loop = loop_of(replace(mixed, method=replace(EXPERTS, targets=targets)))
    loop.run(scripted([]))
    mixed.artifact.mkdir()
    tokenizer = load_tokenizer(mixed.base.folder)
    loop.plan.method.save(loop.adapted, mixed.artifact, base=mixed.base, tokenizer=tokenizer, dtype=torch.float32)
    config = json.loads((mixed.artifact / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "example/mixture"
    assert len(config["target_parameters"]) == 2 * 2
    base = AutoModelForCausalLM.from_pretrained(mixed.base.folder)
    ids = torch.arange(60)[None] % 256
    with torch.no_grad():
        untrained = base(input_ids=ids).logits
        ours = loop.subject.model.eval()(input_ids=ids).logits
        theirs = PeftModel.from_pretrained(base, mixed.artifact).eval()(input_ids=ids).logits
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
    assert (ours - untrained).abs().max() > 1e-3
    verdict = loop.plan.method.compatibility(mixed.artifact, mixed.base.folder)
    assert verdict.loads
    assert verdict.reason.startswith("needs transformers 5")


def test_a_paused_run_ends_in_the_same_weights_bit_by_bit(mixed: Plan, tmp_path: Path) -> None:
    broken = elsewhere(mixed, tmp_path / "b")
    losses = [step.loss for step in run(mixed).of(event_pb2.StepMetrics)]
    assert losses[-1] < losses[0]
    with pytest.raises(Cancelled):
        run(broken, pausing(2))
    run(broken)
    assert difference(weights(mixed.artifact), weights(broken.artifact)) == 0.0


def test_splitting_a_batch_changes_nothing_but_rounding(mixed: Plan, tmp_path: Path) -> None:
    whole = tuned(mixed, learning_rate=0.5, packing=False, optimizer=OptimizerName.SGD)
    split = elsewhere(tuned(whole, micro_batch_size=1), tmp_path / "b")
    run(whole)
    run(split)
    assert difference(weights(whole.artifact), weights(split.artifact)) < 1e-5
