# SPDX-License-Identifier: Apache-2.0
import itertools
import statistics
from collections import Counter

import pytest
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_recommender.decision.pipeline import decide
from finetree_recommender.decision.prior_figures import falls_short, prior_of, quality
from finetree_recommender.decision.stages import choose
from finetree_recommender.estimator.values import Catalog
from finetree_recommender.method import Method
from finetree_recommender.request.inputs import normalize
from finetree_recommender.rule_pack.answers import UNKNOWN, Answers, vocabulary
from finetree_recommender.rule_pack.pack import builtin_packs

MEMORY = ("80", "24", "16", "8", "below_8")
BUDGET = ("unlimited", "usd_100_500", "usd_50_100", "below_50")
QUALITY = ("CRITICAL", "IMPORTANT", "ACCEPTABLE", "EXPERIMENTAL")
TIME = ("DAYS", "HOURS", "MINUTES")
MANY = {"tasks": "MANY_DIFFERENT", "quality": "CRITICAL"}
TASKS = ("MANY_DIFFERENT", "SIMILAR", "SINGLE")
TABLE = [Answers(*row) for row in itertools.product(MEMORY, BUDGET, QUALITY, TIME, TASKS)]
KINDS = ("STYLE", "CLASSIFICATION", "CHAT", "CODE", "MATH", "KNOWLEDGE")


@pytest.fixture(scope="module")
def known():
    return builtin_packs()["evidence-1"]


def test_every_answer_set_has_a_verdict_that_fits_or_an_upgrade(known):
    mix = Counter(getattr(choose(known, answers).method, "value", "None") for answers in TABLE)
    assert mix == {"QLORA": 288, "LORA": 284, "FULL": 4, "None": 144}
    for answers in TABLE:
        choice = choose(known, answers)
        assert (choice.method is None) == (answers.memory == "below_8")
        assert choice.method is None or choice.method in choice.passage.feasible


def test_no_option_of_the_evidence_votes(known):
    assert not any(option.votes for question in known.rules.questions for option in question.options)


@pytest.mark.parametrize(
    ("memory", "expected"), [("8", Method.QLORA), ("16", Method.QLORA), ("24", Method.LORA), ("80", Method.LORA)]
)
def test_memory_classes_hold_where_nothing_was_estimated(known, memory, expected):
    assert decide(known, Answers(memory=memory), None).method is expected


@pytest.mark.parametrize(
    ("fits", "answers", "expected"),
    [
        ({"lora": "FITS", "full": "FITS"}, {"memory": "8"}, Method.LORA),
        ({"lora": "FITS", "full": "FITS"}, {"memory": "8", "quality": "MAXIMUM"}, Method.FULL),
        ({"lora": "FITS"}, {"memory": "cpu"}, Method.LORA),
        ({"lora": "FITS", "full": "FITS"}, {"memory": "cpu", "quality": "MAXIMUM"}, Method.FULL),
        ({"qlora": "FITS"}, {"memory": "80", "quality": "MAXIMUM"}, Method.QLORA),
        # One adapter a task on whatever holds it: more memory must not make it less than full fine-tuning.
        *(
            ({"lora": "FITS", "full": "FITS"}, MANY | {"memory": memory}, Method.LORA)
            for memory in ("cpu", "below_8", "8", "16", "24", "80")
        ),
        ({"qlora": "TIGHT"}, {"memory": "8"}, Method.QLORA),
        # Speed is no reason to take prefixes (B35), nor may their fitting in more memory be one.
        ({"qlora": "FITS", "prefix": "FITS"}, {"memory": "16", "priorities": ("SPEED",)}, Method.QLORA),
        ({"prefix": "FITS"}, {"memory": "24"}, Method.PREFIX),
        ({}, {"memory": "24"}, None),
        ({}, {"memory": "cpu"}, None),
    ],
)
def test_the_estimate_goes_before_the_memory_classes(known, evidence, fits, answers, expected):
    found = decide(known, Answers(**answers), evidence(**fits))
    assert found.method is expected
    assert found.choice.passage.rule.id == "gate.physics"
    assert found.upgrade_advised == (expected is None)


def test_a_method_without_an_estimate_passes_by_its_class(known, evidence):
    states = evidence(full="DOES_NOT_FIT", lora=None, qlora="FITS").states
    assert Method.LORA in choose(known, Answers(memory="24"), states).passage.feasible
    assert Method.LORA not in choose(known, Answers(memory="16"), states).passage.feasible


def test_many_tasks_get_an_adapter_each(known):
    verdict = decide(known, Answers(memory="80", quality="CRITICAL", tasks="MANY_DIFFERENT"), None).verdict
    assert (verdict.method, verdict.rule_id) == (Method.LORA, "override.adapter_per_task")
    assert decide(known, Answers(memory="8", tasks="MANY_DIFFERENT"), None).method is Method.QLORA


@pytest.mark.parametrize("quality", ["MAXIMUM", "CRITICAL", "EXPERIMENTAL"])
def test_many_tasks_get_qlora_adapters_where_memory_matters_most(known, quality):
    """A higher quality need must not lead from LoRA to QLoRA."""
    answers = Answers(memory="80", quality=quality, tasks="MANY_DIFFERENT", priorities=("MEMORY",))
    assert decide(known, answers, None).method is Method.QLORA


