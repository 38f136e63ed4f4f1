# SPDX-License-Identifier: Apache-2.0
from collections import OrderedDict
from dataclasses import fields, replace
from itertools import product

import pytest
from finetree_estimator import estimate as engine
from finetree_estimator.catalog.devices import Device
from finetree_estimator.catalog.models import model
from finetree_estimator.catalog.parameters import routed_weights
from finetree_estimator.catalog.price_book import Owned
from finetree_estimator.intervals import Kind, Source
from finetree_estimator.memory import activations, peak, step_peak
from finetree_estimator.memory.peak import Component
from finetree_estimator.methods.base import PRESETS, Bottleneck, Full, LoraAdapters, Prefix, QuantizedLora
from finetree_estimator.programs import FINETREE, LITGPT, TRANSFORMERS
from finetree_estimator.run import EvaluationPlan, Rows, Run

GIB = 1024**3
LORA = LoraAdapters(8, PRESETS["all-linear"], 0.1)
ALL_METHODS = [Full(), LORA, QuantizedLora(LORA), Prefix(20), Bottleneck(64)]


def parts(run):
    return {kind: interval.expected for kind, interval in peak.estimate(run).components}


@pytest.mark.parametrize("method", ALL_METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_the_components_add_up_to_the_device_peak(make_run, request, method, device):
    estimate = peak.estimate(make_run(method=method, device=request.getfixturevalue(device)))

    assert sum(i.expected for _, i in estimate.components) == pytest.approx(estimate.device.expected, rel=1e-12)
    assert estimate.allocated.expected < estimate.reserved.expected <= estimate.device.expected
    for interval in (estimate.allocated, estimate.reserved, estimate.device, estimate.host):
        assert 0 < interval.low <= interval.expected <= interval.high


def test_a_16_bit_base_is_two_bytes_a_parameter(make_run):
    assert parts(make_run())[Component.BASE_WEIGHTS] == 2 * 3_212_749_824


def test_adapters_cost_sixteen_bytes_a_parameter_with_adamw(make_run):
    found = parts(make_run(method=LoraAdapters(32, PRESETS["query-value"])))

    assert found[Component.TRAINABLE_WEIGHTS] == 4 * 9_175_040
    assert found[Component.GRADIENTS] == 4 * 9_175_040
    assert found[Component.OPTIMIZER_STATES] == 8 * 9_175_040


def test_pure_bf16_full_fine_tuning_costs_eight_bytes_a_parameter(make_run):
    found = parts(make_run(method=Full(), master_bytes=2))
    states = found[Component.BASE_WEIGHTS] + found[Component.GRADIENTS] + found[Component.OPTIMIZER_STATES]

    # PEFT's full fine-tuning of this model: 23.9 GiB of its 36.2 (reference, 3.3).
    assert states / GIB == pytest.approx(23.9, abs=0.05)
    assert Component.TRAINABLE_WEIGHTS not in found


def test_mixed_precision_full_fine_tuning_costs_eighteen_bytes_a_parameter(make_run):
    found = parts(make_run(method=Full(), master_bytes=4))
    fixed = (Component.BASE_WEIGHTS, Component.TRAINABLE_WEIGHTS, Component.GRADIENTS, Component.OPTIMIZER_STATES)

    assert sum(found[kind] for kind in fixed) == 18 * 3_212_749_824


@pytest.mark.parametrize(
    ("optimizer", "per_parameter"), [("sgd", 0), ("adamw-8bit", 2.05), ("paged-adamw-8bit", 0), ("adamw", 4)]
)
def test_optimizer_states(make_run, optimizer, per_parameter):
    found = parts(make_run(method=Full(), master_bytes=2, optimizer=optimizer))

    assert found.get(Component.OPTIMIZER_STATES, 0) == pytest.approx(per_parameter * 3_212_749_824)


def test_paged_states_are_the_hosts(make_run):
    """torchtune trains all of an 8B model on a card of 24 GB so: 18.9 GiB at the peak (reference, 3.3)."""
    plain, paged = (peak.estimate(make_run(method=Full(), optimizer=o)) for o in ("sgd", "paged-adamw-8bit"))

    assert paged.device == plain.device
    assert paged.host.expected - plain.host.expected == pytest.approx(2.05 * 3_212_749_824)


def test_double_quantisation_leaves_an_eighth_of_a_bit(make_run):
    once = parts(make_run(method=QuantizedLora(LORA, double=False)))[Component.QUANTIZATION]
    twice = parts(make_run(method=QuantizedLora(LORA, double=True)))[Component.QUANTIZATION]
    packed = 28 * (3072 * 3072 * 2 + 3072 * 1024 * 2 + 3 * 3072 * 8192)

    assert (once - twice) / packed == pytest.approx(0.0625 - 0.01587, rel=1e-3)


def test_gptq_keeps_a_scale_and_a_zero_point_for_each_group(make_run):
    found = parts(make_run(method=QuantizedLora(LORA, grouped=True)))
    packed = 28 * (3072 * 3072 * 2 + 3072 * 1024 * 2 + 3 * 3072 * 8192)

    assert found[Component.BASE_WEIGHTS] - 2 * (3_212_749_824 - packed) == pytest.approx((0.5 + 2.5 / 128) * packed)
    assert found[Component.QUANTIZATION] == 2 * 3072 * 8192


def test_activations_of_a_layer_are_what_a_traced_step_keeps(make_run):
    """transformers 5.24, peft 0.21, Llama-3.2-3B's layers, traced: norms 8h, two adapter inputs 8h, attention, MLP 6i.

    About 114 kB per token and layer are backed out of PEFT's published peak (reference, 3.4).
    """
    run = make_run(method=LoraAdapters(4, ("q_proj", "v_proj")), program=TRANSFORMERS)

    assert activations.saved_per_layer(run) == 8 * 3072 + 8 * 3072 + 2 * 2 * (3072 + 1024) + 4 * 24 + 6 * 8192


def test_full_fine_tuning_keeps_the_inputs_of_every_linear_layer(make_run):
    frozen = activations.saved_per_layer(make_run(method=Prefix(1), program=TRANSFORMERS)) - 2 * 2 * 1024
    trained = activations.saved_per_layer(make_run(method=Full(), master_bytes=2, program=TRANSFORMERS))

    # The inputs of attention and MLP, the MLP's wide tensor, and two normalised inputs for the norms' own scales.
    assert trained - frozen == 2 * (2 * 3072 + 8192 + 2 * 3072)


def test_checkpointing_keeps_the_layers_inputs_only(make_run):
    assert step_peak.activation_bytes(make_run(checkpointing=True)) == 2 * 3072 * 28
    assert step_peak.activation_bytes(make_run(checkpointing=True, offloaded=True)) == 0


def test_the_loss_and_the_layer_peak_do_not_add_up(make_run):
    run = make_run(checkpointing=True, loss="full-logits", rows=None)
    tokens = run.peak_tokens
    loss, layer = step_peak.loss_peak(run, tokens), step_peak.layer_peak(run) * tokens

    assert parts(run)[Component.TRANSIENT_PEAK] == max(loss, layer)
    assert loss == 14 * 128_256 * 4 * 512


def test_the_loss_kernel_decides_how_many_logits_exist(make_run):
    peaks = [step_peak.loss_peak(make_run(loss=kind), 8192.0) for kind in ("full-logits", "chunked", "fused")]

    assert peaks[0] == 8 * peaks[1]
    assert peaks[2] < peaks[1]
    assert step_peak.loss_peak(make_run(loss="completion-only"), 100.0) == 14 * 128_256 * 50


def test_rank_barely_matters(make_run):
    """ms-swift, Qwen-7B: rank 2 to 64 moves the peak by 0.5 % (reference, 3.6)."""
    low, high = (
        peak.estimate(make_run(method=LoraAdapters(rank, PRESETS["query-value"]))).device.expected for rank in (2, 64)
    )

    assert high / low < 1.03


def test_accumulation_barely_matters_to_adapters(make_run):
    """ms-swift, Qwen-7B: 27.73 to 27.74 GiB for 1 to 64 micro-batches (reference, 3.6)."""
    one, more, many = (peak.estimate(make_run(batch=batch)).device.expected for batch in (4, 64, 256))

    assert one < more == many < 1.01 * one


def test_accumulation_keeps_all_gradients_of_a_fully_trained_model(make_run):
    one, more = (parts(make_run(method=Full(), master_bytes=2, batch=batch)) for batch in (4, 64))

    assert more[Component.GRADIENTS] == 2 * 3_212_749_824
    assert more[Component.ACTIVATIONS] >= one.get(Component.ACTIVATIONS, 0)


def test_short_rows_need_less_than_the_limit_allows(make_run):
    short = Rows(1000, 50.0, 2600.0, 64, 0.5)

    assert make_run(rows=short).peak_tokens == 4 * 64
    assert make_run(rows=None).peak_tokens == 4 * 512
    only_mean = Rows(1000, 50.0, 2500.0, 512, 0.5, longest_known=False)
    assert make_run(rows=only_mean).peak_tokens == 4 * 512
    assert make_run(rows=only_mean, packing=True).peak_tokens == 16 * 50 + 3 * 50 * 4
    # Packing fills a micro-batch, but never with more than the batch has.
    assert make_run(rows=short, packing=True).peak_tokens == pytest.approx(16 * 50 + 3 * 10 * 4)


def test_eager_attention_keeps_its_scores(make_run):
    plain, eager = make_run(), make_run(eager_attention=True)

    assert activations.saved_per_layer(eager) - activations.saved_per_layer(plain) == (4 + 2) * 24 * 512


def test_float32_groups_of_queries_keep_scores_where_no_mask_is_needed(make_run):
    """Torch's kernels for groups take no float32: its own products keep every score, and keys and values once for each
    query head, as a traced call does (sdpa_kernel(SDPBackend.MATH), enable_gqa)."""

    def beyond_kernels(**changes: object) -> float:
        run = make_run(**{"program": TRANSFORMERS, "weight_bytes": 4, "compute_bytes": 4} | changes)
        return activations.saved_per_layer(run) - activations.layer_of(run.recipe).saved

    whole = {"rows": Rows(1000, 512.0, 512.0**2, 512, 0.5)}
    repeated, scores = 2 * 4 * (24 - 8) * 128, 4 * 24 * 512

    assert beyond_kernels() == repeated
    assert beyond_kernels(**whole) == beyond_kernels(micro_batch=1) == repeated + scores
    assert beyond_kernels(**whole, compute_bytes=2) == beyond_kernels(**whole, program=LITGPT) == 0
    assert beyond_kernels(**whole, shape=model("llama-2-7b").shape) == 0


def test_on_a_cpu_the_host_is_the_device(make_run, cpu):
    estimate = peak.estimate(make_run(device=cpu))

    assert estimate.host == estimate.device


def test_adapters_of_experts_keep_a_second_copy_of_the_experts(make_run):
    """Of all layers until the backward pass, or of one layer that is computed again; its gradient is as large."""
    shape = model("mixtral-8x7b").shape
    one = make_run(shape=shape, method=LoraAdapters(8, ("q_proj",), 0.0))
    both = replace(one, method=LoraAdapters(8, ("q_proj", "experts.gate_up_proj", "experts.down_proj"), 0.0))
    experts = 2 * routed_weights(shape)

    more = step_peak.peak_moment(both).total - step_peak.peak_moment(one).total
    assert experts < more < 1.1 * experts
    again = [replace(run, checkpointing=True) for run in (one, both)]
    more = step_peak.peak_moment(again[1]).total - step_peak.peak_moment(again[0]).total
    assert 2 * experts / shape.layers < more < 3 * experts / shape.layers


OTHERWISE = {
    "shape": model("qwen2.5-7b").shape,
    "method": Prefix(20),
    "device": Device(
        "another GPU", False, 24 * GIB, 80e12, 0.5, 0.5, 1e12, 300.0, sources=(Source(Kind.MEASURED, "x"),)
    ),
    "devices": 2,
    "micro_batch": 2,
    "batch": 32,
    "sequence_length": 384,
    "packing": True,
    "rows": Rows(77, 150.0, 30_000.0, 300, 0.9, longest_known=False),
    "steps": 5,
    "weight_bytes": 4,
    "compute_bytes": 4,
    "master_bytes": 2,
    "optimizer": "sgd",
    "checkpointing": True,
    "offloaded": True,
    "eager_attention": True,
    "loss": "full-logits",
    "evaluation": EvaluationPlan(Rows(9, 9.0, 81.0, 9, 1.0), generate=True, max_new_tokens=9, before=1),
    "checkpoints": 3,
    "payment": Owned(0.3, "EUR"),
    "notes": ("guessed",),
    "runs_per_month": 4.0,
    "carbon_kg_per_kwh": 0.2,
    "program": TRANSFORMERS,
    "sharding": "full",
    "nodes": 2,
    "optimizer_in_backward": True,
}
"""Another value of each field of a run."""


def test_runs_of_the_same_key_have_the_same_peaks(make_run):
    """What the engine's keeping of peaks rests on, one field at a time, whatever the others that matter are."""
    assert {field.name for field in fields(Run) if field.init} == OTHERWISE.keys()
    same = set()
    for several, packing, loss, eager, before, program in product(
        (1, 4), (False, True), ("completion-only", "chunked", "fused"), (False, True), (64, 4), (FINETREE, LITGPT)
    ):
        usual = {"devices": several, "packing": packing, "loss": loss, "eager_attention": eager, "batch": before}
        usual["program"] = program
        run = make_run(sharding="full" if several > 1 else "replicated", **usual)
        for name, value in OTHERWISE.items():
            other = replace(run, **{name: value})
            if peak.decided_by(other) == peak.decided_by(run):
                same.add(name)
                assert peak.estimate(other) == peak.estimate(run), name

    assert {"device", "evaluation", "payment", "steps", "rows"} <= same


def test_peaks_are_kept_for_as_many_runs_as_was_said(make_run, monkeypatch):
    monkeypatch.setattr(engine, "_PEAKS", OrderedDict())
    run = make_run(loss="fused")
    first = engine.fit_of(run)[0]

    assert engine.fit_of(replace(run, device=OTHERWISE["device"], steps=7))[0] is first
    for size in range(1, engine.MOST_PEAKS + 2):
        engine.fit_of(replace(run, micro_batch=size))
    assert len(engine._PEAKS) == engine.MOST_PEAKS
    assert engine.fit_of(run)[0] == first
