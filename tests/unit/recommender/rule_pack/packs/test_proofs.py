# SPDX-License-Identifier: Apache-2.0
"""What holds of every built-in pack over all 720 answers of the five questions, and over random requests."""

from itertools import permutations, product
from typing import Any

import pytest
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_recommender.decision.fit import Constraints
from finetree_recommender.decision.pipeline import decide, verdict_of
from finetree_recommender.decision.stages import choose
from finetree_recommender.estimator.values import Accelerator, Catalog, Model
from finetree_recommender.messages.recommendation import recommendation
from finetree_recommender.method import Method
from finetree_recommender.recommend import conclude
from finetree_recommender.request.inputs import normalize
from finetree_recommender.rule_pack.answers import PRIORITY_WORDS, Answers
from finetree_recommender.rule_pack.pack import BUILTIN, builtin_packs
from finetree_runtime.money import to_money
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

# The five questions as the playbook asks them, each from the least to the most.
AXES = {
    "memory": ("below_8", "8", "16", "24", "80"),
    "budget": ("below_50", "usd_50_100", "usd_100_500", "unlimited"),
    "quality": ("EXPERIMENTAL", "ACCEPTABLE", "IMPORTANT", "CRITICAL"),
    "time": ("DAYS", "HOURS", "MINUTES"),
    "tasks": ("MANY_DIFFERENT", "SIMILAR", "SINGLE"),
}
TABLE = [Answers(*answers) for answers in product(*AXES.values())]
# Where more of something takes a method of less quality: forced by the playbook's own vote, one vote for each method
# that an answer names (L264-L295). Axis, memory, budget, quality, time and tasks, the next answer, and both verdicts.
FORCED_BY_THE_VOTE = [
    ("memory", "16 below_50 ACCEPTABLE DAYS SINGLE", "24", "QLORA", "PREFIX"),
    ("memory", "16 usd_50_100 EXPERIMENTAL MINUTES SINGLE", "24", "QLORA", "PREFIX"),
    ("memory", "16 unlimited ACCEPTABLE MINUTES SINGLE", "24", "QLORA", "PREFIX"),
    ("budget", "16 usd_50_100 EXPERIMENTAL MINUTES MANY_DIFFERENT", "usd_100_500", "QLORA", "PREFIX"),
    ("budget", "16 usd_50_100 EXPERIMENTAL MINUTES SIMILAR", "usd_100_500", "QLORA", "PREFIX"),
    ("budget", "16 usd_50_100 EXPERIMENTAL MINUTES SINGLE", "usd_100_500", "QLORA", "PREFIX"),
    ("budget", "24 below_50 ACCEPTABLE HOURS SINGLE", "usd_50_100", "LORA", "QLORA"),
    ("budget", "24 usd_100_500 EXPERIMENTAL MINUTES SINGLE", "unlimited", "LORA", "PREFIX"),
    ("budget", "24 usd_100_500 ACCEPTABLE MINUTES SINGLE", "unlimited", "LORA", "PREFIX"),
    ("budget", "80 below_50 ACCEPTABLE HOURS SINGLE", "usd_50_100", "LORA", "QLORA"),
    ("budget", "80 usd_50_100 EXPERIMENTAL DAYS SINGLE", "usd_100_500", "FULL", "LORA"),
    ("budget", "80 usd_50_100 CRITICAL DAYS SINGLE", "usd_100_500", "FULL", "LORA"),
    ("budget", "80 usd_100_500 EXPERIMENTAL MINUTES SINGLE", "unlimited", "LORA", "PREFIX"),
    ("budget", "80 usd_100_500 ACCEPTABLE MINUTES SINGLE", "unlimited", "LORA", "PREFIX"),
    ("quality", "16 below_50 IMPORTANT MINUTES MANY_DIFFERENT", "CRITICAL", "QLORA", "PREFIX"),
    ("quality", "16 below_50 IMPORTANT MINUTES SIMILAR", "CRITICAL", "QLORA", "PREFIX"),
    ("quality", "16 below_50 IMPORTANT MINUTES SINGLE", "CRITICAL", "QLORA", "PREFIX"),
    ("quality", "24 usd_50_100 EXPERIMENTAL DAYS SINGLE", "ACCEPTABLE", "LORA", "QLORA"),
    ("quality", "24 usd_50_100 EXPERIMENTAL HOURS SINGLE", "ACCEPTABLE", "LORA", "QLORA"),
    ("quality", "80 usd_50_100 EXPERIMENTAL DAYS SINGLE", "ACCEPTABLE", "FULL", "QLORA"),
    ("quality", "80 usd_50_100 EXPERIMENTAL HOURS SINGLE", "ACCEPTABLE", "LORA", "QLORA"),
    ("quality", "80 unlimited ACCEPTABLE DAYS SIMILAR", "IMPORTANT", "FULL", "LORA"),
]
PACKS = builtin_packs()
NOTHING = Constraints(states=None)
"""Nothing is estimated, and no limit broken."""


