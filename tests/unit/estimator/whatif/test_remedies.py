# SPDX-License-Identifier: Apache-2.0
import itertools

import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.types.v1 import estimate_summary_pb2, run_spec_pb2, training_data_pb2
from finetree_estimator import estimate as engine
from finetree_estimator.catalog import price_book
from finetree_estimator.memory import peak
from finetree_estimator.memory.model_states import ModelStates
from finetree_estimator.run import Run
from finetree_estimator.servicer import EstimatorServicer
from finetree_estimator.spec.parse import parse_request
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.whatif import hardware, largest
from finetree_estimator.whatif.changes import Patch, applicable, apply_patches
from finetree_estimator.whatif.remedies import search
from finetree_runtime.runspec.conflicts import combination_problem
from finetree_runtime.runspec.resolve import resolve_spec
from google.protobuf import json_format

KNOWLEDGE = Knowledge(price_book.packaged())
SERVICER = EstimatorServicer(KNOWLEDGE)
ROWS = {"examples": 1000}
KEPT = {"gradient_checkpointing": "GRADIENT_CHECKPOINTING_OFF"}


def request_of(spec, **parts: object):
    return json_format.ParseDict({"spec": spec, "dataset_profile": ROWS} | parts, estimate_pb2.EstimateRunRequest())


def found_for(spec, **options: int):
    request = request_of(spec)
    parsed = parse_request(request, KNOWLEDGE)
    return parsed, search(parsed, KNOWLEDGE, **options)


def run_of(model: str, accelerator: str, method: str = "lora", count: int = 1, **more: object) -> dict[str, object]:
    hardware = {"accelerator": accelerator, "count": count}
    return {"model": {"name": model}, method: {}, "hardware": hardware} | KEPT | more


def patched(spec: run_spec_pb2.RunSpec, message: estimate_pb2.Remedy) -> run_spec_pb2.RunSpec:
    """The spec with a reply's patches made, as a client makes them."""
    return apply_patches(
        spec, [Patch(each.field_path, json_format.MessageToDict(each.value), "") for each in message.patches]
    )


WASTEFUL = {
    "loss_kernel": "LOSS_KERNEL_FULL_LOGITS",
    "attention": "ATTENTION_KERNEL_EAGER",
    "precision": "PRECISION_BF16_MIXED",
    "training": {"effective_batch_size": 64, "micro_batch_size": 16, "sequence_length": 2048},
}
CPU = {"cpu": {"cores": 4, "memory_bytes": 8 << 30}}
CASES = [
    run_of("llama-3.1-8b", "rtx-4090"),
    run_of("llama-3.1-8b", "t4", "qlora"),
    run_of("llama-3.1-8b", "rtx-4090", "full"),
    run_of("llama-3.1-8b", "t4", "prefix"),
    run_of("llama-3.1-8b", "rtx-4090", "adapter"),
    run_of("llama-3.2-3b", "rtx-4090", "full", count=4),
    run_of("llama-3.2-3b", "t4", **WASTEFUL),
    run_of("llama-3.2-1b", "rtx-4090", "full", **WASTEFUL),
    run_of("llama-3.2-3b", "t4", "qlora", qlora={"quantization": "QUANTIZATION_INT8"}),
    run_of("llama-3.2-1b", "t4", "full", precision="PRECISION_FP32"),
    run_of("llama-3.2-1b", "", "full") | {"hardware": CPU},
]
IDS = [
    f"{next(m for m in ('full', 'lora', 'qlora', 'prefix', 'adapter') if m in case)}-{n}"
    for n, case in enumerate(CASES)
]


@pytest.mark.parametrize("spec", CASES, ids=IDS)
def test_the_service_says_of_the_patched_spec_what_the_remedy_promised(spec):
    estimate = SERVICER.estimate(request_of(spec, view="ESTIMATE_VIEW_FULL"))

    assert estimate.remedies
    for remedy in estimate.remedies:
        changed = patched(estimate.resolved_spec, remedy)
        assert combination_problem(resolve_spec(changed).spec) is None
        after = SERVICER.estimate(
            estimate_pb2.EstimateRunRequest(spec=changed, dataset_profile=training_data_pb2.DatasetProfile(**ROWS))
        )
        assert after.memory.device_bytes == remedy.device_bytes
        assert after.fit.verdict == remedy.verdict == estimate_summary_pb2.FIT_VERDICT_FITS


@pytest.mark.parametrize(
    "spec",
    [
        {"prefix": {}, "model": {"name": "llama-3.1-8b"}, "hardware": {"accelerator": "rtx-2000-ada"}},
        {"full": {}, "training": {"effective_batch_size": 1}, "precision": "PRECISION_FP16_MIXED"}
        | {"model": {"name": "deepseek-coder-6.7b"}, "hardware": {"accelerator": "a100-80gb-pcie", "count": 3}},
    ],
    ids=["prefix", "full"],
)
def test_patches_to_a_spec_that_leaves_much_open_do_what_was_promised(spec):
    """Defaults depend on the method and on the batch: what a remedy rests on, its patches say."""
    estimate = SERVICER.estimate(request_of(spec, view="ESTIMATE_VIEW_FULL"))

    assert estimate.remedies
    for remedy in estimate.remedies:
        asked = request_of(spec)
        asked.spec.CopyFrom(patched(asked.spec, remedy))
        after = SERVICER.estimate(asked)
        assert after.memory.device_bytes == remedy.device_bytes
        assert after.fit.verdict == remedy.verdict == estimate_summary_pb2.FIT_VERDICT_FITS


