# SPDX-License-Identifier: Apache-2.0
"""Whatever the contract allows is either answered with sound numbers or refused with a reason."""

import math

from finetree_api.estimator.v1 import check_plan_pb2, estimate_pb2
from finetree_api.types.v1 import (
    check_pb2,
    estimate_summary_pb2,
    evidence_pb2,
    hardware_pb2,
    method_pb2,
    model_pb2,
    run_spec_pb2,
    training_data_pb2,
    training_pb2,
)
from finetree_estimator.catalog import accelerators, models, price_book
from finetree_estimator.servicer import EstimatorServicer
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.whatif.changes import Patch, apply_patches
from finetree_runtime.errors import DomainError
from finetree_runtime.money import to_money
from finetree_runtime.server.validation import validate
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

KNOWLEDGE = Knowledge(price_book.packaged())
SERVICER = EstimatorServicer(KNOWLEDGE)


def sizes(high):
    """Mostly sensible numbers, sometimes the contract's largest."""
    return st.one_of(st.integers(1, min(high, 300)), st.sampled_from([1, high]))


SHAPES = st.builds(
    model_pb2.ModelShape,
    hidden_size=sizes(1_048_576),
    layers=sizes(4096),
    intermediate_size=sizes(4_194_304),
    attention_heads=sizes(8192),
    kv_heads=st.sampled_from([None, None, None, 1, 8]),
    head_dim=st.one_of(st.none(), st.integers(1, 256), st.just(65_536)),
    vocab_size=sizes(16_777_216),
    tied_embeddings=st.booleans(),
    gated_mlp=st.booleans(),
    experts=st.sampled_from([0, 8, 65_536]),
    active_experts=st.sampled_from([0, 0, 2]),
    attention_bias=st.booleans(),
)
MODELS = st.one_of(
    st.builds(model_pb2.ModelSource, shape=SHAPES),
    st.sampled_from(models.models()).map(lambda entry: model_pb2.ModelSource(name=entry.name)),
)
LORAS = st.builds(
    method_pb2.Lora,
    rank=sizes(4096),
    dropout=st.sampled_from([0.0, 0.1]),
    targets=st.sampled_from(method_pb2.TargetPreset.values()),
)
METHODS = st.one_of(
    st.builds(lambda n: {"full": method_pb2.FullFineTuning(frozen_layers=n)}, st.sampled_from([0, 0, 1, 4096])),
    LORAS.map(lambda lora: {"lora": lora}),
    st.builds(
        lambda lora, kind: {"qlora": method_pb2.Qlora(lora=lora, quantization=kind)},
        LORAS,
        st.sampled_from(method_pb2.Quantization.values()),
    ),
    sizes(65_536).map(lambda n: {"prefix": method_pb2.PrefixTuning(virtual_tokens=n)}),
    st.builds(
        lambda n, place: {"adapter": method_pb2.AdapterLayers(bottleneck_size=n, placement=place)},
        sizes(1_048_576),
        st.sampled_from(method_pb2.AdapterPlacement.values()),
    ),
)
RATES = st.sampled_from([None, 1e-300, 1.0, 1e12, 1e18])
HARDWARE = st.one_of(
    st.sampled_from(accelerators.accelerators()).map(
        lambda entry: hardware_pb2.Hardware(accelerator=entry.name, count=2)
    ),
    st.builds(
        lambda cores, size: hardware_pb2.Hardware(cpu=hardware_pb2.CpuDevice(cores=cores, memory_bytes=size)),
        st.one_of(st.none(), st.integers(1, 4096)),
        st.sampled_from([None, 8 << 30, 2**53 - 1]),
    ),
    st.sampled_from([1e-6, 24.0, 4096.0]).map(
        lambda size: hardware_pb2.Hardware(unknown_accelerator=hardware_pb2.UnknownAccelerator(marketed_memory_gb=size))
    ),
)
TRAININGS = st.builds(
    training_pb2.Training,
    epochs=st.sampled_from([1e-9, 1.0, 3.0, 10_000.0]),
    effective_batch_size=st.sampled_from([8, 64, 1000, 1_048_576]),
    micro_batch_size=st.sampled_from([1, 2, 3, 8, 65_536]),
    sequence_length=st.one_of(st.integers(8, 4096), st.just(16_777_216)),
    packing=st.sampled_from([training_pb2.PACKING_UNSPECIFIED, training_pb2.PACKING_OFF, training_pb2.PACKING_ON]),
    loss_tokens=st.sampled_from(training_pb2.LossTokens.values()),
)
PROFILES = st.builds(
    lambda examples, total, bounds, fraction: training_data_pb2.DatasetProfile(
        examples=examples,
        total_tokens=total,
        target_fraction=fraction,
        token_lengths=[training_data_pb2.TokenLengthBucket(upper_bound=bound, count=count) for bound, count in bounds],
    ),
    st.sampled_from([1, 7, 1000, 10**12]),
    st.sampled_from([None, 1, 10**6, 2**53 - 1]),
    st.lists(st.tuples(st.sampled_from([1, 100, 1 << 30]), st.sampled_from([0, 1, 10**12])), max_size=3),
    st.sampled_from([None, 0.0, 1e-9, 0.3, 1.0]),
)


