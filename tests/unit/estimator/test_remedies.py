# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_estimator import memory, prices
from finetree_estimator.fit import Verdict, judge
from finetree_estimator.lookups import Knowledge
from finetree_estimator.reading import read
from finetree_estimator.remedies import apply_patch, search
from google.protobuf import json_format

KNOWLEDGE = Knowledge(prices.packaged())


def remedies(spec):
    request = json_format.ParseDict({"spec": spec, "dataset_profile": {"examples": 1000}}, pb.EstimateRunRequest())
    reading = read(request, KNOWLEDGE)
    return reading, search(request, reading, KNOWLEDGE)


def lora(model: str, accelerator: str, **more: object) -> dict[str, object]:
    return {"model": {"name": model}, "lora": {}, "hardware": {"accelerator": accelerator}} | more


@pytest.mark.parametrize(
    "spec",
    [
        lora("llama-3.1-8b", "rtx-4090"),
        lora("llama-3.2-3b", "t4", loss_kernel="LOSS_KERNEL_FULL_LOGITS"),
        {"model": {"name": "llama-3.2-3b"}, "full": {}, "hardware": {"accelerator": "rtx-4090"}},
        {"model": {"name": "llama-3.2-1b"}, "full": {}, "hardware": {"cpu": {"cores": 4, "memory_bytes": 8 << 30}}},
    ],
)
def test_a_remedy_makes_the_run_fit_when_it_is_applied(spec):
    reading, found = remedies(spec)

    assert found
    for remedy in found:
        changed = rs.RunSpec()
        changed.CopyFrom(reading.spec)
        for change in remedy.changes:
            for path, value in change.patches:
                apply_patch(changed, path, value)
        request = pb.EstimateRunRequest(spec=changed, dataset_profile=reading.profile)
        after = memory.estimate(read(request, KNOWLEDGE).run).device
        assert after == remedy.peak
        assert judge(after, reading.run.device.usable_bytes).verdict is Verdict.FITS


def test_what_costs_least_comes_first_and_nothing_is_changed_in_vain():
    _, found = remedies(lora("llama-3.1-8b", "rtx-4090"))
    harms = [sum(change.harm for change in remedy.changes) for remedy in found]

    assert harms == sorted(harms)
    for one in found:
        assert not any(set(one.changes) < set(other.changes) for other in found)


def test_what_fits_needs_no_remedy():
    assert remedies(lora("smollm2-135m-instruct", "a100-80gb"))[1] == []


def test_where_nothing_helps_nothing_is_promised():
    assert remedies(lora("llama-3-70b", "t4"))[1] == []


def test_prefix_tuning_is_never_told_to_recompute():
    _, found = remedies({"model": {"name": "llama-3.2-3b"}, "prefix": {}, "hardware": {"accelerator": "rtx-3090"}})

    assert all(path != "gradient_checkpointing" for r in found for c in r.changes for path, _ in c.patches)


def test_another_method_brings_its_learning_rate():
    _, found = remedies({"model": {"name": "llama-3.1-8b"}, "full": {}, "hardware": {"accelerator": "rtx-4090"}})
    patches = dict(patch for remedy in found for change in remedy.changes for patch in change.patches)

    assert patches["training.learning_rate"] == "0.0002"
