# SPDX-License-Identifier: Apache-2.0
"""Ways out where nothing trains, from made-up answers of the estimator; the contract tests ask a real one."""

from typing import Any

import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import estimate_summary_pb2, evidence_pb2, hardware_pb2
from finetree_recommender.estimator.values import Accelerator, Catalog, FitState, Model
from finetree_recommender.explain.ways_out.offers import with_truncated_rows
from finetree_recommender.explain.ways_out.questions import Asked, Kind
from finetree_recommender.messages.recommendation import recommendation
from finetree_recommender.messages.summary import paragraph
from finetree_recommender.method import Method
from finetree_recommender.recommend import conclude
from finetree_recommender.request.inputs import Inputs, normalize
from finetree_recommender.rule_pack.pack import builtin_packs
from google.protobuf import json_format

GIB = 2**30
PACK = builtin_packs()["evidence-1"]
CATALOG = Catalog(
    {"big": Accelerator(80, True, "big", "Big"), "middle": Accelerator(48, True, "middle", "Middle 48GB")},
    {"m-70b": Model(70_000_000_000, 65_536, names=("m-70b",)), "m-8b": Model(8_000_000_000, 65_536, names=("m-8b",))},
)
LONG = {"examples": 100, "token_lengths": [{"upper_bound": 500, "count": 90}, {"upper_bound": 4000, "count": 10}]}


def asked(**fields: Any) -> Inputs:
    known = {"model": {"name": "m-70b"}, "hardware": {"unknown_accelerator": {"marketed_memory_gb": 12}}}
    return normalize(json_format.ParseDict(known | fields, recommendation_pb2.RecommendRequest()), PACK, CATALOG)


def answered(needs: float, fit: str = "FITS", seconds: float = 0.0, taken: int = 0, **options: int):
    """An estimate, with the hardware that is the smallest for one device or several."""
    peak = evidence_pb2.Interval(low=needs * GIB, expected=needs * GIB, high=needs * GIB)
    found = estimate_pb2.Estimate(fallbacks_taken=taken)
    found.memory.device_bytes.CopyFrom(peak)
    found.memory.usable_device_bytes = 11 * GIB
    found.fit.verdict = estimate_summary_pb2.FitVerdict.Value(f"FIT_VERDICT_{fit}")
    if seconds:
        found.time.total_seconds.CopyFrom(evidence_pb2.Interval(low=seconds, expected=seconds, high=seconds))
    for name, count in options.items():
        several = hardware_pb2.SHARDING_FULL if count > 1 else hardware_pb2.SHARDING_REPLICATED
        usable = int(CATALOG.accelerators[name].marketed_gb * GIB)
        found.smallest_hardware.add(
            accelerator=name, count=count, sharding=several, device_bytes=peak, usable_device_bytes=usable
        )
    return found


def concluded(inputs: Inputs, nothing: Any, found: dict[Asked, estimate_pb2.Estimate]):
    return conclude(PACK, inputs, with_truncated_rows(PACK, inputs, nothing, found), ways=found)


def test_each_way_says_what_it_changes_and_whether_this_suite_trains_it(evidence):
    found = {
        Asked(Kind.ANOTHER_GPU, Method.LORA): answered(60, big=1, middle=2),
        Asked(Kind.ANOTHER_GPU, Method.QLORA): answered(40, middle=1),
        Asked(Kind.SMALLER_MODEL, Method.LORA, "m-8b"): answered(20, "DOES_NOT_FIT"),
        Asked(Kind.SMALLER_MODEL, Method.QLORA, "m-8b"): answered(8, seconds=1200),
    }
    answer = concluded(asked(), evidence(), found)
    ways = [(way.kind, way.method, way.trainable_here) for way in answer.ways_out if way.change is not None]
    assert ways == [
        ("ANOTHER_GPU", Method.LORA, True),
        ("ANOTHER_GPU", Method.QLORA, True),
        ("SMALLER_MODEL", Method.QLORA, True),
        ("SEVERAL_GPUS", Method.LORA, True),
    ]
    places = [way.change.hardware.accelerator for way in answer.ways_out if way.change is not None]
    assert places == ["big", "middle", "", "middle"]
    assert answer.ways_out[2].change.model.name == "m-8b"
    assert answer.ways_out[3].change.hardware.sharding == hardware_pb2.SHARDING_FULL
    assert "Big (80 GB)" in answer.ways_out[0].message
    assert "Middle 48GB" in answer.ways_out[1].message
    assert "20 min" in answer.ways_out[2].message
    # The answer begins with what would train, and there is no recipe that anything could be made of.
    assert answer.ways_out[0].message in paragraph(answer).partition(". What would: ")[2][:80]
    reply = recommendation(answer)
    assert not reply.HasField("spec")
    assert reply.plan_digest == ""
    assert [way.message for way in reply.ways_out] == [way.message for way in answer.ways_out]
    assert reply.ways_out[0].estimate.fit == estimate_summary_pb2.FIT_VERDICT_FITS


