# SPDX-License-Identifier: Apache-2.0
"""The playbook's own statements, held against the rules."""

from collections import Counter
from itertools import pairwise, product

import pytest
from finetree_recommender.decision import override_and_tree
from finetree_recommender.decision.hardware_gate import pass_gate
from finetree_recommender.decision.pipeline import decide
from finetree_recommender.decision.stages import choose
from finetree_recommender.method import Method
from finetree_recommender.request.hardware import memory_class
from finetree_recommender.rule_pack.answers import Answers
from finetree_recommender.rule_pack.pack import Pack

# The five questions as the playbook asks them: budgets between 500 and 2000 and maximum quality are additions of ours.
MEMORY = ("80", "24", "16", "8", "below_8")
BUDGET = ("unlimited", "usd_100_500", "usd_50_100", "below_50")
QUALITY = ("CRITICAL", "IMPORTANT", "ACCEPTABLE", "EXPERIMENTAL")
TIME = ("DAYS", "HOURS", "MINUTES")
TASKS = ("MANY_DIFFERENT", "SIMILAR", "SINGLE")
TABLE = [Answers(*answers) for answers in product(MEMORY, BUDGET, QUALITY, TIME, TASKS)]


STARRED = {"memory": "24", "budget": "usd_100_500", "quality": "IMPORTANT", "time": "HOURS", "tasks": "SIMILAR"}
"""Every starred answer (L264-L289)."""


def verdict(pack: Pack, **answers: str) -> Method | None:
    return decide(pack, Answers(**answers), None).method


@pytest.mark.parametrize(
    ("gb", "key"),
    [
        (2, "below_8"), (4, "below_8"), (7.5, "below_8"), (7.7, "8"), (8, "8"), (11, "8"), (12, "8"), (15.1, "8"),
        (15.3, "16"), (16, "16"), (20, "16"), (22.8, "16"), (23.6, "24"), (24, "24"), (40, "24"), (48, "24"),
        (76, "24"), (79.2, "80"), (80, "80"), (141, "80"), (288, "80"),
    ],
)  # fmt: skip
def test_memory_classes_are_half_open_with_five_percent_of_tolerance(pack, gb, key):
    assert memory_class(pack, gb).key == key


@pytest.mark.parametrize(
    ("memory", "feasible"),
    [
        ("80", {"LORA", "QLORA", "ADAPTER", "PREFIX", "FULL"}),
        ("24", {"LORA", "QLORA", "ADAPTER", "PREFIX"}),
        ("16", {"QLORA", "PREFIX"}),
        ("8", {"PREFIX"}),
        ("below_8", set()),
        ("cpu", set()),
        ("unknown", {"LORA", "QLORA", "ADAPTER", "PREFIX", "FULL"}),
    ],
)
def test_the_gate_lets_through_what_the_playbook_allows(pack, memory, feasible):
    passage = pass_gate(pack, Answers(memory=memory))
    assert set(passage.feasible) == feasible
    assert passage.upgrade is (not feasible)


def test_all_720_answer_sets_give_the_known_mix(pack):
    assert len(TABLE) == 720
    mix = Counter(getattr(choose(pack, answers).method, "value", "None") for answers in TABLE)
    assert mix == {"LORA": 157, "QLORA": 132, "PREFIX": 180, "ADAPTER": 96, "FULL": 11, "None": 144}


def test_every_verdict_of_the_table_is_feasible_and_explained(pack):
    for answers in TABLE:
        choice = choose(pack, answers)
        assert choice.method is None or choice.method in choice.passage.feasible
        assert (choice.method is None) == (answers.memory == "below_8")
        assert choice.rule_id
        assert choice.steps[0].stage == "hardware_gate"
        if choice.method is not None:
            assert choice.order.methods[0] is choice.method
            assert set(choice.order.methods) == set(Method)


def test_the_winner_of_a_vote_has_the_most_votes(pack):
    for answers in TABLE:
        choice = choose(pack, answers)
        if choice.method is not None and not choice.overridden:
            assert choice.method in choice.ballot.leaders


def test_many_different_tasks_decide_from_24_gb_on_unless_quality_is_maximal(pack):
    for answers in TABLE:
        overridden = answers.tasks == "MANY_DIFFERENT" and answers.memory in ("24", "80")
        assert choose(pack, answers).overridden is overridden
    assert verdict(pack, memory="80", quality="MAXIMUM", tasks="MANY_DIFFERENT") is Method.FULL


def test_the_tree_never_leads_to_less_quality_with_more_memory(pack):
    for quality in ("unknown", "MAXIMUM", *QUALITY):
        leaves = [
            override_and_tree.leaf(pack, Answers(memory=memory, quality=quality)).method
            for memory in ("8", "16", "24", "80")
        ]
        grades = [pack.card(leaf).quality_percent.expected for leaf in leaves]
        assert all(less <= more for less, more in pairwise(grades)), (quality, leaves)


