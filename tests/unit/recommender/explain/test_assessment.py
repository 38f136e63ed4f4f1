# SPDX-License-Identifier: Apache-2.0
"""What a reply says beside its verdict."""

import os
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import estimate_summary_pb2, evidence_pb2, method_pb2
from finetree_recommender.decision.prior_figures import pack_cost, pack_seconds
from finetree_recommender.estimator.values import Estimate, Evidence, FitState
from finetree_recommender.explain import cautions
from finetree_recommender.explain.confidence import Level
from finetree_recommender.explain.reasons import Standing
from finetree_recommender.messages.recommendation import recommendation
from finetree_recommender.messages.summary import headline, paragraph
from finetree_recommender.method import TRAINABLE_HERE, Method
from finetree_recommender.recommend import conclude
from finetree_recommender.rule_pack.pack import Pack, builtin_packs
from finetree_runtime.money import to_money
from finetree_trainer.jobs import capabilities
from google.protobuf import json_format


def usd(amount: float) -> dict[str, Any]:
    """A Money in proto JSON."""
    return json_format.MessageToDict(to_money(amount, "USD"))


GPU8 = {"unknown_accelerator": {"marketed_memory_gb": 8}}
GPU16 = {"unknown_accelerator": {"marketed_memory_gb": 16}}
GPU24 = {"unknown_accelerator": {"marketed_memory_gb": 24}}
CPU = {"cpu": {"cores": 2, "memory_bytes": 2**34}}
ALL_ANSWERED = {
    "hardware": GPU24,
    "dataset_profile": {"examples": 5000},
    "budget_per_month": usd(300),
    "quality": "QUALITY_NEED_IMPORTANT",
    "time": "TIME_NEED_HOURS",
    "tasks": "TASK_VARIETY_SIMILAR",
}


def codes(answer, method):
    return [reason.code for item in answer.methods if item.method is method for reason in item.reasons]


@pytest.fixture(scope="module")
def answer(pack, read, evidence):
    found = evidence(lora="FITS", qlora="FITS", adapter="FITS", prefix="FITS")
    return conclude(pack, read(**ALL_ANSWERED), found)


def test_all_five_methods_are_listed_with_the_reason_of_each(answer):
    assert answer.methods[0].method is Method.LORA
    assert {item.method for item in answer.methods} == set(Method)
    assert all(item.reasons for item in answer.methods)
    assert codes(answer, Method.LORA) == ["MOST_VOTES"]
    assert codes(answer, Method.QLORA)[:2] == ["OUTVOTED", "CAUTION_QLORA_MEMORY"]
    assert codes(answer, Method.FULL)[:2] == ["DOES_NOT_FIT", "GPU_TOO_SMALL"]
    outvoted = next(item for item in answer.methods if item.method is Method.QLORA).reasons[0]
    assert all(fact in outvoted.message for fact in ("2 votes", "LORA", "5"))


def test_room_for_a_16_bit_base_is_not_claimed_where_the_estimate_shows_that_it_does_not_fit(pack, read, evidence):
    tight = conclude(pack, read(**ALL_ANSWERED), evidence(qlora="FITS"))
    assert tight.decision.method is Method.QLORA
    assert "CAUTION_QLORA_MEMORY" not in codes(tight, Method.QLORA)
    assert "CAUTION_QLORA_MEMORY" not in [caution.code for caution in tight.cautions]
    without = conclude(pack, read(**ALL_ANSWERED), None, missing=cautions.ESTIMATOR_UNAVAILABLE)
    assert "CAUTION_QLORA_MEMORY" in codes(without, Method.QLORA)


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
    assert "(QLORA comes nearest and lacks 0.7 GiB)" in message


def test_several_gpus_that_hold_a_copy_each_are_told_what_sharding_might_do(pack, read, evidence):
    def sharding(
        found: Evidence, policy: Pack = pack, fields: dict[str, Any] | None = None, **hardware: Any
    ) -> list[Method | None]:
        answer = conclude(policy, read(hardware=GPU24 | hardware, **(fields or {})).reread(policy), found)
        return [c.redirect for c in answer.cautions if c.code in ("NOT_SHARDED", "NOT_TRAINED_HERE")]

    small = evidence(qlora="FITS")
    assert sharding(small, count=8) == [Method.LORA]
    assert sharding(small, builtin_packs()["evidence-1"], count=8) == [Method.LORA]
    assert not sharding(small)
    assert sharding(small, count=8, sharding="SHARDING_FULL") == [None]
    best = {"quality": "QUALITY_NEED_MAXIMUM"}
    assert sharding(small, builtin_packs()["evidence-1"], best, count=8) == [Method.LORA]
    assert sharding(evidence(lora="FITS"), builtin_packs()["evidence-1"], best, count=8) == [Method.FULL]
    assert not sharding(evidence(), count=8, sharding="SHARDING_FULL")
    assert not sharding(evidence(lora="FITS"), count=8)