@pytest.mark.parametrize("rows", [UNKNOWN, "few", "many"])
@pytest.mark.parametrize("kind", [UNKNOWN, *KINDS])
@pytest.mark.parametrize("need", ["MAXIMUM", "CRITICAL", "IMPORTANT", "ACCEPTABLE", "EXPERIMENTAL", UNKNOWN])
def test_full_fine_tuning_is_taken_exactly_where_lora_is_not_expected_to_suffice(known, kind, need, rows):
    everything = Answers(memory="80", budget="unlimited", quality=need, time="DAYS", task_domain=kind, data=rows)
    wanted = Method.FULL if falls_short(known, Method.LORA, need, task_domain=kind, data=rows) else Method.LORA
    assert decide(known, everything, None).method is wanted


@pytest.mark.parametrize(
    ("answers", "expected", "rule_id"),
    [
        ({}, Method.LORA, "tree.default"),
        ({"quality": "MAXIMUM"}, Method.FULL, "E3"),
        ({"quality": "CRITICAL", "task_domain": "CODE"}, Method.FULL, "E2"),
        ({"quality": "CRITICAL", "task_domain": "STYLE"}, Method.LORA, "E4"),
        ({"quality": "CRITICAL"}, Method.FULL, "E4"),
        ({"quality": "CRITICAL", "task_domain": "CODE", "data": "many"}, Method.FULL, "E2"),
        # Of few rows an adapter learns as much as all weights.
        ({"quality": "CRITICAL", "task_domain": "CODE", "data": "few"}, Method.LORA, "E1b"),
        ({"quality": "MAXIMUM", "data": "few"}, Method.FULL, "E3"),
        ({"data": "few"}, Method.LORA, "E5"),
        ({"task_domain": "CODE"}, Method.LORA, "E5"),
        ({"quality": "MAXIMUM", "budget": "below_50"}, Method.LORA, "E5"),
    ],
)
def test_without_hardware_the_tree_is_walked_from_what_is_known(known, answers, expected, rule_id):
    found = decide(known, Answers(**answers), None)
    assert (found.method, found.verdict.rule_id) == (expected, rule_id)
    assert (found.choice.default_rule_id == rule_id) == (not answers)


@pytest.mark.parametrize("answers", [{"budget": "usd_100_500"}, {"time": "MINUTES"}, {"memory": "24"}])
def test_full_fine_tuning_is_not_taken_where_it_cannot_be_paid_or_waited_for(known, answers):
    everything = {"memory": "80", "budget": "unlimited", "quality": "MAXIMUM", "time": "DAYS", "task_domain": "CODE"}
    assert decide(known, Answers(**everything), None).method is Method.FULL
    assert decide(known, Answers(**(everything | answers)), None).method is Method.LORA


@pytest.mark.parametrize("method", [Method.LORA, Method.QLORA, Method.PREFIX, Method.ADAPTER])
def test_an_unknown_task_has_the_envelope_of_the_kinds(known, method):
    kinds = [prior_of(known, method, kind) for kind in KINDS]
    unknown = prior_of(known, method, UNKNOWN)
    assert unknown.low == min(prior.low for prior in kinds)
    assert unknown.high == max(prior.high for prior in kinds)
    assert unknown.expected == statistics.median(prior.expected for prior in kinds)
    card = known.card(method).quality_percent
    assert (card.low, card.expected, card.high) == (unknown.low, unknown.expected, unknown.high)


@pytest.mark.parametrize(
    ("method", "factors"), [(Method.PREFIX, (0.75, 0.81, 0.87)), (Method.ADAPTER, (0.95, 0.97, 1.01))]
)
@pytest.mark.parametrize("kind", ["CODE", "KNOWLEDGE"])
def test_what_nobody_studied_follows_from_loras(known, method, kind, factors):
    ours, loras = prior_of(known, method, kind), prior_of(known, Method.LORA, kind)
    for name, factor in zip(("low", "expected", "high"), factors, strict=True):
        assert getattr(ours, name) == pytest.approx(getattr(loras, name) * factor, abs=0.7)
    assert ours.studies == 0


def test_every_method_has_a_prior_for_every_kind_of_task(known):
    for method, kind in itertools.product(Method, (UNKNOWN, *KINDS)):
        interval = quality(known, method, kind)
        assert interval.low <= interval.expected <= interval.high
        assert interval.provenance[0].source


@pytest.mark.parametrize(("rows", "answer"), [(1, "few"), (999, "few"), (1000, "many"), (10**6, "many")])
def test_the_rows_of_a_request_answer_for_the_size_of_the_data(known, pack, rows, answer):
    request = recommendation_pb2.RecommendRequest()
    request.dataset_profile.examples = rows
    assert normalize(request, known, Catalog()).answers.data == answer
    # The playbook reads no size of data (B12).
    assert normalize(request, pack, Catalog()).answers.data == UNKNOWN
    assert normalize(recommendation_pb2.RecommendRequest(), known, Catalog()).answers.data == UNKNOWN


def test_every_need_but_an_experiment_has_a_floor(known):
    needs = set(vocabulary(known.rules)["quality"]) - {"EXPERIMENTAL"}
    assert {floor.need for floor in known.rules.quality_floors} == needs


@pytest.mark.parametrize(
    ("policy", "profile", "expected"),
    [
        ("evidence-1", recommendation_pb2.RECIPE_PROFILE_UNSPECIFIED, True),
        ("evidence-1", recommendation_pb2.RECIPE_PROFILE_PLAYBOOK, False),
        ("playbook-1", recommendation_pb2.RECIPE_PROFILE_UNSPECIFIED, False),
        ("playbook-1", recommendation_pb2.RECIPE_PROFILE_EVIDENCE, True),
    ],
)
def test_the_pack_has_the_default_of_the_recipe_profile(known, pack, policy, profile, expected):
    asked = known if policy == "evidence-1" else pack
    assert (
        normalize(recommendation_pb2.RecommendRequest(profile=profile), asked, Catalog()).evidence_profile is expected
    )