@st.composite
def requests(draw):
    spec = run_spec_pb2.RunSpec(
        model=draw(MODELS),
        training=draw(TRAININGS),
        hardware=draw(HARDWARE),
        precision=draw(st.sampled_from(training_pb2.Precision.values())),
        optimizer=draw(st.sampled_from(training_pb2.Optimizer.values())),
        attention=draw(st.sampled_from(training_pb2.AttentionKernel.values())),
        gradient_checkpointing=draw(st.sampled_from(training_pb2.GradientCheckpointing.values())),
        loss_kernel=draw(st.sampled_from(training_pb2.LossKernel.values())),
        **draw(METHODS),
    )
    if draw(st.booleans()):
        spec.evaluation.split_fraction = 0.5
        spec.evaluation.metrics.extend([training_pb2.METRIC_LOSS, training_pb2.METRIC_EXACT_MATCH])
        if every := draw(st.sampled_from([None, 1, 100])):
            spec.evaluation.every_steps = every
    if draw(st.booleans()):
        spec.ownership.owned.price_per_kwh.CopyFrom(to_money(draw(st.sampled_from([0.0, 0.3, 1000.0])), "USD"))
    request = estimate_pb2.EstimateRunRequest(spec=spec, view=draw(st.sampled_from(estimate_pb2.EstimateView.values())))
    if (rate := draw(RATES)) is not None:
        request.matrix_rates.bf16_flops_per_second = request.matrix_rates.fp32_flops_per_second = rate
    if draw(st.booleans()):
        request.dataset_profile.CopyFrom(draw(PROFILES))
    return request


@settings(max_examples=300, derandomize=True)
@given(requests())
def test_any_valid_request_is_answered_soundly_or_refused_with_a_reason(request):
    validate(request)
    try:
        estimate = SERVICER.estimate(request)
    except DomainError as error:
        refusal = error.reason
    else:
        refusal = ""
    if refusal:
        assert refusal.isupper()
        return
    if request.view == estimate_pb2.ESTIMATE_VIEW_SUMMARY:
        estimate = checked_against_its_summary(request, estimate)
    parts = [part.bytes for part in estimate.memory.components]
    assert math.isclose(sum(part.expected for part in parts), estimate.memory.device_bytes.expected, rel_tol=1e-9)
    times = [phase.seconds for phase in estimate.time.phases]
    for interval in (*parts, estimate.memory.host_bytes, *times):
        assert 0 <= interval.low <= interval.expected <= interval.high < 2**53
    assert abs(estimate.fit.headroom_bytes) < 2**54
    assert 0 <= estimate.fit.probability <= 1
    assert 0 < estimate.trainable_parameters < 2**53
    for changed in promised(request, estimate):
        assert SERVICER.estimate(changed).fit.verdict == estimate_summary_pb2.FIT_VERDICT_FITS