def test_votes_are_told_by_question(answer):
    by_method = {item.method: dict(item.votes) for item in answer.methods}
    assert by_method[Method.LORA] == dict.fromkeys(["q1_memory", "q2_budget", "q3_quality", "q4_time", "q5_tasks"], 1)
    assert by_method[Method.QLORA] == {"q3_quality": 1, "q4_time": 1}


def test_a_method_that_fits_against_a_rule_is_told_so(pack, read, evidence):
    answer = conclude(pack, read(hardware=GPU16), evidence(lora="FITS", qlora="FITS", prefix="FITS"))
    standings = {item.method: item.standing for item in answer.methods}
    assert standings[Method.QLORA] is Standing.RECOMMENDED
    assert standings[Method.LORA] is Standing.FITS_AGAINST_RULE
    assert standings[Method.PREFIX] is Standing.POSSIBLE
    assert standings[Method.FULL] is Standing.REJECTED
    assert codes(answer, Method.LORA)[:2] == ["GPU_TOO_SMALL", "FITS_HERE"]


def test_the_frontier_leaves_out_what_another_method_beats(answer):
    # Same memory, time and cost for all here, so quality alone decides, and LoRA's is the highest that fits.
    by_method = {item.method: item for item in answer.methods}
    assert by_method[Method.LORA].on_frontier
    assert by_method[Method.QLORA].dominated_by is Method.LORA
    assert not by_method[Method.FULL].on_frontier
    assert by_method[Method.FULL].dominated_by is None


def test_the_trainer_runs_every_method_that_is_recommended():
    assert {method.field for method in TRAINABLE_HERE} == set(capabilities.methods())
    assert set(TRAINABLE_HERE) == set(Method)


def test_the_packs_own_figures_stand_in_for_a_missing_estimator(pack, read):
    answer = conclude(pack, read(**ALL_ANSWERED), None, missing=cautions.ESTIMATOR_UNAVAILABLE)
    assert [item.code for item in answer.cautions] == ["ESTIMATOR_UNAVAILABLE"]
    assert answer.estimate is None
    assert answer.recipe is not None
    lora = next(item for item in answer.methods if item.method is Method.LORA)
    assert 2 * 3600 < lora.figures.total_seconds.expected < 8 * 3600
    assert 3 < lora.figures.cost.amount.expected < 12
    assert answer.confidence.level is Level.HIGH


def test_playbook_times_are_its_table_and_grow_with_the_data(pack):
    assert pack_seconds(pack, Method.LORA, 1000).expected == pytest.approx(2 * 3600)
    assert pack_seconds(pack, Method.FULL, 100000).expected == pytest.approx(720 * 3600)
    assert pack_cost(pack, Method.QLORA, 10000).amount.expected == pytest.approx(9.6)
    assert pack_seconds(pack, Method.LORA, 99) is None
    assert pack_seconds(pack, Method.LORA, None) is None
    for method in Method:
        times = [pack_seconds(pack, method, examples).expected for examples in (100, 300, 1000, 5000, 10000, 99999)]
        assert all(less < more for less, more in pairwise(times))


def test_what_is_unknown_is_cautioned(pack, read, evidence):
    answer = conclude(pack, read(parameters=0), None, missing=cautions.HARDWARE_UNKNOWN)
    assert [item.code for item in answer.cautions] == ["HARDWARE_UNKNOWN", "DATASET_UNKNOWN", "MODEL_SIZE_UNKNOWN"]
    tight = conclude(pack, read(**ALL_ANSWERED), evidence(lora="TIGHT"))
    assert [item.code for item in tight.cautions] == ["MEMORY_TIGHT", "LENGTHS_UNKNOWN"]
    nothing = conclude(pack, read(**ALL_ANSWERED), evidence())
    assert nothing.cautions[0].code == "NOTHING_FITS"
    assert nothing.recipe is None
    assert nothing.plan_digest == ""
    found = evidence(lora="UNKNOWN", qlora=None, full=None)
    silent = conclude(pack, read(hardware={"cpu": {}}), found)
    assert silent.cautions[0].code == "FIT_UNKNOWN"
    assert all(fact in silent.cautions[0].message for fact in ("hardware.cpu.memory_bytes", "LORA", "10.0 GiB"))
    assert silent.decision.method is None
    assert "memory" in headline(silent)
    assert "a machine without a GPU" in paragraph(silent)