def test_qlora_on_no_smaller_gpu_and_models_that_take_weeks_are_no_ways_out(evidence):
    found = {
        Asked(Kind.ANOTHER_GPU, Method.LORA): answered(40, middle=1),
        Asked(Kind.ANOTHER_GPU, Method.QLORA): answered(41, big=1),
        Asked(Kind.SMALLER_MODEL, Method.QLORA, "m-8b"): answered(8, seconds=30 * 86400),
    }
    answer = concluded(asked(), evidence(), found)
    found = [(way.kind, way.method) for way in answer.ways_out if way.change is not None]
    assert found == [("ANOTHER_GPU", Method.LORA)]


def test_the_devices_at_hand_come_before_others(evidence):
    devices = {"accelerator": "middle", "count": 4}
    found = {
        Asked(Kind.ANOTHER_GPU, Method.LORA): answered(60, big=2),
        Asked(Kind.SEVERAL_GPUS, Method.LORA): answered(60, "DOES_NOT_FIT"),
        Asked(Kind.SEVERAL_GPUS, Method.QLORA): answered(10, "TIGHT"),
    }
    way = concluded(asked(hardware=devices), evidence(), found).ways_out[0]
    assert (way.kind, way.method, way.change.hardware.count) == (Kind.SEVERAL_GPUS, Method.QLORA, 4)
    assert way.change.hardware.accelerator == "middle"
    assert "fits tightly" in way.message


def test_the_devices_at_hand_come_first_and_other_gpus_after_them(evidence):
    devices = {"accelerator": "middle", "count": 4}
    found = {
        Asked(Kind.ANOTHER_GPU, Method.LORA): answered(60, big=1),
        Asked(Kind.SEVERAL_GPUS, Method.LORA): answered(10.8, "TIGHT"),
        Asked(Kind.SEVERAL_GPUS, Method.QLORA): answered(6),
    }
    ways = concluded(asked(hardware=devices), evidence(), found).ways_out
    assert [(way.kind, way.method) for way in ways[:2]] == [
        (Kind.SEVERAL_GPUS, Method.QLORA),  # with room, where LoRA fits only tightly
        (Kind.ANOTHER_GPU, Method.LORA),
    ]
    assert ways[0].message == (
        "QLoRA fits: 6.0 of 11.0 GiB on each of the 4 devices at hand, with the model sharded across them"
    )


def test_adapter_layers_fit_and_lora_fits(evidence):
    found = {
        Asked(Kind.ANOTHER_GPU, Method.ADAPTER): answered(60, big=1),
        Asked(Kind.ANOTHER_GPU, Method.QLORA): answered(40, middle=1),
    }
    served = asked(task_count=50, tasks="TASK_VARIETY_MANY_DIFFERENT", rule_pack="playbook-1")
    playbook = builtin_packs()["playbook-1"]
    answer = conclude(playbook, served.reread(playbook), evidence(), ways=found)
    assert answer.ways_out[0].message.startswith("adapter layers fit: 60.0 of 80.0 GiB on ")


def test_an_average_that_is_longer_needs_no_statement_of_lengths(evidence):
    """Rows of 64,000 tokens on average are not all shorter than 1,024: what would be lost is said instead."""
    found = {
        Asked(Kind.ANOTHER_GPU, Method.LORA): answered(60, big=1),
        Asked(Kind.SHORTER_ROWS, Method.QLORA): answered(8, taken=1),
    }
    rows = {"examples": 100, "total_tokens": 6_400_000}
    answer = concluded(asked(dataset_profile=rows), evidence(), found)
    assert [way.kind for way in answer.ways_out] == [Kind.ANOTHER_GPU, Kind.SHORTER_ROWS]
    assert "state the lengths" not in " ".join(way.message for way in answer.ways_out)
    assert "(truncated, at least 87 percent" in answer.ways_out[1].message


