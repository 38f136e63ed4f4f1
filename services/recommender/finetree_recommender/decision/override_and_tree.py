# SPDX-License-Identifier: Apache-2.0
"""The decision tree, its use-case chart, and the multi-task question that hangs beside it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial

from finetree_recommender.method import METHODS, Method
from finetree_recommender.policy.answers import UNKNOWN, Answers, matches, unread
from finetree_recommender.policy.pack import Pack
from finetree_recommender.policy.schema.rules import Leaf, Node
from finetree_recommender.trace import Step


@dataclass(slots=True, eq=False)
class Walk:
    """Where the tree leads."""

    method: Method
    rule_id: str
    tell: Callable[[], tuple[Step, ...]] = field(repr=False, compare=False)
    """Makes the steps of the trace: of the many walks, few are told."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of the trace."""
        return self.tell()


def override(pack: Pack, answers: Answers) -> Walk | None:
    """The multi-task override, where it applies."""
    rule = pack.rules.override
    if not matches(rule.when, answers) or (rule.unless and matches(rule.unless, answers)):
        return None
    read = tuple(dict.fromkeys((*rule.when, *rule.unless)))
    return Walk(rule.method, rule.id, partial(_told, pack, answers, rule, ("multi_task_override", "decides for"), read))


def leaf(pack: Pack, answers: Answers, feasible: tuple[Method, ...] = METHODS) -> Walk:
    """The tree's leaf; where the memory is unknown, the use case's, or the playbook's default.

    `feasible` are the methods that the hardware gate lets through.
    """
    return _leaf(pack, answers.without(_unread(pack)), feasible)


@lru_cache(maxsize=8192)
def _leaf(pack: Pack, answers: Answers, feasible: tuple[Method, ...]) -> Walk:
    if answers.memory == UNKNOWN:
        rules = (*pack.rules.use_cases, pack.rules.default_leaf)
        rule = next(rule for rule in rules if matches(rule.when, answers))
        return Walk(rule.method, rule.id, partial(_told, pack, answers, rule, ("tree", "leads to"), tuple(rule.when)))
    nodes = _nodes(pack)
    passed: list[tuple[Node, bool]] = []
    name = pack.rules.tree.root
    while name in nodes:
        node = nodes[name]
        yes = (node.needs is None or node.needs in feasible) and matches(node.when, answers)
        name = node.yes if yes else node.no
        passed.append((node, yes))
    return Walk(Method(name), passed[-1][0].id, partial(_path, pack, answers, tuple(passed)))


@lru_cache(maxsize=64)
def _unread(pack: Pack) -> tuple[str, ...]:
    """Inputs that neither the tree nor what stands in for it reads."""
    rules = pack.rules
    whens = [*(node.when for node in rules.tree.nodes), *(rule.when for rule in (*rules.use_cases, rules.default_leaf))]
    read = {"memory", *(name for when in whens for name in when)}
    return unread(read)


@lru_cache(maxsize=64)
def _nodes(pack: Pack) -> Mapping[str, Node]:
    return {node.id: node for node in pack.rules.tree.nodes}


def _path(pack: Pack, answers: Answers, passed: tuple[tuple[Node, bool], ...]) -> tuple[Step, ...]:
    """The steps of a walk through nodes, and of which side was taken at each."""
    return tuple(
        Step(
            "tree",
            node.id,
            f"yes: {node.yes}" if yes else f"no: {node.no}",
            pack.cited(node.source),
            answers.read(*node.when),
        )
        for node, yes in passed
    )


def _told(pack: Pack, answers: Answers, rule: Leaf, words: tuple[str, str], read: tuple[str, ...]) -> tuple[Step, ...]:
    """The one step of a rule that names a method; `words` are its stage and what it does."""
    stage, does = words
    return (Step(stage, rule.id, f"{does} {rule.method}", pack.cited(rule.source), answers.read(*read)),)