@pytest.mark.parametrize("spec", CASES, ids=IDS)
def test_no_part_of_a_remedy_does_on_its_own(spec):
    request = request_of(spec)
    parsed = parse_request(request, KNOWLEDGE)
    for remedy in search(parsed, KNOWLEDGE):
        for rest in itertools.combinations(remedy.changes, len(remedy.changes) - 1):
            part = apply_patches(parsed.spec, (patch for change in rest for patch in change.patches))
            run = parse_request(
                estimate_pb2.EstimateRunRequest(spec=part, dataset_profile=parsed.profile), KNOWLEDGE
            ).run
            assert engine.fit_of(run)[1].verdict is not remedy.verdict


@pytest.mark.parametrize("spec", CASES, ids=IDS)
def test_what_costs_least_comes_first_and_nothing_goes_further_than_another(spec):
    _, found = found_for(spec)
    harms = [sum(change.harm for change in remedy.changes) for remedy in found]

    assert harms == sorted(harms)
    for one, other in itertools.permutations(found, 2):
        levels = {change.group: change.level for change in other.changes}
        assert not all(levels.get(change.group, 0) >= change.level for change in one.changes)


@pytest.mark.parametrize("spec", CASES, ids=IDS)
def test_each_change_alone_is_a_spec_that_can_be_estimated(spec):
    parsed = parse_request(request_of(spec), KNOWLEDGE)
    changes = applicable(parsed)

    assert changes
    for change in changes:
        changed = apply_patches(parsed.spec, change.patches)
        assert changed != parsed.spec
        assert combination_problem(resolve_spec(changed).spec) is None
        parse_request(estimate_pb2.EstimateRunRequest(spec=changed, dataset_profile=parsed.profile), KNOWLEDGE)


def test_the_first_remedy_is_the_least_harmful_that_there_is():
    parsed, found = found_for(run_of("llama-3.2-1b", "t4"))
    changes = applicable(parsed)
    singles = []
    for change in changes:
        spec = apply_patches(parsed.spec, change.patches)
        run = parse_request(estimate_pb2.EstimateRunRequest(spec=spec, dataset_profile=parsed.profile), KNOWLEDGE).run
        if engine.fit_of(run)[1].verdict is found[0].verdict:
            singles.append(change)

    assert found[0].changes == (min(singles, key=lambda change: change.harm),)


def test_what_fits_needs_no_remedy():
    assert found_for(run_of("smollm2-135m-instruct", "a100-80gb"))[1] == []


def test_where_nothing_helps_nothing_is_promised():
    assert found_for(run_of("llama-3-70b", "gtx-1050"))[1] == []


def test_of_a_device_of_unknown_memory_nothing_is_promised():
    assert found_for(run_of("llama-3-70b", "", "full") | {"hardware": {"cpu": {"cores": 4}}})[1] == []


def test_a_limit_below_the_device_is_kept():
    limit = 10 << 30
    parsed, found = found_for(run_of("llama-3.2-1b", "rtx-4090"), limit_bytes=limit)

    assert parsed.run.device.usable_bytes > limit
    assert found
    assert all(remedy.peak.high <= limit for remedy in found)


def test_prefix_tuning_is_never_told_to_recompute():
    for accelerator in ("t4", "rtx-4090", "rtx-3090"):
        parsed, _ = found_for(run_of("llama-3.2-3b", accelerator, "prefix"))
        groups = {change.group for change in applicable(parsed)}
        assert "gradient_checkpointing" not in groups


def test_another_method_comes_last_and_brings_its_learning_rate():
    _, found = found_for(run_of("llama-3.1-8b", "t4", "full"))
    patches = {each.path: each.value for remedy in found for change in remedy.changes for each in change.patches}
    parsed, smaller = found_for(run_of("llama-3.2-1b", "t4", "full"))

    assert patches["training.learning_rate"] == 0.0002
    assert all(change.group != "method" for remedy in smaller for change in remedy.changes)
    assert "method" in {change.group for change in applicable(parsed)}


def test_updates_in_the_backward_pass_leave_no_gradients_to_accumulate_or_clip():
    parsed = parse_request(request_of(run_of("llama-3.1-8b", "a100-80gb", "full", count=2)), KNOWLEDGE)
    for change in applicable(parsed):
        if change.group == "optimizer_in_backward":
            training = apply_patches(parsed.spec, change.patches).training
            assert training.effective_batch_size == 2 * training.micro_batch_size
            assert training.max_grad_norm == 0


def test_the_searches_are_short(monkeypatch):
    calls = 0
    real = peak.estimate

    def counted(run: Run, spread: float, **known: ModelStates) -> peak.Memory:
        nonlocal calls
        calls += 1
        return real(run, spread, **known)

    monkeypatch.setattr(peak, "estimate", counted)
    counts = []
    for spec in [*CASES, run_of("llama-3-70b", "a100-80gb", "full", **WASTEFUL)]:
        request = request_of(spec)
        parsed = parse_request(request, KNOWLEDGE)
        calls = 0
        search(parsed, KNOWLEDGE)
        largest.search(parsed)
        hardware.smallest(parsed, KNOWLEDGE)
        counts.append(calls)

    # A peak takes some 50 microseconds: what the FULL view searches stays within a few milliseconds.
    assert 0 < max(counts) <= 120