def checked_against_its_summary(request, summary):
    """The BASIC answer to a request, of which the summary says the totals and nothing else."""
    wanted = estimate_pb2.EstimateRunRequest()
    wanted.CopyFrom(request)
    wanted.view = estimate_pb2.ESTIMATE_VIEW_BASIC
    basic = SERVICER.estimate(wanted)
    totals = estimate_pb2.Estimate(fit=basic.fit, revision=basic.revision)
    for name in ("trainable_parameters", "total_parameters", "optimizer_steps"):
        setattr(totals, name, getattr(basic, name))
    totals.memory.device_bytes.CopyFrom(basic.memory.device_bytes)
    totals.memory.usable_device_bytes = basic.memory.usable_device_bytes
    if basic.HasField("time"):
        totals.time.total_seconds.CopyFrom(basic.time.total_seconds)
    if basic.cost.HasField("total"):
        totals.cost.total.CopyFrom(basic.cost.total)
    assert summary == totals
    return basic


def promised(request, estimate):
    """Requests that the answer says would fit."""
    for remedy in estimate.remedies:
        yield asking(
            request, estimate, {patch.field_path: json_format.MessageToDict(patch.value) for patch in remedy.patches}
        )
    for option in estimate.smallest_hardware:
        chosen = {"accelerator": option.accelerator, "count": option.count, "sharding": option.sharding}
        yield asking(request, estimate, {"ownership": None, "hardware": chosen})
    if estimate.largest.sequence_length:
        yield asking(request, estimate, {"training.sequence_length": estimate.largest.sequence_length})
    if rows := estimate.largest.micro_batch_size:
        yield asking(request, estimate, {"training.micro_batch_size": rows})


def asking(request, estimate, patches):
    changed = estimate_pb2.EstimateRunRequest()
    changed.CopyFrom(request)
    changed.view = estimate_pb2.ESTIMATE_VIEW_BASIC
    changed.spec.CopyFrom(estimate.resolved_spec)
    for path, value in patches.items():
        if path in ("hardware", "ownership"):
            changed.spec.ClearField(path)
        changed.spec.CopyFrom(apply_patches(changed.spec, [Patch(path, value, "")]))
    validate(changed)
    return changed


LIMITS = {
    "COST": [to_money(amount, "USD") for amount in (0.0, 1e-9, 0.1, 1e12)],
    "DURATION_SECONDS": [5e-324, 60.0, 1e6],
    "DEVICE_BYTES": [1.0, float(8 << 30), 1e18],
    "FIT": [None],
    "ENERGY_KWH": [0.0, 1.0],
    "CONFIDENCE": [evidence_pb2.CONFIDENCE_LEVEL_LOW, evidence_pb2.CONFIDENCE_LEVEL_HIGH],
}
POLICIES = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in LIMITS.items()})


@settings(max_examples=150, derandomize=True)
@given(requests(), POLICIES.filter(bool))
def test_any_plan_passes_or_says_what_would_pass_or_why_nothing_would(request, limits):
    asked = check_plan_pb2.CheckPlanRequest(run=request)
    for name, bound in limits.items():
        limit = asked.policy.limits.add(metric=check_plan_pb2.PolicyMetric.Value(f"POLICY_METRIC_{name}"))
        if name == "COST":
            limit.max_money.CopyFrom(bound)
        elif name == "CONFIDENCE":
            limit.min_confidence = bound
        elif bound is not None:
            limit.max = bound
    validate(asked)
    try:
        reply = SERVICER.check(asked)
    except DomainError:
        return
    passed = reply.verdict == check_pb2.CHECK_VERDICT_PASS
    assert [passed, bool(reply.remedies), bool(reply.no_remedy)].count(True) == 1
    for text in (reply.no_remedy, *(check.message for check in reply.checks)):
        assert not {"inf", "nan"} & set(text.split())
    for remedy in reply.remedies:
        changed = check_plan_pb2.CheckPlanRequest()
        changed.CopyFrom(asked)
        patches = [Patch(each.field_path, json_format.MessageToDict(each.value), "") for each in remedy.patches]
        changed.run.spec.CopyFrom(apply_patches(asked.run.spec, patches))
        validate(changed)
        assert SERVICER.check(changed).verdict == check_pb2.CHECK_VERDICT_PASS