def descents(name: str, priorities: tuple[str, ...] = ()) -> list[tuple[str, str, str, str, str]]:
    """Every step to the next answer of an axis after which the verdict has less quality by the pack's own figures."""
    pack = PACKS[name]
    grades: dict[Method | None, float] = {m: pack.card(m).quality_percent.expected for m in Method} | {None: 0}
    found = []
    for axis in ("memory", "budget", "quality"):
        for answers in TABLE:
            scale = AXES[axis]
            place = scale.index(answers.get(axis)) + 1
            if place == len(scale):
                continue
            asked = answers._replace(priorities=priorities)
            asks = (asked, asked.changed(axis, scale[place]))
            before, after = (verdict_of(pack, choose(pack, each), NOTHING).method for each in asks)
            if grades[after] < grades[before]:
                words = " ".join(answers.get(question) for question in AXES)
                found.append((axis, words, scale[place], getattr(before, "value", ""), getattr(after, "value", "")))
    return found


def test_the_table_is_the_playbooks_720_answers():
    assert len(TABLE) == len(set(TABLE)) == 720


@pytest.mark.parametrize("name", BUILTIN)
def test_no_answer_is_a_dead_end_and_every_verdict_can_run(name):
    pack = PACKS[name]
    for answers in TABLE:
        decision = decide(pack, answers, None)
        if decision.method is None:
            assert decision.upgrade_advised, answers
            assert answers.memory == "below_8", answers
            continue
        assert decision.method in decision.choice.passage.feasible, answers
        assert pack.card(decision.method).minimum_gpu_gb.value <= float(answers.memory), answers
        assert decision.verdict.rule_id


@pytest.mark.parametrize(
    ("name", "exceptions"), [("playbook-1", FORCED_BY_THE_VOTE), ("evidence-1", [])], ids=lambda value: str(value)[:12]
)
def test_more_memory_budget_or_quality_never_takes_a_method_of_less_quality(name, exceptions):
    assert descents(name) == exceptions


@pytest.mark.parametrize("priorities", [(), *permutations(PRIORITY_WORDS, 1), ("MODULARITY", "MEMORY")], ids=str)
def test_whatever_matters_more_never_takes_a_method_of_less_quality_by_the_evidence(priorities):
    assert descents("evidence-1", priorities) == []


def test_the_playbooks_exceptions_are_no_more_than_its_vote_forces():
    count = {axis: sum(item[0] == axis for item in FORCED_BY_THE_VOTE) for axis in ("memory", "budget", "quality")}
    assert count == {"memory": 3, "budget": 11, "quality": 8}


CATALOG = Catalog(
    accelerators={
        "gtx-1050": Accelerator(2, False, "gtx-1050", "GeForce GTX 1050", 6.1),
        "rtx-4060": Accelerator(8, True, "rtx-4060", "GeForce RTX 4060", 8.9),
        "rtx-4060-ti-16gb": Accelerator(16, True, "rtx-4060-ti-16gb", "GeForce RTX 4060 Ti 16GB", 8.9),
        "h100": Accelerator(80, True, "h100", "NVIDIA H100", 9.0),
    },
    models={"m": Model(135_000_000, 8192)},
)