def test_rows_are_truncated_where_half_of_the_tokens_stay(evidence):
    found = {Asked(Kind.SHORTER_ROWS, Method.QLORA): answered(8)}
    answer = concluded(asked(dataset_profile=LONG), evidence(), found)
    assert answer.decision.method is Method.QLORA
    assert answer.recipe is not None
    assert answer.recipe.spec.training.sequence_length == 2048
    assert answer.cautions[0].code == "ROWS_CUT"
    assert "up to 23 percent" in answer.cautions[0].message
    assert answer.cautions[0].message in recommendation(answer).verdict.headline
    assert Kind.SHORTER_ROWS not in {way.kind for way in answer.ways_out}


@pytest.mark.parametrize(("taken", "length"), [(1, 1024), (2, 512)])
def test_a_recipe_that_loses_most_of_the_tokens_is_a_way_out_and_no_verdict(evidence, taken, length):
    found = {Asked(Kind.SHORTER_ROWS, Method.QLORA): answered(8, taken=taken)}
    rows = {"examples": 100, "token_lengths": [{"upper_bound": 4000, "count": 100}]}
    answer = concluded(asked(dataset_profile=rows), evidence(), found)
    assert answer.decision.method is None
    way = next(way for way in answer.ways_out if way.kind is Kind.SHORTER_ROWS)
    assert way.change is not None
    assert way.change.training.sequence_length == length
    assert "of the tokens would be lost" in way.message


def test_what_does_not_fit_truncated_is_neither_a_recipe_nor_a_way_out(evidence):
    found = {Asked(Kind.SHORTER_ROWS, Method.QLORA): answered(20, "DOES_NOT_FIT", taken=2)}
    answer = concluded(asked(dataset_profile=LONG), evidence(), found)
    assert answer.decision.method is None
    assert Kind.SHORTER_ROWS not in {way.kind for way in answer.ways_out}
    assert answer.situation.evidence.states[Method.QLORA] is FitState.DOES_NOT_FIT


def test_another_program_is_named_where_it_is_reported_to_need_less(evidence):
    found = {Asked(Kind.ANOTHER_GPU, Method.LORA): answered(60)}
    (way,) = concluded(asked(), evidence(), found).ways_out
    assert (way.kind, way.change, way.trainable_here) == (Kind.OTHER_TOOL, None, False)
    # Nobody reports 135M, the size of the made-up estimates, in less than 3B needs.
    assert "Unsloth" in way.message
    long = {"examples": 10, "token_lengths": [{"upper_bound": 60_000, "count": 10}]}
    assert not concluded(asked(dataset_profile=long), evidence(), found).ways_out


def test_rows_of_unknown_length_are_stated_before_anything_is_changed(evidence):
    found = {
        Asked(Kind.ANOTHER_GPU, Method.LORA): answered(60, big=1),
        Asked(Kind.SHORTER_ROWS, Method.QLORA): answered(10),
    }
    nothing = evidence(parameters=70_000_000_000)
    told = "QLoRA fits: 10.0 of 11.0 GiB if no row has more than 1,024 tokens: state the lengths "
    for unknown in (asked(), asked(dataset_profile={"examples": 100}), asked(dataset_profile={"examples": 9})):
        ways = concluded(unknown, nothing, found).ways_out
        assert ways[0].message == f"{told}(dataset_profile.token_lengths)"
        assert [way.kind for way in ways[:2]] == [Kind.SHORTER_ROWS, Kind.ANOTHER_GPU]
    # Where no length of the rows helps, none is asked for.
    found[Asked(Kind.SHORTER_ROWS, Method.QLORA)] = answered(40, fit="DOES_NOT_FIT")
    assert concluded(asked(), nothing, found).ways_out[0].kind is Kind.ANOTHER_GPU


def test_a_smaller_model_of_another_maker_is_the_last_choice(evidence):
    tight, roomy = answered(10, fit="TIGHT"), answered(5)
    found = {
        Asked(Kind.SMALLER_MODEL, Method.QLORA, "other-8b"): roomy,
        Asked(Kind.SMALLER_MODEL, Method.QLORA, "m-8b"): tight,
    }
    (way,) = concluded(asked(dataset_profile=LONG), evidence(parameters=70_000_000_000), found).ways_out
    assert way.change is not None
    assert way.change.model.name == "m-8b"
    del found[Asked(Kind.SMALLER_MODEL, Method.QLORA, "m-8b")]
    (way,) = concluded(asked(dataset_profile=LONG), evidence(parameters=70_000_000_000), found).ways_out
    assert way.change is not None
    assert way.change.model.name == "other-8b"
