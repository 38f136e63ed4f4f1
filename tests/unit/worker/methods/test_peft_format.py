# SPDX-License-Identifier: Apache-2.0
"""Layers to which peft adds no adapter: presets leave them out, and by name they are refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from finetree_worker.errors import PlanError
from finetree_worker.methods.lora import Lora
from finetree_worker.methods.targets import Targets, short_name
from finetree_worker.plan import Plan

# peft 0.21 calls transformers 5 by old names.
pytestmark = [pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")]

LORA = Lora(rank=4, alpha=8.0, dropout=0.0)
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
REFUSED = {
    "falcon-h1": ("out_proj", "parts of Mamba layers", _ATTENTION | {"in_proj"}),
    "qwen3-next": ("gate_proj", "experts", _ATTENTION | {"in_proj_qkvz", "out_proj"}),
}
"""By kind of model: a layer that peft refuses, what it takes it for, and the attention layers that are adapted."""


def adapted_names(model: Any, plan: Plan, method: Lora) -> set[str]:
    """The short names of the layers that got an adapter."""
    adapted, _ = method.apply(model, plan)
    return {short_name(name.partition(".lora_A")[0]) for name, _ in adapted.named_parameters() if ".lora_A." in name}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_preset_leaves_out_what_peft_refuses(tiny: Callable[..., Any], plan: Plan, kind: str) -> None:
    _, _, attention = REFUSED[kind]
    assert adapted_names(tiny(kind), plan, replace(LORA, targets=Targets.ATTENTION)) == attention
    assert adapted_names(tiny(kind), plan, LORA) >= attention


@pytest.mark.parametrize("kind", REFUSED)
def test_a_layer_that_peft_refuses_is_refused_by_name(tiny: Callable[..., Any], plan: Plan, kind: str) -> None:
    name, taken_for, _ = REFUSED[kind]
    with pytest.raises(PlanError) as refused:
        replace(LORA, modules=("q_proj", name)).apply(tiny(kind), plan)
    assert (refused.value.reason, refused.value.field) == ("TARGET_NOT_FOUND", "lora.target_modules")
    assert f" takes {name} of this model for {taken_for}," in refused.value.message
    assert adapted_names(tiny(kind), plan, replace(LORA, modules=("q_proj",))) == {"q_proj"}


def test_the_same_name_is_adapted_where_peft_takes_it(tiny: Callable[..., Any], plan: Plan) -> None:
    assert "out_proj" in adapted_names(tiny("granite-4"), plan, LORA)
    assert "gate_proj" in adapted_names(tiny("llama"), plan, LORA)
