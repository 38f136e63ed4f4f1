# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_estimator.catalog import price_book
from finetree_estimator.spec.parse import parse_request
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.whatif import alternatives
from finetree_estimator.whatif.changes import Patch, apply_patches
from finetree_estimator.whatif.fallbacks import Answer, answer_request
from finetree_estimator.whatif.findings import Verdict
from finetree_estimator.whatif.policy import Limit, Metric, Policy
from google.protobuf import json_format

KNOWLEDGE = Knowledge(price_book.packaged())


def answer(examples: int = 1000, **parts: object) -> Answer:
    spec = {"model": {"name": "llama-3.2-3b"}, "lora": {}, "hardware": {"accelerator": "rtx-4090"}} | parts
    document = {"spec": spec, "dataset_profile": {"examples": examples}}
    return answer_request(json_format.ParseDict(document, estimate_pb2.EstimateRunRequest()), KNOWLEDGE)


def share_of(found: Answer, share: float) -> Limit:
    return Limit(Metric.DURATION_SECONDS, share * found.estimate.times.total.high)


@pytest.mark.parametrize(
    ("training", "path"),
    [
        ({"epochs": 3}, "training.epochs"),
        ({"max_steps": 500}, "training.max_steps"),
        ({"epochs": 1}, "training.epochs"),
    ],
)
def test_a_shorter_run_is_within_the_limit(training, path):
    found = answer(training=training)
    limit = share_of(found, 0.5)
    (shorter,) = alternatives.shorter_runs((limit,), found)

    assert [patch.path for patch in shorter.patches] == [path]
    changed = estimate_pb2.EstimateRunRequest()
    changed.CopyFrom(found.parsed.request)
    changed.spec.CopyFrom(apply_patches(changed.spec, shorter.patches))
    assert answer_request(changed, KNOWLEDGE).estimate.times.total.high <= limit.bound


def test_a_run_within_its_limits_is_not_shortened():
    found = answer()

    assert not list(alternatives.shorter_runs((share_of(found, 1.0),), found))


def test_no_run_is_short_enough_for_a_limit_below_what_does_not_shrink():
    found = answer(training={"max_steps": 2})

    assert not list(alternatives.shorter_runs((Limit(Metric.DURATION_SECONDS, 1e-3),), found))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({}, True),
        ({"ownership": {"rented": {}}}, True),
        ({"ownership": {"owned": {"price_per_kwh": {"nanos": 300_000_000, "currency_code": "EUR"}}}}, False),
        ({"hardware": {"cpu": {"cores": 4}}}, False),
        ({"hardware": {"unknown_accelerator": {"marketed_memory_gb": 24}}}, False),
    ],
)
def test_other_hardware_is_proposed_only_for_rented_named_accelerators(parts, expected):
    assert alternatives.movable(answer(**parts).parsed.request.spec) is expected


def test_remedies_are_of_several_kinds_and_pass_every_limit():
    found = answer(model={"name": "llama-3.1-8b"}, full={}, lora=None)
    limits = (Limit(Metric.FIT),)
    trials = alternatives.Search(Policy(limits), limits, found, KNOWLEDGE).trials()
    chosen = alternatives.best(trials)

    first = [trial.alternative.patches[0].path for trial in chosen]
    assert 1 < len(chosen) <= alternatives.MAX_REMEDIES
    assert max(map(first.count, first)) <= alternatives.ALIKE
    assert all(finding.verdict is Verdict.PASS for trial in chosen for finding in trial.findings.values())


def test_changes_made_together_are_described_together():
    one = alternatives.Alternative((Patch("training.micro_batch_size", 1, "micro-batch 1"),), "micro-batch 1")
    two = alternatives.Alternative((Patch("training.epochs", 1, "1 epoch"),), "1 epoch")

    both = one.and_then(two)
    assert (both.patches, both.summary) == (one.patches + two.patches, "micro-batch 1, 1 epoch")


def test_a_request_becomes_the_same_run_after_no_changes():
    parsed = answer().parsed
    unchanged = estimate_pb2.EstimateRunRequest()
    unchanged.CopyFrom(parsed.request)
    unchanged.spec.CopyFrom(apply_patches(parsed.request.spec, ()))

    assert parse_request(unchanged, KNOWLEDGE).run == parsed.run
