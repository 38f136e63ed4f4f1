# SPDX-License-Identifier: Apache-2.0
"""Full fine-tuning: frozen layers, and what plain transformers loads."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from finetree_worker.errors import PlanError
from finetree_worker.methods.full import Full
from finetree_worker.plan import Plan
from finetree_worker.training.run import adapt, load
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
