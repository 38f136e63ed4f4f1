# SPDX-License-Identifier: Apache-2.0
"""Cautions: what is unknown, what does not fit, sharding and renting."""

from typing import Any

from finetree_api.types.v1 import evidence_pb2
from finetree_recommender.estimator.values import Estimate, Evidence, FitState
from finetree_recommender.explain import cautions
from finetree_recommender.messages.summary import headline, paragraph
from finetree_recommender.method import Method
from finetree_recommender.recommend import conclude
from finetree_recommender.rule_pack.pack import Pack, builtin_packs

GPU8 = {"unknown_accelerator": {"marketed_memory_gb": 8}}
GPU24 = {"unknown_accelerator": {"marketed_memory_gb": 24}}
ALL_ANSWERED = {
    "hardware": GPU24,
    "dataset_profile": {"examples": 5000},
    "budget_per_month": {"currency_code": "USD", "units": 300},
    "quality": "QUALITY_NEED_IMPORTANT",
    "time": "TIME_NEED_HOURS",
    "tasks": "TASK_VARIETY_SIMILAR",
}


def test_where_nothing_fits_the_method_that_lacks_least_is_named(pack, read):
    rows = {}
    needs = {Method.LORA: 18.7, Method.QLORA: 8.3, Method.FULL: 47.7, Method.PREFIX: 27.4, Method.ADAPTER: 18.5}
    for method, gib in needs.items():
        peak = evidence_pb2.Interval(low=gib * 2**30, expected=gib * 2**30, high=gib * 2**30)
        usable = int(7.6 * 2**30)
        rows[method, 0] = Estimate(FitState.DOES_NOT_FIT, peak, usable, None, None, 100)
    evidence_1 = builtin_packs()["evidence-1"]
    answer = conclude(evidence_1, read(hardware=GPU8).reread(evidence_1), Evidence(rows, evidence_pb2.Revision(), None))
    (message,) = [caution.message for caution in answer.cautions if caution.code == "NOTHING_FITS"]
    assert "(nearest: QLoRA, which lacks 0.7 GiB)" in message


def test_several_gpus_are_cautioned_with_the_methods_that_may_fit_when_sharded(pack, read, evidence):
    def sharding(
        found: Evidence, policy: Pack = pack, fields: dict[str, Any] | None = None, **hardware: Any
    ) -> list[Method | None]:
        answer = conclude(policy, read(hardware=GPU24 | hardware, **(fields or {})).reread(policy), found)
        return [c.redirect for c in answer.cautions if c.code in ("NOT_SHARDED", "NOT_TRAINED_HERE")]

    small = evidence(qlora="FITS")
    refused = None  # no method is named in place of the recommended one
    assert sharding(small, count=8) == [Method.LORA]
    assert sharding(small, builtin_packs()["evidence-1"], count=8) == [Method.LORA]
    assert not sharding(small)
    # The trainer divides everything or nothing, and trains on one machine.
    assert not sharding(small, count=8, sharding="SHARDING_FULL")
    assert sharding(evidence(lora="FITS"), count=8, sharding="SHARDING_GRADIENTS") == [refused]
    assert sharding(small, count=16, nodes=2) == [refused, Method.LORA]
    best = {"quality": "QUALITY_NEED_MAXIMUM"}
    assert sharding(small, builtin_packs()["evidence-1"], best, count=8) == [Method.LORA]
    assert sharding(evidence(lora="FITS"), builtin_packs()["evidence-1"], best, count=8) == [Method.FULL]
    assert not sharding(evidence(), count=8, sharding="SHARDING_FULL")
    assert not sharding(evidence(lora="FITS"), count=8)
    assert not sharding(evidence(lora="FITS"), count=8, sharding="SHARDING_FULL")


def test_what_is_unknown_is_cautioned(pack, read, evidence):
    answer = conclude(pack, read(parameters=0), None, missing=cautions.HARDWARE_UNKNOWN)
    assert [item.code for item in answer.cautions] == ["HARDWARE_UNKNOWN", "DATASET_UNKNOWN", "MODEL_SIZE_UNKNOWN"]
    tight = conclude(pack, read(**ALL_ANSWERED), evidence(lora="TIGHT"))
    assert [item.code for item in tight.cautions] == ["MEMORY_TIGHT", "LENGTHS_UNKNOWN"]
    assert "shorter rows" in tight.cautions[0].message
    nothing = conclude(pack, read(**ALL_ANSWERED), evidence())
    assert nothing.cautions[0].code == "NOTHING_FITS"
    assert nothing.recipe is None
    assert nothing.plan_digest == ""
    found = evidence(lora="UNKNOWN", qlora=None, full=None)
    silent = conclude(pack, read(hardware={"cpu": {}}), found)
    assert silent.cautions[0].code == "FIT_UNKNOWN"
    assert all(fact in silent.cautions[0].message for fact in ("hardware.cpu.memory_bytes", "LoRA", "10.0 GiB"))
    assert silent.decision.method is None
    assert "memory" in headline(silent)
    assert "a machine without a GPU" in paragraph(silent)


def test_renting_is_offered_where_it_would_change_the_method(pack, read, evidence):
    found = evidence(lora="FITS", qlora="FITS", prefix="FITS")
    offered = conclude(pack, read(hardware=GPU8, can_rent=True), found)
    silent = conclude(pack, read(hardware=GPU8), found)
    assert any(item.code == "RENTING_CHANGES_METHOD" for item in offered.cautions)
    assert not any(item.code == "RENTING_CHANGES_METHOD" for item in silent.cautions)
