# SPDX-License-Identifier: Apache-2.0
"""The decision tree, its use cases, and the multi-task override."""

from dataclasses import dataclass

from finetree_recommender.method import Method, target
from finetree_recommender.rule_pack.answers import UNKNOWN, Answers, matches
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.rule_pack.schema.rules import Leaf, Node
from finetree_recommender.trace import Step

TREE = "tree"
"""Stage of the decision tree in the trace."""


@dataclass(frozen=True, slots=True)
class Walk:
    """Method of the override or the tree, and the way to it."""

    method: Method
    stage: str
    answers: Answers
    nodes: tuple[tuple[Node, bool], ...] = ()
    """Nodes of the tree on the way, and whether their answer was yes."""
    leaf: Leaf | None = None
    """Rule that names the method, where no node of the tree does."""

    @property
    def rule_id(self) -> str:
        """Rule that led to the method."""
        return self.leaf.id if self.leaf is not None else self.nodes[-1][0].id

    @property
    def steps(self) -> tuple[Step, ...]:
        """Steps of the trace."""
        if self.leaf is None:
            return tuple(_node_step(node, self.answers, yes=yes) for node, yes in self.nodes)
        rule = self.leaf
        does, names = ("leads to", rule.when) if self.stage == TREE else ("decides for", {**rule.when, **rule.unless})
        return (Step(self.stage, rule.id, f"{does} {self.method}", rule.source, self.answers.read(*names)),)


def override(pack: Pack, answers: Answers) -> Walk | None:
    """Apply the multi-task override; None where it does not apply."""
    rule = pack.rules.override
    if not matches(rule.when, answers) or (rule.unless and matches(rule.unless, answers)):
        return None
    return Walk(rule.method, "multi_task_override", answers, leaf=rule)


def leaf(pack: Pack, answers: Answers, feasible: tuple[Method, ...] = tuple(Method)) -> Walk:
    """Walk the tree to its leaf, or take the use case's method or the pack's default where it cannot be walked.

    That is where the memory is unknown and a node asks for it, or where nothing is known that any node asks for.
    `feasible` are the methods that the hardware gate lets through.
    """
    asked = pack.tree_inputs
    if answers.memory == UNKNOWN and ("memory" in asked or all(answers.get(name) == UNKNOWN for name in asked)):
        rules = (*pack.rules.use_cases, pack.rules.default_leaf)
        rule = next(rule for rule in rules if matches(rule.when, answers))
        return Walk(rule.method, TREE, answers, leaf=rule)
    name, passed = pack.rules.tree.root, list[tuple[Node, bool]]()
    while (node := pack.tree_nodes.get(name)) is not None:
        yes = (node.needs is None or node.needs in feasible) and matches(node.when, answers)
        passed.append((node, yes))
        name = node.yes if yes else node.no
    return Walk(Method(name), TREE, answers, nodes=tuple(passed))


def _node_step(node: Node, answers: Answers, *, yes: bool) -> Step:
    outcome = f"yes: {target(node.yes)}" if yes else f"no: {target(node.no)}"
    return Step(TREE, node.id, outcome, node.source, answers.read(*node.when))
