# SPDX-License-Identifier: Apache-2.0
"""Path of a recommendation through the graph of its pack."""

from dataclasses import dataclass
from itertools import pairwise

from finetree_recommender.decision.stages import Choice
from finetree_recommender.pictures.graph import (
    FIT,
    GATE,
    LIMITS,
    MEMORY_KNOWN,
    TIES,
    UPGRADE,
    USE_CASES,
    VOTES,
    Graph,
)
from finetree_recommender.recommend import Recommendation
from finetree_recommender.rule_pack.answers import UNKNOWN, Answers, matches
from finetree_recommender.rule_pack.pack import Pack


@dataclass(frozen=True, slots=True)
class Path:
    """Path of a request."""

    ids: tuple[str, ...] = ()
    """Boxes and arrows in the order of the path."""
    rule_ids: frozenset[str] = frozenset()
    """Rules of the trace: they mark the lines of boxes."""
    verdict: str = ""
    """Outcome in words; empty without a request."""

    def passes(self, some_id: str) -> bool:
        """Whether a box or an arrow is on the path."""
        return some_id in self.ids

    def applied(self, rule_id: str) -> bool:
        """Whether a line's rule is in the trace."""
        return rule_id in self.rule_ids


def mark(graph: Graph, answer: Recommendation, headline: str) -> Path:
    """Find the path of an answer, which ends with its headline."""
    ids = passed(graph, answer.pack, answer.inputs.answers, choice=answer.decision.choice)
    return Path(ids, frozenset(step.rule_id for step in answer.trace), headline)


def passed(graph: Graph, pack: Pack, answers: Answers, *, choice: Choice) -> tuple[str, ...]:
    """Boxes and arrows of a choice in order, then the questions that were answered."""
    boxes = _boxes(pack, answers, choice)
    arrows = {(arrow.start, arrow.end): arrow.id for arrow in graph.arrows}
    ids = [boxes[0]]
    for start, end in pairwise(boxes):
        ids += [arrows[start, end], end]
    answered = (question.id for question in pack.rules.questions if answers.get(question.input) != UNKNOWN)
    return (*ids, *answered)


def _boxes(pack: Pack, answers: Answers, choice: Choice) -> list[str]:
    override = pack.rules.override.id
    start, end = [GATE, override], [LIMITS, FIT]
    if choice.passage.upgrade:
        return [GATE, UPGRADE, choice.rule_id, *end]
    if choice.overridden:
        return [*start, f"{override}.yes", *end]
    if choice.rule_id == VOTES:
        return [*start, VOTES, f"{VOTES}.yes", *end]
    if choice.rule_id in {rule.id for rule in pack.rules.tie_breaks}:
        return [*start, VOTES, TIES, f"{TIES}.yes", *end]
    leaf = _leaf(pack, answers, choice)
    return [*start, VOTES, TIES, MEMORY_KNOWN, *leaf, pack.rules.stars_order.id, *end]


def _leaf(pack: Pack, answers: Answers, choice: Choice) -> list[str]:
    if answers.memory == UNKNOWN:
        rules = (*pack.rules.use_cases, pack.rules.default_leaf)
        return [USE_CASES, next(rule.id for rule in rules if matches(rule.when, answers))]
    nodes = {node.id: node for node in pack.rules.tree.nodes}
    passed = [pack.rules.tree.root]
    while True:
        node = nodes[passed[-1]]
        fits = node.needs is None or node.needs in choice.passage.feasible
        word = "yes" if matches(node.when, answers) and fits else "no"
        target = node.yes if word == "yes" else node.no
        if target not in nodes:
            return [*passed, f"{node.id}.{word}"]
        passed.append(target)