def test_renting_is_offered_where_it_would_change_the_method(pack, read, evidence):
    found = evidence(lora="FITS", qlora="FITS", prefix="FITS")
    offered = conclude(pack, read(hardware=GPU8, can_rent=True), found)
    silent = conclude(pack, read(hardware=GPU8), found)
    assert any(item.code == "RENTING_CHANGES_METHOD" for item in offered.cautions)
    assert not any(item.code == "RENTING_CHANGES_METHOD" for item in silent.cautions)


def test_a_tie_is_told_and_lowers_confidence(pack, read, evidence):
    fields = {"hardware": GPU16, "dataset_profile": {"examples": 500}, "quality": "QUALITY_NEED_EXPERIMENTAL"}
    answer = conclude(pack, read(**fields), evidence(qlora="FITS", prefix="FITS"))
    assert codes(answer, Method.QLORA)[0] == "TIE_BREAK"
    assert codes(answer, Method.PREFIX)[0] == "LOST_TIE"
    assert "VOTES_TIED" in {factor.code for factor in answer.confidence.factors}


def test_the_playbooks_hours_are_not_put_beside_estimates(pack, read, evidence):
    answer = conclude(pack, read(**ALL_ANSWERED), evidence(lora="FITS", prefix=None))
    by_method = {item.method: item for item in answer.methods}
    assert by_method[Method.PREFIX].figures.total_seconds is None
    assert by_method[Method.PREFIX].figures.cost is None
    assert by_method[Method.LORA].figures.total_seconds.expected == 100


def test_confidence_falls_with_what_is_unknown_and_overruled(pack, read, evidence):
    found = evidence(lora="FITS", qlora="FITS")
    sure = conclude(pack, read(**ALL_ANSWERED), found).confidence
    unsure = conclude(pack, read(hardware=GPU24), found).confidence
    overruled = conclude(pack, read(hardware=CPU), found).confidence
    assert (sure.level, unsure.level, overruled.level) == (Level.HIGH, Level.MEDIUM, Level.LOW)
    assert "RULE_OVERRULED" in {factor.code for factor in overruled.factors}


def test_the_same_question_gives_the_same_bytes(pack, read, evidence):
    first, second = (
        recommendation(conclude(pack, read(**ALL_ANSWERED), evidence(lora="FITS", qlora="TIGHT"))) for _ in range(2)
    )
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


PROGRAM = """
import hashlib
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_recommender.recommend import conclude
from finetree_recommender.explain.cautions import ESTIMATOR_UNAVAILABLE
from finetree_recommender.estimator.values import Catalogue
from finetree_recommender.request.inputs import normalize
from finetree_recommender.rule_pack.pack import builtin_packs
from finetree_recommender.messages.recommendation import recommendation
request = recommendation_pb2.RecommendRequest(quality=recommendation_pb2.QUALITY_NEED_CRITICAL)
request.budget_per_month.currency_code, request.budget_per_month.units = "USD", 300
request.model.name = "m"
request.hardware.unknown_accelerator.marketed_memory_gb = 24
pack = builtin_packs()["playbook-1"]
reply = recommendation(conclude(pack, normalize(request, pack, Catalogue()), None, missing=ESTIMATOR_UNAVAILABLE))
print(hashlib.sha256(reply.SerializeToString(deterministic=True)).hexdigest())
"""


def test_another_process_gives_the_same_bytes():
    answers = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1


def test_a_reply_fits_the_contract(answer):
    reply = recommendation(answer)
    assert reply.verdict.method == method_pb2.METHOD_LORA
    assert recommendation_pb2.RecommendResponse.FromString(reply.SerializeToString()) == reply
    assert reply.estimate.fit == estimate_summary_pb2.FIT_VERDICT_FITS
    assert reply.plan_digest.startswith("sha256:")
    assert reply.revision.pack.id == "playbook-1"
    assert reply.revision.engine.id == "engine-1"
    assert not reply.other_packs