@pytest.mark.parametrize(
    ("answers", "method"),
    [
        # The worked scenarios (L331-L387).
        ({"use_case": "STARTUP", "budget": "usd_100_500", "quality": "IMPORTANT", "time": "HOURS"}, "LORA"),
        ({"memory": "16", "quality": "EXPERIMENTAL"}, "QLORA"),
        ({"use_case": "RESEARCH", "time": "MINUTES", "quality": "ACCEPTABLE"}, "PREFIX"),
        ({"use_case": "ENTERPRISE", "memory": "80", "budget": "unlimited", "quality": "MAXIMUM"}, "FULL"),
        ({"use_case": "ENTERPRISE", "memory": "24", "budget": "unlimited", "quality": "MAXIMUM"}, "LORA"),
        # The hardware chart (L98-L109); full on 80 GB asks for maximum quality in the tree.
        ({"memory": "80", "quality": "MAXIMUM"}, "FULL"),
        ({"memory": "80"}, "LORA"),
        ({"memory": "24"}, "LORA"),
        ({"memory": "16"}, "QLORA"),
        ({"memory": "8"}, "PREFIX"),
        ({"memory": "below_8"}, None),
        # The use-case chart (L74-L94), where the memory is not known.
        ({"use_case": "ENTERPRISE", "budget": "unlimited"}, "FULL"),
        ({"use_case": "ENTERPRISE"}, "LORA"),
        ({"use_case": "STARTUP"}, "LORA"),
        ({"use_case": "STARTUP", "memory": "16"}, "QLORA"),
        ({"use_case": "RESEARCH", "time": "MINUTES"}, "PREFIX"),
        ({"use_case": "RESEARCH"}, "LORA"),
        # "Just tell me" (L297-L327).
        ({}, "LORA"),
        ({"budget": "usd_50_100"}, "QLORA"),
        ({"time": "MINUTES"}, "PREFIX"),
        ({"tasks": "MANY_DIFFERENT"}, "ADAPTER"),
        (STARRED, "LORA"),
    ],
)
def test_the_playbooks_own_examples(pack, answers, method):
    assert verdict(pack, **answers) == (Method(method) if method else None)


@pytest.mark.parametrize(
    ("memory", "quality", "node", "method"),
    [
        ("80", "MAXIMUM", "N2", "FULL"),
        ("80", "CRITICAL", "N2", "LORA"),
        ("24", "MAXIMUM", "N3", "LORA"),
        ("16", "unknown", "N4", "QLORA"),
        ("8", "unknown", "N4", "PREFIX"),
    ],
)
def test_the_tree_is_walked_node_by_node(pack, memory, quality, node, method):
    walk = override_and_tree.leaf(pack, Answers(memory=memory, quality=quality))
    assert (walk.rule_id, walk.method) == (node, method)
    assert walk.steps[0].rule_id == "N1"


@pytest.mark.parametrize(
    ("budget", "leaders", "method"),
    [("unlimited", {"PREFIX", "FULL"}, "PREFIX"), ("usd_50_100", {"QLORA", "PREFIX"}, "QLORA")],
)
def test_stars_break_what_the_leaf_leaves_tied(pack, budget, leaders, method):
    choice = choose(pack, Answers("80", budget, "ACCEPTABLE", "MINUTES", "SINGLE"))
    assert set(choice.ballot.leaders) == leaders
    assert (choice.method, choice.rule_id, choice.tied) == (method, "order.stars", True)
    assert choice.steps[-1].stage == "star_order"


def test_the_order_of_stars_is_the_playbooks(pack):
    assert pack.rules.stars_order.methods == ("LORA", "QLORA", "ADAPTER", "PREFIX", "FULL")


def test_the_leaf_breaks_a_tie_before_the_stars(pack):
    choice = choose(pack, Answers(memory="16", quality="EXPERIMENTAL"))
    assert (choice.method, choice.rule_id, choice.tied) == (Method.QLORA, "N4", True)


@pytest.mark.parametrize(
    ("usd", "key"),
    [
        (0, "below_50"), (49.99, "below_50"), (50, "usd_50_100"), (99.99, "usd_50_100"), (100, "usd_100_500"),
        (500, "usd_100_500"), (500.01, "usd_500_2000"), (1999.99, "usd_500_2000"), (2000, "unlimited"),
        (1e12, "unlimited"),
    ],
)  # fmt: skip
def test_budgets_fall_into_one_bracket_each(pack, usd, key):
    assert [bracket.key for bracket in pack.rules.budget if bracket.holds(usd)] == [key]


def test_the_cards_carry_the_playbooks_table(pack):
    minimum = {method: pack.card(method).minimum_gpu_gb.value for method in Method}
    assert minimum == {"FULL": 80, "LORA": 24, "QLORA": 16, "PREFIX": 8, "ADAPTER": 24}
    quality = {method: pack.card(method).quality_percent.expected for method in Method}
    assert quality == {"FULL": 100, "LORA": 95, "QLORA": 90, "PREFIX": 85, "ADAPTER": 92}
    stars = {method: pack.card(method).stars.value for method in Method}
    assert stars == {"FULL": 0, "LORA": 3, "QLORA": 2, "PREFIX": 1, "ADAPTER": 2}
    # Against the playbook's words, and recorded so (B31, B32).
    assert {method for method in Method if pack.card(method).mergeable.value} == {"LORA", "QLORA"}
