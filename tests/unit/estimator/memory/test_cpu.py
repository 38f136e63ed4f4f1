# SPDX-License-Identifier: Apache-2.0
"""The count of the worker's tensors on a CPU: against the committed measurements, and its rules one by one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_estimator.catalog.models import model
from finetree_estimator.catalog.prices import packaged
from finetree_estimator.memory import cpu, cpu_tensors, peak
from finetree_estimator.memory.peak import Component
from finetree_estimator.methods.base import PRESETS, Bottleneck, Full, LoraAdapters, trainable_parameters
from finetree_estimator.run import EvaluationPlan, Rows
from finetree_estimator.spec.parse import parse_request
from finetree_estimator.spec.resolve import Knowledge
from google.protobuf import json_format

RESULTS = Path(__file__).parents[4] / "benchmarks" / "results" / "estimator" / "cpu_memory.json"
CASES = json.loads(RESULTS.read_text())["cases"]
EQUAL = Rows(400, 256.0, 65_536.0, 256, 0.2)
MIXED = Rows(400, 128.0, 20_000.0, 256, 0.2)


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


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"].replace(" ", "-"))
def test_measured_peaks_come_out(case):
    request = pb.EstimateRunRequest()
    json_format.ParseDict({"spec": case["spec"], "dataset_profile": case["measured"]["rows"]}, request)
    found = peak.estimate(parse_request(request, Knowledge(packaged())).run)

    assert found.allocated.expected == pytest.approx(case["measured"]["allocated"], rel=0.05)
    assert found.device.expected == pytest.approx(case["measured"]["process"], rel=0.1)
    assert found.device.low <= case["measured"]["process"] <= found.device.high


def test_gradients_count_at_the_loss_only_once_a_micro_batch_has_left_them(small):
    assert Component.GRADIENTS not in parts(small)
    assert parts(replace(small, batch=16))[Component.GRADIENTS] == 2 * 134_515_008


def test_with_checkpointing_the_two_gradients_of_a_tied_embedding_are_the_peak(small):
    found = parts(replace(small, checkpointing=True))

    assert Component.ACTIVATIONS not in found
    assert found[Component.GRADIENTS] == 2 * 134_515_008
    assert found[Component.TRANSIENT_PEAK] == 2 * 2 * 49_152 * 576


def test_the_interpreter_and_the_holes_are_the_processs_alone(small):
    found, peaks = parts(small), peak.estimate(small)
    outside = found[Component.RUNTIME] + found[Component.FRAGMENTATION]

    assert found[Component.RUNTIME] == cpu.RUNTIME
    assert peaks.device.expected - peaks.allocated.expected == pytest.approx(outside)
    assert peaks.device.expected - peaks.reserved.expected == pytest.approx(found[Component.RUNTIME])


def test_rows_of_mixed_lengths_have_products_compiled_up_to_the_librarys_limit(small):
    few, many, unknown = (
        parts(replace(small, rows=MIXED, steps=steps))[Component.RUNTIME] - cpu.RUNTIME for steps in (10, 1000, 0)
    )

    assert 0 < few < many
    assert many == unknown == cpu.KERNEL * cpu.KERNEL_CACHE


def test_long_rows_keep_no_scores(small):
    """Up to 256 tokens attention is plain products in float32; beyond it the fused kernel works in 16 bits."""
    long = replace(small, rows=replace(EQUAL, mean=512.0, mean_square=512.0**2, longest=512), sequence_length=512)
    scores, narrow, output, normalizer = 4 * 9 * 256, 2 * 576, 2 * 576, 4 * 9
    float32 = 3 * 4 * 576

    difference = cpu_tensors.kept_per_token(small) - cpu_tensors.kept_per_token(long)
    assert difference == scores + float32 + output - 3 * narrow - output - normalizer


def test_projections_that_read_the_same_tensor_share_its_dropped_copy(small):
    adapted = {
        name: cpu_tensors.kept_per_token(replace(small, method=LoraAdapters(8, PRESETS[name], 0.1), master_bytes=4))
        for name in ("query-value", "attention")
    }

    # The output projection's input with its mask, and the narrow outputs of two more adapters.
    assert adapted["attention"] - adapted["query-value"] == 2 * 2 * 576 + 2 * 2 * 8


@pytest.mark.parametrize(("places", "first"), [(1, False), (2, True)], ids=["after the MLP", "after attention too"])
def test_below_the_first_bottleneck_nothing_is_kept(small, places, first):
    """Of a single layer only what stands behind its first bottleneck is kept: that one's input, or the MLP as well."""
    bottleneck = replace(small, method=Bottleneck(64, places), master_bytes=4)
    tokens, copies = 4 * 256, 2 * trainable_parameters(bottleneck.method, replace(small.shape, layers=1))
    alone = parts(replace(bottleneck, shape=replace(small.shape, layers=1)))[Component.ACTIVATIONS]

    inputs, last_norm = places * 2 * (576 + 64), 4 * 576
    mlp = 4 * 576 + 3 * 2 * 1536 if first else 0
    assert alone == tokens * (inputs + last_norm + mlp) + copies


