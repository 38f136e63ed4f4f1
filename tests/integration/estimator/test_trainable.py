# SPDX-License-Identifier: Apache-2.0
"""Trainable parameters against PEFT's own count, and target modules against the worker's, for every architecture."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import peft
import pytest
from finetree_estimator.catalog.models import models
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.prefix import Prefix
from finetree_estimator.methods.targets import PRESET_ROLES, adapted, preset_targets
from finetree_estimator.shapes import families
from finetree_estimator.shapes.architecture import Shape
from finetree_estimator.shapes.config_json import hf_config
from finetree_estimator.shapes.parameters import count
from finetree_estimator.shapes.projections import LAYOUTS, MISREAD_MLPS
from finetree_worker.errors import PlanError
from finetree_worker.methods import full as worker_full
from finetree_worker.methods.peft_format import refused_by_peft
from finetree_worker.methods.targets import Targets, linear_names
from transformers import PreTrainedModel

# peft asks the model through a name that transformers 5.24 calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
LAYERS = 4
"""Enough for a layer of each kind; all other dimensions stay those of a real model, for they cost nothing."""


TINY = {
    "hidden_size": 64,
    "num_hidden_layers": LAYERS,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 128,
    "max_position_embeddings": 64,
}
"""Of the families without a model in the catalog."""
MIXTURES_OF_NO_ENTRY = {"llama4_text": {"num_local_experts": 8, "num_experts_per_tok": 1}}


@cache
def small(family: str) -> Shape:
    """A model of a family, or of one entry's shape, with few layers, from the catalog where it has one."""
    for entry in models():
        if family in ((shape := entry.shape).family, entry.name):
            linear = replace(shape.linear, layers=LAYERS - 1) if shape.linear else None
            extra = shape.extra // shape.layers * LAYERS
            fewer = replace(shape, layers=LAYERS, linear=linear, extra=extra)
            if shape.full_attention:
                # Each kind of attention once with keys and values of its own, and once with those of another layer.
                fewer = replace(fewer, full_attention_layers=2, kv_shared_layers=2 if shape.kv_shared_layers else 0)
            return fewer
    return hf_config.parse({"model_type": family} | TINY | MIXTURES_OF_NO_ENTRY.get(family, {})).shape


@pytest.fixture(scope="module")
def untouched(build) -> Callable[[str], PreTrainedModel]:
    """The small model of a family, built once for all tests that only look at it."""
    return cache(lambda family: build(small(family)))


def _of_two_widths(shape: Shape) -> bool:
    """Whether keys differ from values or between layers, which peft's prefix knows nothing of."""
    return bool(shape.full_attention or shape.latent)


FAMILIES = sorted([*LAYOUTS, "gemma-4-e2b"])
"""With a second Gemma 4: one that has experts says nothing of layers that share keys and get inputs of their own."""
MIXTURES = [family for family in FAMILIES if small(family).experts]
CASES = [(family, preset) for family in FAMILIES for preset in PRESET_ROLES if preset_targets(small(family), preset)]


def with_lora(model, **settings: object) -> peft.PeftModel:
    # PEFT takes the MLP names of some mixtures for those that their experts had before transformers 5.
    model.config.model_type = "of-no-interest"
    config = peft.LoraConfig(task_type="CAUSAL_LM", bias="none", lora_dropout=0.0, **settings)
    return peft.get_peft_model(model, config, low_cpu_mem_usage=True)  # without storage, as the model is


@pytest.mark.parametrize("family", FAMILIES)
def test_every_architecture_is_counted_as_transformers_builds_it(family, untouched):
    assert count(small(family)).total == untouched(family).num_parameters()


def test_layouts_and_traits_are_of_the_same_families():
    assert LAYOUTS.keys() == families.FAMILIES.keys()


@pytest.mark.parametrize("weight_decomposed", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize(("family", "preset"), CASES)
def test_lora_has_as_many_parameters_as_pefts(family, preset, weight_decomposed, build):
    shape = small(family)
    targets = preset_targets(shape, preset)
    model = with_lora(
        build(shape),
        r=8,
        target_modules=list(targets),
        use_dora=weight_decomposed,
        fan_in_fan_out=family == "gpt2",
    )

    method = Lora(8, targets, weight_decomposed=weight_decomposed)
    assert method.trainable_parameters(shape) == model.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("preset", ["all-linear", "mlp"])
@pytest.mark.parametrize("family", MIXTURES)
def test_lora_on_experts_has_as_many_parameters_as_pefts(family, preset, build):
    shape = small(family)
    targets = preset_targets(shape, preset, experts=True)
    stacked = [name for name in targets if name.startswith("experts.")]
    assert stacked
    model = with_lora(
        build(shape),
        r=8,
        target_modules=[name for name in targets if name not in stacked],
        target_parameters=stacked,
    )

    assert Lora(8, targets).trainable_parameters(shape) == model.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("family", [family for family in FAMILIES if not _of_two_widths(small(family))])
def test_a_prefix_has_as_many_parameters_as_pefts(family, build):
    shape = small(family)
    # PEFT does not know MPT's name for the number of heads.
    heads = shape.heads if family == "mpt" else None
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=20, num_attention_heads=heads)
    model = peft.get_peft_model(build(shape), config)

    assert Prefix(20).trainable_parameters(shape) == model.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("frozen", [0, 1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_full_fine_tuning_trains_what_the_worker_leaves_unfrozen(family, frozen, build):
    shape = small(family)
    model, _ = worker_full.Full(frozen_layers=frozen).apply(build(shape), None)

    expected = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert Full(frozen).trainable_parameters(shape) == expected


@pytest.mark.parametrize("preset", list(PRESET_ROLES))
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gpt2"])
def test_presets_name_the_modules_that_the_worker_adapts(family, preset, untouched):
    shape, model = small(family), untouched(family)
    targets = preset_targets(shape, preset)
    if not targets and family not in MISREAD_MLPS:
        with pytest.raises(PlanError) as refused:
            linear_names(model, Targets(preset))
        assert refused.value.reason == "TARGET_NOT_FOUND"
        return

    found = linear_names(model, Targets(preset), required=False)
    names = [name for name in found if not refused_by_peft(model, name)]
    ours = sorted(part.name for _, part, layers in adapted(shape, targets) for _ in range(layers))
    assert sorted(re.sub(r"^.*?\.\d+\.", "", name) for name in names) == ours
