# SPDX-License-Identifier: Apache-2.0
"""Full fine-tuning: frozen layers, and what plain transformers loads."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_worker.errors import PlanError
from finetree_worker.methods.full import Full
from finetree_worker.plan import Plan
from finetree_worker.training.run import adapt, load
from safetensors import safe_open
from worker_harness import run

CPU = torch.device("cpu")


def test_as_many_frozen_layers_as_there_are_leave_nothing_to_train(plan: Plan) -> None:
    with pytest.raises(PlanError) as refused:
        adapt(replace(plan, method=Full(frozen_layers=2)), load(plan, CPU), CPU)
    assert (refused.value.reason, refused.value.field) == ("NOTHING_TO_TRAIN", "full.frozen_layers")
    assert "at most 1 layers" in refused.value.remedy


def base_of(plan: Plan) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(plan.base.folder).eval()


def test_plain_transformers_loads_a_full_model(plan: Plan) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run(replace(plan, method=Full()))
    model = AutoModelForCausalLM.from_pretrained(plan.artifact)
    tokenizer = AutoTokenizer.from_pretrained(plan.artifact)
    assert tokenizer.chat_template
    # The tokenizer has fewer tokens than the model has rows: nobody resizes it, or adapters would fit no more.
    assert len(tokenizer) < model.get_input_embeddings().num_embeddings == model.config.vocab_size
    assert model.config.vocab_size == base_of(plan).config.vocab_size
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert (model(input_ids=ids).logits - base_of(plan)(input_ids=ids).logits).abs().max() > 1e-2
    assert str(plan.base.folder) not in (plan.artifact / "config.json").read_text()


@pytest.mark.parametrize("tied", [True, False])
def test_16_bit_weights_are_stored_once_and_named_as_what_they_are(plan: Plan, tmp_path: Path, *, tied: bool) -> None:
    """Trained in float32, written in bfloat16: a reader that goes by config.json takes no more memory than that."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(plan.base.folder)
    config.tie_word_embeddings = tied
    model = AutoModelForCausalLM.from_config(config).float()
    tokenizer = AutoTokenizer.from_pretrained(plan.base.folder)
    Full().save(model, tmp_path, base=plan.base, tokenizer=tokenizer, dtype=torch.bfloat16)
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert written["dtype"] == written["torch_dtype"] == "bfloat16"
    with safe_open(tmp_path / "model.safetensors", framework="pt") as stored:
        assert {stored.get_tensor(name).dtype for name in stored.keys()} == {torch.bfloat16}  # noqa: SIM118
        assert ("lm_head.weight" in stored.keys()) is not tied  # noqa: SIM118
    found = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert found.dtype == torch.bfloat16
    assert torch.equal(found.lm_head.weight, model.lm_head.weight.bfloat16())
