# SPDX-License-Identifier: Apache-2.0
"""The decision tree, its use cases, and the multi-task override."""

from dataclasses import dataclass

from finetree_recommender.method import Method
from finetree_recommender.rule_pack.answers import UNKNOWN, Answers, matches
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.rule_pack.schema.rules import Leaf, Node
from finetree_recommender.trace import Step


@dataclass(frozen=True, slots=True)
class Walk:
    """Method of the override or the tree, with the steps to it; the last one names the rule."""

    method: Method
    steps: tuple[Step, ...]

    @property
    def rule_id(self) -> str:
        """Rule that led to the method."""
        return self.steps[-1].rule_id


def override(pack: Pack, answers: Answers) -> Walk | None:
    """Apply the multi-task override; None where it does not apply."""
    rule = pack.rules.override
    if not matches(rule.when, answers) or (rule.unless and matches(rule.unless, answers)):
        return None
    read = answers.read(*dict.fromkeys((*rule.when, *rule.unless)))
    return Walk(rule.method, (_step(rule, "multi_task_override", "decides for", read=read),))


def leaf(pack: Pack, answers: Answers, feasible: tuple[Method, ...] = tuple(Method)) -> Walk:
    """Walk the tree to its leaf; where the memory is unknown, take the use case's method or the pack's default.

    `feasible` are the methods that the hardware gate lets through.
    """
    if answers.memory == UNKNOWN:
        rules = (*pack.rules.use_cases, pack.rules.default_leaf)
        rule = next(rule for rule in rules if matches(rule.when, answers))
        return Walk(rule.method, (_step(rule, "tree", "leads to", read=answers.read(*rule.when)),))
    nodes, name, steps = pack.tree_nodes, pack.rules.tree.root, list[Step]()
    while name in nodes:
        node = nodes[name]
        yes = (node.needs is None or node.needs in feasible) and matches(node.when, answers)
        steps.append(_node_step(node, answers, yes=yes))
        name = node.yes if yes else node.no
    return Walk(Method(name), tuple(steps))


def _node_step(node: Node, answers: Answers, *, yes: bool) -> Step:
    outcome = f"yes: {node.yes}" if yes else f"no: {node.no}"
    return Step("tree", node.id, outcome, node.source, answers.read(*node.when))


def _step(rule: Leaf, stage: str, does: str, *, read: tuple[str, ...]) -> Step:
    """Step of a rule that names a method."""
    return Step(stage, rule.id, f"{does} {rule.method}", rule.source, read)
