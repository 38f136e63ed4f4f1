# SPDX-License-Identifier: Apache-2.0
"""The decision tree, its use-case chart, and the multi-task question that hangs beside it."""

from dataclasses import dataclass

from finetree_recommender.answers import UNKNOWN, Answers, matches
from finetree_recommender.methods import Method
from finetree_recommender.pack import Pack
from finetree_recommender.rules import Leaf
from finetree_recommender.trace import Step


@dataclass(frozen=True, slots=True)
class Walk:
    """Where the tree leads."""

    method: Method
    rule_id: str
    steps: tuple[Step, ...]


def override(pack: Pack, answers: Answers) -> Walk | None:
    """The multi-task override, where it applies."""
    rule = pack.rules.override
    if not matches(rule.when, answers) or (rule.unless and matches(rule.unless, answers)):
        return None
    inputs = answers.read(*dict.fromkeys((*rule.when, *rule.unless)))
    step = Step("multi_task_override", rule.id, f"decides for {rule.method}", pack.provenance(rule.source), inputs)
    return Walk(rule.method, rule.id, (step,))


def leaf(pack: Pack, answers: Answers, feasible: tuple[Method, ...] = tuple(Method)) -> Walk:
    """The tree's leaf; where the memory is unknown, the use case's, or the playbook's default.

    `feasible` are the methods that the hardware gate lets through.
    """
    if answers.memory == UNKNOWN:
        rules = (*pack.rules.use_cases, pack.rules.default_leaf)
        return _use_case(pack, answers, next(rule for rule in rules if matches(rule.when, answers)))
    nodes = {node.id: node for node in pack.rules.tree.nodes}
    steps: list[Step] = []
    name = pack.rules.tree.root
    while name in nodes:
        node = nodes[name]
        yes = matches(node.when, answers) and (node.needs is None or node.needs in feasible)
        name = node.yes if yes else node.no
        words = f"{'yes' if yes else 'no'}: {name}"
        steps.append(Step("tree", node.id, words, pack.provenance(node.source), answers.read(*node.when)))
    return Walk(Method(name), steps[-1].rule_id, tuple(steps))


def _use_case(pack: Pack, answers: Answers, rule: Leaf) -> Walk:
    step = Step("tree", rule.id, f"leads to {rule.method}", pack.provenance(rule.source), answers.read(*rule.when))
    return Walk(rule.method, rule.id, (step,))
