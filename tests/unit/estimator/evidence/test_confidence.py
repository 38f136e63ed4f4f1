# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_estimator.catalog.accelerators import accelerator
from finetree_estimator.catalog.devices import known
from finetree_estimator.catalog.models import model
from finetree_estimator.evidence.confidence import (
    OBSERVED_ENOUGH,
    Confidence,
    Level,
    Nearest,
    memory_spread,
    time_spread,
)
from finetree_estimator.evidence.corrections import Correction, Factor
from finetree_estimator.methods.adapter import Adapter
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.qlora import Qlora
from finetree_estimator.methods.targets import PRESETS
from finetree_estimator.programs import FINETREE, TRANSFORMERS
from finetree_estimator.run import Rows
from finetree_estimator.shapes.mixers import LinearAttention

SPREADS = pytest.mark.parametrize("spread", [memory_spread, time_spread])


@pytest.fixture
def published(make_run):
    """A run of the published kind: LoRA of Llama-3-8B with checkpointing on an A100."""
    return make_run(
        shape=model("llama-3-8b").shape,
        method=Lora(4, PRESETS["query-value"]),
        device=known(accelerator("a100-80gb-pcie"), fp32=False),
        micro_batch=2,
        batch=8,
        sequence_length=1024,
        rows=Rows(count=4096, mean=1024.0, mean_square=1024.0**2, longest=1024, target_fraction=1.0),
        checkpointing=True,
        program=TRANSFORMERS,
    )


def said(found: Confidence) -> dict[str, str]:
    return {reason.code: reason.message for reason in found.reasons}


def test_a_published_case_has_high_confidence_and_needs_no_reasons(published):
    found = Nearest(published).confidence()

    assert (found.memory, found.time) == (Level.HIGH, Level.HIGH)
    assert (found.memory_distance, found.time_distance, found.reasons) == (0.0, 0.0, ())


def test_a_quantized_base_lowers_confidence_and_says_so(published):
    found = Nearest(replace(published, method=Qlora.of(Lora(4, PRESETS["query-value"])))).confidence()

    assert (found.memory, found.time) == (Level.MEDIUM, Level.MEDIUM)
    assert said(found)["BASE_BITS_NOT_MEASURED"] == "no measured peak or speed is of a 4-bit base"


def test_linear_attention_lowers_confidence_and_says_so(published):
    linear = LinearAttention(layers=1, key_heads=2, key_head_dim=16, value_heads=2, value_head_dim=16)
    found = Nearest(replace(published, shape=replace(published.shape, linear=linear))).confidence()

    assert found.memory is not Level.HIGH
    assert found.time is not Level.HIGH
    assert any("linear attention" in reason.message for reason in found.reasons)


def test_a_guessed_architecture_lowers_confidence_and_says_so(published):
    found = Nearest(replace(published, shape=replace(published.shape, guessed=True))).confidence()

    assert (found.memory, found.time) == (Level.MEDIUM, Level.MEDIUM)
    assert "ARCHITECTURE_NOT_MEASURED" in said(found)


def test_a_cpu_is_far_from_published_runs_and_says_so(published, cpu):
    found = Nearest(replace(published, device=cpu, program=FINETREE)).confidence()

    assert (found.memory, found.time) == (Level.LOW, Level.LOW)
    assert said(found)["ACCELERATOR_NOT_MEASURED"] == "no measured peak or speed is on cpu"


def test_an_unseen_accelerator_lowers_confidence_in_time_more_than_in_memory(published):
    found = Nearest(replace(published, device=known(accelerator("v100-16gb"), fp32=False))).confidence()

    assert found.memory is Level.HIGH
    assert found.time is Level.MEDIUM
    assert "ACCELERATOR_NOT_MEASURED" in said(found)


def test_a_much_larger_model_is_a_reason(published):
    found = Nearest(replace(published, shape=model("qwen2.5-0.5b").shape)).confidence()

    assert said(found)["MODEL_SIZE_DIFFERS"].startswith("the model has 0.494 billion parameters, the nearest")


def test_a_setting_that_was_measured_elsewhere_is_told_with_the_nearest(published):
    found = Nearest(replace(published, checkpointing=False)).confidence()

    text = "the nearest measured speed is with checkpointing, this run is without checkpointing"
    assert said(found)["CHECKPOINTING_DIFFERS"] == text


def test_each_further_difference_only_adds_distance(published, cpu):
    changes = [
        {},
        {"program": FINETREE},
        {"method": Adapter(64)},
        {"eager_attention": True},
        {"devices": 64},
        {"device": cpu},
    ]
    run, memory, time = published, [], []
    for change in changes:
        run = replace(run, **change)
        found = Nearest(run).confidence()
        memory.append(found.memory_distance)
        time.append(found.time_distance)

    assert memory == sorted(memory)
    assert time == sorted(time)
    assert memory[-1] == time[-1] == 1.0


def learned(*, memory=0, step_time=0):
    factors = [
        Factor(value=1.1, weight=0.5, spread=0.1, observations=points) if points else Factor()
        for points in (memory, step_time)
    ]
    return Correction(device="test", date="2026-11-25", memory=factors[0], step_time=factors[1])


def test_enough_observed_runs_of_the_device_make_it_and_the_program_known(published, cpu):
    run = replace(published, device=cpu, program=FINETREE)
    points = OBSERVED_ENOUGH - 1
    few = Nearest(run, learned(memory=points, step_time=points)).confidence()
    enough = Nearest(run, learned(memory=OBSERVED_ENOUGH, step_time=OBSERVED_ENOUGH)).confidence()

    assert few == Nearest(run).confidence()
    assert (enough.memory_distance, enough.time_distance) == (0.0, 0.0)
    assert (enough.memory, enough.time) == (Level.HIGH, Level.HIGH)


def test_observed_speeds_say_nothing_of_memory(published, cpu):
    found = Nearest(replace(published, device=cpu), learned(step_time=OBSERVED_ENOUGH)).confidence()

    assert (found.memory, found.time) == (Level.LOW, Level.HIGH)


def test_observed_runs_do_not_make_another_method_known(published):
    correction = learned(memory=1000, step_time=1000)
    found = Nearest(replace(published, method=Adapter(64)), correction).confidence()

    assert found.memory is Level.MEDIUM
    assert said(found)["METHOD_NOT_MEASURED"] == "no measured peak or speed is of bottleneck adapters"


@SPREADS
def test_intervals_are_as_wide_as_the_evidence_says_where_the_case_was_measured(spread):
    assert spread(0.0) == 1.0


@SPREADS
def test_intervals_widen_with_the_distance_up_to_far_and_never_narrow(spread):
    found = [spread(step / 20) for step in range(21)]

    assert found == sorted(found)
    assert len(set(found)) == len(found)
    assert spread(5.0) == spread(1.0) > 1.2
    assert spread(-1.0) == 1.0
