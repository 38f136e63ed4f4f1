# SPDX-License-Identifier: Apache-2.0

from dataclasses import replace

import pytest
from finetree_estimator.catalog.models import model
from finetree_estimator.estimate import estimate
from finetree_estimator.evidence.corrections import Correction, Factor
from finetree_estimator.memory import cpu, cpu_tensors, peak
from finetree_estimator.memory.peak import Component
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.qlora import Qlora
from finetree_estimator.methods.targets import PRESETS
from finetree_estimator.run import EvaluationPlan, Rows

EQUAL = Rows(count=400, mean=256.0, mean_square=65_536.0, longest=256, target_fraction=0.2)
MIXED = Rows(count=400, mean=128.0, mean_square=20_000.0, longest=256, target_fraction=0.2)

LAYER = 2 * (3 * 1536 + 2 * 576)
"""Bytes per token of the gradients inside one MLP."""


def parts(run):
    return {kind: interval.expected for kind, interval in peak.estimate(run).components}


@pytest.fixture
def small(make_run, cpu):
    """SmolLM2-135M on a CPU, fully trained, one micro-batch of four equal rows a step."""
    return make_run(
        shape=model("smollm2-135m-instruct").shape,
        device=cpu,
        method=Full(),
        master_bytes=2,
        batch=4,
        sequence_length=256,
        packing=True,
        rows=EQUAL,
    )


def test_gradients_count_at_the_loss_only_once_a_micro_batch_has_left_them(small):
    assert Component.GRADIENTS not in parts(small)
    assert parts(replace(small, batch=16))[Component.GRADIENTS] == 2 * 134_515_008


def test_with_checkpointing_all_gradients_are_the_peak_and_then_those_before_a_loss(small):
    """A tied embedding's gradient is added to the head's."""
    once, again = (parts(replace(small, checkpointing=True, batch=batch)) for batch in (4, 16))

    assert once[Component.GRADIENTS] == again[Component.GRADIENTS] == 2 * 134_515_008
    assert Component.ACTIVATIONS not in once
    assert once[Component.TRANSIENT_PEAK] == 2 * 49_152 * 576
    layer = 4 * 256 * (LAYER + cpu_tensors.kept_per_token(small))  # which is computed again
    assert again[Component.TRANSIENT_PEAK] == 2 * 49_152 * 576 + layer


def test_the_interpreter_and_the_holes_are_the_processs_alone(small):
    found, peaks = parts(small), peak.estimate(small)
    outside = found[Component.RUNTIME] + found[Component.FRAGMENTATION]

    assert found[Component.RUNTIME] == cpu.RUNTIME
    assert peaks.device.expected - peaks.allocated.expected == pytest.approx(outside)
    assert peaks.device.expected - peaks.reserved.expected == pytest.approx(found[Component.RUNTIME])


def test_what_needs_bitsandbytes_has_it_loaded(small):
    plain = parts(small)[Component.RUNTIME]
    lora = Lora(8, PRESETS["all-linear"], 0.1)
    for run in (replace(small, optimizer="adamw-8bit"), replace(small, method=Qlora.of(lora))):
        assert parts(run)[Component.RUNTIME] - plain == pytest.approx(cpu.BITSANDBYTES)


def test_rows_of_mixed_lengths_have_products_compiled_up_to_the_librarys_limit(small):
    few, many, unknown = (
        parts(replace(small, rows=MIXED, steps=steps))[Component.RUNTIME] - cpu.RUNTIME for steps in (10, 1000, 0)
    )

    assert 0 < few < many
    assert many == unknown == cpu.KERNEL * cpu.KERNEL_CACHE


def test_no_more_than_a_block_of_logits_exists(small):
    """Beside a trained head's gradient, which is there from the first block on."""
    few, once, more = (
        parts(replace(small, rows=replace(EQUAL, target_fraction=share), micro_batch=rows, batch=rows))
        for share, rows in ((0.25, 4), (1.0, 4), (1.0, 8))
    )

    assert few[Component.TRANSIENT_PEAK] == 2 * 49_152 * (576 + 256)
    assert once[Component.TRANSIENT_PEAK] == 2 * 49_152 * (576 + 512)
    assert more[Component.TRANSIENT_PEAK] == once[Component.TRANSIENT_PEAK]