def test_no_more_than_a_chunk_of_logits_exists(small):
    learned = replace(EQUAL, target_fraction=1.0)
    once, more = (
        parts(replace(small, rows=learned, micro_batch=rows, batch=rows))[Component.TRANSIENT_PEAK] for rows in (4, 8)
    )

    assert once == 12 * 49_152 * 1024
    assert more == once + 2 * 49_152 * 576  # the head's gradient is there when the second chunk is differentiated


def test_copies_in_16_bits_of_float32_weights_live_until_their_layer_is_differentiated(small):
    """At the loss all of them are there; when all gradients are, none is left."""
    mixed = replace(small, weight_bytes=2, master_bytes=4)
    count, embedding = 134_515_008, 49_152 * 576
    at_the_loss = parts(mixed)
    at_the_end = parts(replace(mixed, rows=replace(EQUAL, mean=16.0, mean_square=256.0, longest=16)))

    assert Component.BASE_WEIGHTS not in at_the_loss
    assert at_the_loss[Component.TRAINABLE_WEIGHTS] == at_the_end[Component.GRADIENTS] == 4 * count
    assert at_the_loss[Component.ACTIVATIONS] > 2 * count
    assert Component.ACTIVATIONS not in at_the_end
    assert at_the_end[Component.TRANSIENT_PEAK] == 2 * 4 * embedding


def test_held_out_rows_are_scored_first_and_answered_afterwards(small):
    """The larger of the two counts: logits of the targets, or caches with the tensors of one layer."""
    lora = LoraAdapters(8, PRESETS["all-linear"], 0.1)
    tiny = replace(small, method=lora, micro_batch=1, batch=1, sequence_length=32, rows=Rows(40, 32.0, 1024.0, 32, 0.2))
    answered = EvaluationPlan(Rows(400, 256.0, 65_536.0, 256, 0.01), generate=True, max_new_tokens=8, after=1)
    scored = answered._replace(rows=replace(answered.rows, target_fraction=1.0))
    cached, layer = 40 * 264 * 30 * 2 * 2 * 192, 40 * 256 * 2 * (3 * 1536 + 2 * 576)

    found = parts(replace(tiny, evaluation=answered))
    assert (found[Component.ACTIVATIONS], found[Component.TRANSIENT_PEAK]) == (cached, layer)
    found = parts(replace(tiny, evaluation=scored))
    assert (found[Component.ACTIVATIONS], found[Component.TRANSIENT_PEAK]) == (4096 * 2 * 576, 8 * 49_152 * 1024)


def test_an_evaluation_can_need_more_than_a_step(small):
    lora = LoraAdapters(8, PRESETS["all-linear"], 0.1)
    tiny = replace(small, method=lora, micro_batch=1, batch=1, sequence_length=32, rows=Rows(40, 32.0, 1024.0, 32, 0.2))
    held_out = EvaluationPlan(Rows(400, 256.0, 65_536.0, 256, 1.0), after=1)

    assert parts(replace(tiny, evaluation=held_out))[Component.TRANSIENT_PEAK] == 8 * 49_152 * 1024
    assert peak.estimate(tiny).device.expected < peak.estimate(replace(tiny, evaluation=held_out)).device.expected