def enums(enum: Any) -> st.SearchStrategy[int]:
    return st.sampled_from(list(enum.values()))


def usd(amount: float) -> dict[str, Any]:
    """A Money in proto JSON."""
    return json_format.MessageToDict(to_money(amount, "USD"))


MEMORY = st.floats(0.01, 4096)
HARDWARE = st.one_of(
    st.builds(lambda name: {"accelerator": name}, st.sampled_from(["RTX 4060", "gtx 1050", "h100", "no such card"])),
    st.builds(lambda gb: {"unknown_accelerator": {"marketed_memory_gb": gb}}, MEMORY),
    st.builds(
        lambda gb, name: {"unknown_accelerator": {"marketed_memory_gb": gb, "name": name}}, MEMORY, st.text(max_size=12)
    ),
    st.just({"cpu": {"cores": 2}}),
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "model": st.just({"name": "m"}),
    "hardware": st.builds(
        lambda device, count, sharding: device | {"count": count, "sharding": sharding},
        HARDWARE, st.integers(1, 4096), st.integers(0, 4),
    ),
    "dataset_profile": st.builds(lambda rows: {"examples": rows}, st.integers(1, 10**12)),
    "quality": enums(recommendation_pb2.QualityNeed),
    "time": enums(recommendation_pb2.TimeNeed),
    "tasks": enums(recommendation_pb2.TaskVariety),
    "use_case": enums(recommendation_pb2.UseCase),
    "task_domain": enums(recommendation_pb2.TaskDomain),
    "behavior_change": enums(recommendation_pb2.BehaviorChange),
    "experience": enums(recommendation_pb2.Experience),
    "profile": enums(recommendation_pb2.RecipeProfile),
    "can_rent": st.booleans(),
    "budget_per_month": st.builds(usd, st.floats(0, 1e12)),
    "budget_per_run": st.builds(usd, st.floats(0, 1e12)),
    "runs_per_month": st.floats(0.01, 1e6),
    "task_count": st.integers(1, 10**6),
    "max_duration": st.builds(lambda seconds: f"{seconds}s", st.integers(1, 31536000)),
    "serving": st.lists(st.integers(1, 5), unique=True, max_size=5),
    "priorities": st.lists(st.integers(1, 6), unique=True, max_size=6),
}  # fmt: skip
REQUESTS = st.fixed_dictionaries({}, optional=FIELDS)
STATES = st.sampled_from(["FITS", "TIGHT", "DOES_NOT_FIT", "UNKNOWN", None])


@settings(max_examples=60, derandomize=True)
@given(fields=REQUESTS, states=st.lists(STATES, min_size=5, max_size=5), name=st.sampled_from(BUILTIN))
def test_any_request_has_an_answer_with_all_five_methods(evidence, fields, states, name):
    request = json_format.ParseDict(fields, recommendation_pb2.RecommendRequest())
    inputs = normalize(request, PACKS[name], CATALOG)
    estimate = "model" in fields and "hardware" in fields
    found = evidence(**dict(zip((m.field for m in Method), states, strict=True))) if estimate else None
    reply = recommendation(
        conclude(PACKS[name], inputs, found, missing="" if estimate else "MODEL_UNKNOWN", others=PACKS.values())
    )
    assert {item.method for item in reply.methods} == set(range(1, 6))
    assert all(item.reasons for item in reply.methods)
    assert reply.trace
    assert 0 <= reply.confidence.score <= 1
    assert 0 <= reply.confidence.robustness <= 1
    assert all(flip.resulting_method != reply.verdict.method for flip in reply.counterfactuals)
    recommended = [
        item.method for item in reply.methods if item.verdict == recommendation_pb2.METHOD_VERDICT_RECOMMENDED
    ]
    assert recommended == ([reply.verdict.method] if reply.verdict.method else [])
    assert not {'"NaN"', '"Infinity"'} & set(json_format.MessageToJson(reply).split())