def test_copies_in_16_bits_of_float32_weights_live_until_their_layer_is_differentiated(small):
    """At the loss all of them are there; when all gradients are, none is left."""
    mixed = replace(small, weight_bytes=2, master_bytes=4)
    count = 134_515_008
    at_the_loss = parts(mixed)
    at_the_end = parts(replace(mixed, rows=replace(EQUAL, mean=16.0, mean_square=256.0, longest=16)))

    assert Component.BASE_WEIGHTS not in at_the_loss
    assert at_the_loss[Component.TRAINABLE_WEIGHTS] == at_the_end[Component.GRADIENTS] == 4 * count
    assert at_the_loss[Component.ACTIVATIONS] > 2 * count
    assert Component.ACTIVATIONS not in at_the_end
    assert at_the_end[Component.TRANSIENT_PEAK] == 4 * 49_152 * 576


def test_held_out_rows_are_scored_first_and_answered_afterwards(small):
    """The larger of the two counts: logits of the targets, or caches with the tensors of one layer."""
    lora = Lora(8, PRESETS["all-linear"], 0.1)
    tiny = replace(
        small,
        method=lora,
        micro_batch=1,
        batch=1,
        sequence_length=32,
        rows=Rows(count=40, mean=32.0, mean_square=1024.0, longest=32, target_fraction=0.2),
    )
    answered = EvaluationPlan(
        rows=Rows(count=400, mean=256.0, mean_square=65_536.0, longest=256, target_fraction=0.01),
        generate=True,
        max_new_tokens=8,
        after=1,
    )
    scored = replace(answered, rows=replace(answered.rows, target_fraction=1.0))
    cached, layer = 40 * 264 * 30 * 2 * 2 * 192, 40 * 256 * 2 * (3 * 1536 + 2 * 576)

    found = parts(replace(tiny, evaluation=answered))
    assert (found[Component.ACTIVATIONS], found[Component.TRANSIENT_PEAK]) == (cached, layer)
    found = parts(replace(tiny, evaluation=scored))
    assert (found[Component.ACTIVATIONS], found[Component.TRANSIENT_PEAK]) == (4096 * 2 * 576, 8 * 49_152 * 1024)


def test_an_evaluation_can_need_more_than_a_step(small):
    lora = Lora(8, PRESETS["all-linear"], 0.1)
    tiny = replace(
        small,
        method=lora,
        micro_batch=1,
        batch=1,
        sequence_length=32,
        rows=Rows(count=40, mean=32.0, mean_square=1024.0, longest=32, target_fraction=0.2),
    )
    held_out = EvaluationPlan(
        rows=Rows(count=400, mean=256.0, mean_square=65_536.0, longest=256, target_fraction=1.0), after=1
    )

    assert parts(replace(tiny, evaluation=held_out))[Component.TRANSIENT_PEAK] == 8 * 49_152 * 1024
    assert peak.estimate(tiny).device.expected < peak.estimate(replace(tiny, evaluation=held_out)).device.expected


def test_each_process_on_a_cpu_holds_a_copy_or_its_share_and_the_host_all_of_them(small):
    copies = replace(small, devices=2, batch=8)
    shards = replace(copies, sharding="full")
    one, two, shared = (peak.estimate(run) for run in (small, copies, shards))
    weights, layers = 2 * 134_515_008, 30

    assert parts(copies)[Component.BASE_WEIGHTS] == parts(small)[Component.BASE_WEIGHTS] == weights
    # The embeddings, which are the head too, stay whole between the passes.
    root = 2 * 49_152 * 576
    assert parts(shards)[Component.BASE_WEIGHTS] == pytest.approx(weights / 2 + root)
    assert parts(shards)[Component.OPTIMIZER_STATES] == parts(small)[Component.OPTIMIZER_STATES] / 2
    assert shared.device.expected < two.device.expected
    assert two.device.expected >= one.device.expected
    for peaks, processes in ((one, 1), (two, 2), (shared, 2)):
        assert peaks.host.expected == pytest.approx(processes * peaks.device.expected)
        assert peaks.host.high == pytest.approx(processes * peaks.device.high)
    # While a layer is computed, two are whole.
    layer = (weights - root) / layers
    gathered = cpu._at_the_loss(shards, 0.0, 2 * layer).transient - cpu._at_the_loss(shards, 0.0, 0.0).transient
    assert 0 <= gathered <= 2 * layer


def test_what_was_observed_of_a_process_corrects_the_host_of_all(small):
    known = Factor(value=1.5, weight=0.9, spread=0.05, observations=18)
    found = estimate(replace(small, devices=2, batch=8), Correction(device="cpu", date="2026-11-25", memory=known))

    assert found.memory.host.expected == pytest.approx(2 * found.memory.device.expected)
    assert [remark.code for remark in found.remarks].count("DEVICES_SHARE_CORES") == 1
