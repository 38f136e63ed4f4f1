# SPDX-License-Identifier: Apache-2.0
"""The short way to a verdict, which every change of an input is tried by, gives what the whole decision gives."""

import random
from itertools import product

import pytest
from finetree_recommender.decision import fit
from finetree_recommender.decision.limits import Demands, all_breaches, burdens
from finetree_recommender.decision.pipeline import decide, outcome, verdict
from finetree_recommender.estimator.values import FitState
from finetree_recommender.gist import asked, gist
from finetree_recommender.method import Method
from finetree_recommender.policy.answers import NAMES, PRIORITY_WORDS, SERVING_WORDS, UNKNOWN, Answers, vocabulary
from finetree_recommender.policy.pack import load_builtin

PACKS = list(load_builtin())
STATES = (*FitState, None)


@pytest.fixture(params=PACKS)
def any_pack(request):
    return load_builtin()[request.param]


def drawn(draw: random.Random, pack) -> Answers:
    """Answers, half of them unknown."""
    words = vocabulary(pack.rules)
    given = {name: draw.choice(words[name]) if draw.random() < 0.5 else UNKNOWN for name in NAMES}
    priorities = tuple(draw.sample(PRIORITY_WORDS, draw.randint(0, 3)))
    return Answers(**given, priorities=priorities)


def wishes(draw: random.Random) -> Demands:
    """What a run must keep to; the estimates of the tests take 100 s and cost 1 USD."""
    return Demands(
        deadline_seconds=draw.choice((None, 50.0, 100.0, 7200.0)),
        run_usd=draw.choice((None, 0.5, 1.0, 40.0)),
        serving=tuple(draw.sample(SERVING_WORDS, draw.randint(0, 2))),
        capability=draw.choice((None, 5.2, 8.6)),
        examples=draw.choice((None, 3000)),
    )


def test_all_answers_of_the_five_questions(any_pack):
    words = vocabulary(any_pack.rules)
    nothing = fit.ground(None)
    for row in product(*((*words[name], UNKNOWN) for name in ("memory", "budget", "quality", "time", "tasks"))):
        answers = Answers(*row)
        whole = decide(any_pack, answers, None)
        for read in (answers, gist(any_pack, answers)):
            assert verdict(any_pack, read, nothing) == (whole.method, whole.rule_id), answers


def test_any_answers_demands_and_estimates(any_pack, evidence):
    draw = random.Random("verdicts")
    verdicts = set()
    for _ in range(1500):
        answers, demands = drawn(draw, any_pack), wishes(draw)
        found = evidence(**{m.field: draw.choice(STATES) for m in Method}) if draw.random() < 0.8 else None
        broken = all_breaches(any_pack, demands, found)
        ground = fit.ground(found, burdens(any_pack, demands, found))
        for method, breaches in broken.items():
            hard = sum(breach.hard for breach in breaches)
            assert ground.burden(method).weight == (hard, len(breaches) - hard)
            assert ground.burden(method).rule_id == (breaches[0].rule_id if breaches else "")
        whole = decide(any_pack, answers, found, broken, ground)
        for read in (answers, asked(any_pack, answers), gist(any_pack, answers)):
            assert verdict(any_pack, read, ground) == (whole.method, whole.rule_id), (answers, demands)
            assert outcome(any_pack, read, ground) == (whole.method, whole.rule_id, whole.overruled_rule_id)
        verdicts.add(whole.method)
    assert verdicts == {*Method, None}


def test_what_no_rule_reads_changes_no_verdict(any_pack):
    read = asked(any_pack, Answers(memory="24", task_count="few", behavior_change="MINOR"))
    assert read.memory == "24"
    assert asked(any_pack, read) == read
