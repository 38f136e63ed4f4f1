# SPDX-License-Identifier: Apache-2.0
"""Decision graph of a pack: gate, upgrade, override, votes, ties, use cases, tree, stars, limits and fit.

The graph is made of the pack's rules alone, so that any pack is drawn as it decides. Ids are those of the rules, which
the trace uses too; a leaf, which is no rule of its own, is named by its node and branch ("N2.yes").
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from finetree_recommender.method import Method
from finetree_recommender.pictures.conditions import condition, name, value
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.rule_pack.schema.limits import TieBreak
from finetree_recommender.rule_pack.schema.rules import Leaf, Node, Question

GATE, UPGRADE, VOTES, TIES, MEMORY_KNOWN, USE_CASES = (
    "gate",
    "upgrade",
    "votes.plurality",
    "ties",
    "memory",
    "use_cases",
)
LIMITS, FIT = "limits", "fit"
"""Ids of nodes that stand for a whole stage."""


class Kind(StrEnum):
    """Kind of a node."""

    DECISION = "DECISION"
    OUTCOME = "OUTCOME"
    FIT = "FIT"
    VOTE = "VOTE"


@dataclass(frozen=True, slots=True)
class Line:
    """A further line of a box and the rule behind it."""

    rule_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Box:
    """A node. `source` is a reference of the pack, empty where the node stands for no rule."""

    id: str
    kind: Kind
    label: str
    source: str = ""
    lines: tuple[Line, ...] = ()
    method: Method | None = None


@dataclass(frozen=True, slots=True)
class Arrow:
    """An edge; with `onward` it leads on where nothing was decided, and is drawn downwards."""

    start: str
    end: str
    label: str
    onward: bool = False

    @property
    def id(self) -> str:
        """Stable id."""
        return f"{self.start}>{self.end}"


@dataclass(slots=True)
class Graph:
    """Boxes by id and arrows, both in the order of the drawing."""

    title: str
    boxes: dict[str, Box] = field(default_factory=dict)
    arrows: list[Arrow] = field(default_factory=list)

    def leaving(self, box_id: str) -> list[Arrow]:
        """Arrows that leave a box."""
        return [arrow for arrow in self.arrows if arrow.start == box_id]

    def of_kind(self, *kinds: Kind) -> list[Box]:
        """Boxes of these kinds, in order."""
        return [box for box in self.boxes.values() if box.kind in kinds]


def build(pack: Pack) -> Graph:
    """Build the graph of a pack."""
    return _Builder(pack).build()


class _Builder:
    def __init__(self, pack: Pack) -> None:
        self._pack = pack
        self._graph = Graph(f"How {pack.rules.id} decides")

    def build(self) -> Graph:
        self._gate()
        self._upgrade()
        self._override()
        self._votes()
        self._ties()
        self._use_cases()
        self._tree(self._pack.rules.tree.root)
        self._settle()
        for question in self._pack.rules.questions:
            self._add(_ballot_box(self._pack, question))
        return self._graph

    def _add(self, box: Box) -> None:
        self._graph.boxes[box.id] = box

    def _join(self, start: str, end: str, label: str, *, onward: bool = False) -> None:
        self._graph.arrows.append(Arrow(start, end, label, onward))

    def _outcome(self, start: str, box_id: str, label: str, *, box: tuple[str, Method | None, str]) -> None:
        """Add an outcome and the arrow to it."""
        text, method, source = box
        self._add(Box(box_id, Kind.OUTCOME, text, source, method=method))
        self._join(start, box_id, label)

    def _title(self, method: Method) -> str:
        return self._pack.card(method).title

    def _gate(self) -> None:
        rules = self._pack.rules
        lines = [Line(rules.gate.cpu.id, "no GPU (CPU): upgrade")]
        physics = rules.gate.physics
        if physics is not None:
            lines.insert(0, Line(physics.id, "by the estimator where it answers: what fits; without it:"))
        for item in rules.gate.classes:
            fitting = (m for m in rules.stars_order.methods if self._pack.card(m).minimum_gpu_gb.value <= item.low)
            names = "upgrade" if item.upgrade else ", ".join(self._title(method) for method in fitting)
            lines.append(Line(item.id, f"{value(self._pack, 'memory', item.key)}: {names}"))
        lines.append(Line(rules.gate.unknown.id, "unknown: every method"))
        self._add(Box(GATE, Kind.DECISION, "What is there to train on?", rules.gate.tolerance.source, tuple(lines)))
        low = [value(self._pack, "memory", item.key) for item in rules.gate.classes if item.upgrade]
        words = " or ".join(["no GPU", *low])
        self._join(GATE, UPGRADE, words if physics is None else f"nothing fits; without the estimator: {words}")
        self._join(GATE, rules.override.id, "anything else, or unknown", onward=True)

    def _upgrade(self) -> None:
        text = "Upgrade the GPU. Does a method fit in the meantime?"
        self._add(Box(UPGRADE, Kind.DECISION, text, self._pack.rules.gate.cpu.source))
        for rule in self._pack.rules.upgrade:
            text = f"the first that fits: {', '.join(self._title(method) for method in rule.order)}"
            self._outcome(UPGRADE, rule.id, condition(self._pack, rule.when), box=(text, None, rule.source))

    def _override(self) -> None:
        rule = self._pack.rules.override
        unless = f"; unless {condition(self._pack, rule.unless)}" if rule.unless else ""
        text = f"{_capital(condition(self._pack, rule.when))}{unless}?"
        self._add(Box(rule.id, Kind.DECISION, text, rule.source))
        self._outcome(rule.id, f"{rule.id}.yes", "yes", box=(self._title(rule.method), rule.method, rule.source))
        self._join(rule.id, VOTES, "no", onward=True)

    def _votes(self) -> None:
        text = "Is one feasible method alone, or ahead in votes?"
        self._add(Box(VOTES, Kind.DECISION, text, "resolution: B6"))
        self._outcome(VOTES, f"{VOTES}.yes", "yes", box=("the method with the most votes", None, ""))
        self._join(VOTES, TIES, "no: a tie, or nothing answered", onward=True)

    def _ties(self) -> None:
        """Add the tie-breaks: priorities and experience."""
        lines = [Line(rule.id, self._preference(rule)) for rule in self._pack.rules.tie_breaks]
        text = "Do the priorities leave one of the tied methods?"
        self._add(Box(TIES, Kind.DECISION, text, self._pack.rules.tie_breaks[0].source if lines else "", tuple(lines)))
        self._outcome(TIES, f"{TIES}.yes", "yes", box=("the method that they put first", None, ""))
        self._join(TIES, MEMORY_KNOWN, "no", onward=True)

    def _preference(self, rule: TieBreak) -> str:
        tiers = (" or ".join(self._title(method) for method in tier) for tier in rule.tiers)
        return f"{value(self._pack, rule.input, rule.value)}: {', then '.join(tiers)}"

    def _use_cases(self) -> None:
        rules = self._pack.rules
        self._add(Box(MEMORY_KNOWN, Kind.DECISION, "Is the GPU memory known?", rules.gate.unknown.source))
        self._join(MEMORY_KNOWN, USE_CASES, "no")
        self._add(Box(USE_CASES, Kind.DECISION, "Which of these holds first?", rules.default_leaf.source))
        for leaf in (*rules.use_cases, rules.default_leaf):
            self._leaf(leaf)
        self._join(MEMORY_KNOWN, rules.tree.root, "yes", onward=True)

    def _leaf(self, leaf: Leaf) -> None:
        box = (self._title(leaf.method), leaf.method, leaf.source)
        self._outcome(USE_CASES, leaf.id, condition(self._pack, leaf.when), box=box)

    def _tree(self, node_id: str) -> None:
        node = next(item for item in self._pack.rules.tree.nodes if item.id == node_id)
        words = condition(self._pack, node.when) if node.when or node.needs is None else ""
        fits = f"{self._title(node.needs)} can run" if node.needs is not None else ""
        text = f"{_capital('; '.join(part for part in (words, fits) if part))}?"
        self._add(Box(node.id, Kind.DECISION, text, node.source))
        self._branch(node, "yes", node.yes)
        self._branch(node, "no", node.no)

    def _branch(self, node: Node, word: str, target: str) -> None:
        if target not in list(Method):
            self._join(node.id, target, word, onward=word == "no")
            self._tree(target)
            return
        method = Method(target)
        box_id = f"{node.id}.{word}"
        self._add(Box(box_id, Kind.OUTCOME, self._title(method), node.source, method=method))
        self._join(node.id, box_id, word, onward=word == "no")

    def _settle(self) -> None:
        """Add the last stages: the order of stars, the limits and the estimator's check."""
        order = self._pack.rules.stars_order
        names = ", ".join(self._title(method) for method in order.methods)
        outcomes = [box.id for box in self._graph.of_kind(Kind.OUTCOME)]
        decided = {rule.id for rule in self._pack.rules.upgrade}
        decided |= {f"{box_id}.yes" for box_id in (self._pack.rules.override.id, VOTES, TIES)}
        text = "Votes tied, and the outcome is none of the tied methods? Then the first of them by stars"
        self._add(Box(order.id, Kind.FIT, text, order.source, (Line(order.id, names),)))
        text = (
            "Does it keep the time limit and the budget of a run, and can it be served? If not, the next one is tried"
        )
        self._add(Box(LIMITS, Kind.FIT, text, self._pack.rules.limits.max_duration.source, tuple(self._limits())))
        adaptations = [Line(rule.id, rule.message) for rule in self._pack.rules.adaptations]
        text = "Does its recipe fit, by the estimator? If not, it is adapted, and then the next method is tried"
        self._add(Box(FIT, Kind.FIT, text, "", tuple(adaptations)))
        for box_id in outcomes:
            self._join(box_id, LIMITS if box_id in decided else order.id, "then", onward=True)
        self._join(order.id, LIMITS, "then", onward=True)
        self._join(LIMITS, FIT, "then", onward=True)

    def _limits(self) -> Iterator[Line]:
        rules = self._pack.rules
        yield Line(rules.limits.max_duration.id, "the time limit, against the expected time")
        yield Line(rules.limits.budget.id, "the budget of a run, against the expected cost")
        needed = rules.capabilities.nf4
        yield Line(needed.id, f"a 4-bit base needs compute capability {needed.value:g}")
        for rule in rules.serving:
            if not rule.served:
                yield Line(rule.id, rule.note)


def _ballot_box(pack: Pack, question: Question) -> Box:
    lines = tuple(_option_lines(pack, question))
    return Box(question.id, Kind.VOTE, _capital(name(question.input)), question.options[0].source, lines)


def _option_lines(pack: Pack, question: Question) -> Iterator[Line]:
    for option in question.options:
        names = ", ".join(pack.card(method).title for method in option.votes) or "no preference"
        yield Line(option.id, f"{value(pack, question.input, option.value)}: {names}")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
