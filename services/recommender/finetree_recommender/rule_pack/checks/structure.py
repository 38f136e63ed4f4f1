# SPDX-License-Identifier: Apache-2.0
"""Checks of a pack: no gap, no overlap, no dead end, no number without a source."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from finetree_api.types.v1 import run_spec_pb2

from finetree_recommender.method import Method
from finetree_recommender.rule_pack.answers import ENUM_WORDS, PRIORITY_WORDS, SERVING_WORDS, UNKNOWN, vocabulary
from finetree_recommender.rule_pack.checks.content import check_content
from finetree_recommender.rule_pack.checks.coverage import NUMBERS, check_reach
from finetree_recommender.rule_pack.checks.numbers import check_numbers
from finetree_recommender.rule_pack.fields import assign, path_for
from finetree_recommender.rule_pack.schema.basic import When
from finetree_recommender.rule_pack.schema.limits import Bracket
from finetree_recommender.rule_pack.schema.recipe import Row, Table
from finetree_recommender.rule_pack.schema.rules import MemoryClass, Rules
from finetree_recommender.rule_pack.yaml import PackError

DEVICE_WORDS = ("cpu_bf16", "cpu_fp32", "gpu_bf16", "gpu_no_bf16", UNKNOWN)
"""Answers of the recipe input `device`."""
PROFILES = ("PLAYBOOK", "EVIDENCE")
"""Profiles of recipe tables."""


def check(rules: Rules, resolve: Callable[[str], Any]) -> None:
    """Check a pack; `resolve` finds a source and raises PackError when there is none.

    Raises:
        PackError: The first thing that is wrong, with its rule.
    """
    items = tuple(_walk(rules))
    references = tuple(_references(items))
    _sources(references, resolve)
    named = [item for item in items if hasattr(item, "id") and item is not rules]
    _unique(item.id for item in named)
    check_numbers(rules)
    _contiguous("gate", rules.gate.classes)
    for name in ("budget", "durations", "task_counts"):
        _contiguous(name, getattr(rules, name))
    if rules.data_sizes:
        _contiguous("data_sizes", rules.data_sizes)
    for prior in rules.priors:
        _condition(prior.id, {"task_domain": prior.task_domains, "data": prior.data}, vocabulary(rules))
    _tree(rules)
    _conditions(rules, named)
    _questions(rules)
    _implied(rules)
    _tie_breaks(rules)
    _serving(rules)
    _methods(rules)
    _profiles(rules)
    for method in Method:
        for profile in PROFILES:
            _recipe(rules, method, profile)
    check_reach(rules)
    check_content(rules, references)


def _walk(value: object) -> Iterator[Any]:
    """Yield every dataclass in a value, and the value itself."""
    if dataclasses.is_dataclass(value):
        yield value
        for field in dataclasses.fields(value):
            yield from _walk(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from _walk(item)


def _references(items: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Yield every source that is named, with the rule that it belongs to."""
    for item in items:
        for name in ("source", "price_source"):
            reference = getattr(item, name, None)
            if reference is not None and not hasattr(item, "kind"):
                yield getattr(item, "id", type(item).__name__), reference


def _sources(references: Iterable[tuple[str, str]], resolve: Callable[[str], Any]) -> None:
    for rule_id, reference in references:
        try:
            resolve(reference)
        except PackError as error:
            raise PackError(f"rule {rule_id}: {error}") from None


def _unique(ids: Iterable[str]) -> None:
    twice = [rule_id for rule_id, count in Counter(ids).items() if count > 1]
    if twice:
        raise PackError(f"rule {twice[0]}: two rules have this id; rename one")


def _contiguous(name: str, brackets: Sequence[MemoryClass | Bracket]) -> None:
    if not brackets or brackets[0].low != 0 or not math.isinf(brackets[-1].high):
        raise PackError(f"{name}: brackets must reach from 0 to .inf")
    for left, right in pairwise(brackets):
        if left.high != right.low:
            kind = "a gap" if left.high < right.low else "an overlap"
            raise PackError(f"rules {left.id} and {right.id}: {kind} between {left.high:g} and {right.low:g}")
        # The shared end must belong to exactly one side.
        if getattr(left, "through", False) != getattr(right, "above", False):
            raise PackError(f"rules {left.id} and {right.id}: {left.high:g} belongs to both or to neither")


def _tree(rules: Rules) -> None:
    nodes = {node.id: node for node in rules.tree.nodes}
    seen: list[str] = []
    waiting = [rules.tree.root]
    while waiting:
        name = waiting.pop()
        if name in list(Method):
            continue
        if name not in nodes:
            raise PackError(f"tree: {name} is neither a node nor a method")
        if name in seen:
            raise PackError(f"rule {name}: the tree reaches it twice; a tree has one path to each node")
        seen.append(name)
        waiting += [nodes[name].yes, nodes[name].no]
    if len(seen) < len(nodes):
        raise PackError(f"rule {next(iter(set(nodes) - set(seen)))}: no path of the tree reaches it")


def _conditions(rules: Rules, named: Iterable[Any]) -> None:
    words = vocabulary(rules)
    for item in named:
        for name in ("when", "unless"):
            _condition(item.id, getattr(item, name, {}), words)


def _condition(rule_id: str, when: When, words: dict[str, tuple[str, ...]]) -> None:
    for name, allowed in when.items():
        if name not in words:
            raise PackError(f"rule {rule_id}: no input {name!r}; inputs are {', '.join(words)}")
        wrong = [word for word in allowed if word not in (*words[name], UNKNOWN)]
        if wrong:
            raise PackError(f"rule {rule_id}: {name} is never {wrong[0]!r}; answers are {', '.join(words[name])}")


def _questions(rules: Rules) -> None:
    words = vocabulary(rules)
    for question in rules.questions:
        if question.input not in words:
            raise PackError(f"rule {question.id}: no input {question.input!r}; inputs are {', '.join(words)}")
        for option in question.options:
            _condition(option.id, {question.input: (option.value,)}, words)
        values = Counter(option.value for option in question.options)
        twice = [value for value, count in values.items() if count > 1]
        if twice:
            raise PackError(f"rule {question.id}: two options for {twice[0]!r} overlap")
        upgrade = {item.key for item in rules.gate.classes if item.upgrade} | {"cpu"}
        for value in words[question.input]:
            if value not in values and not (question.input == "memory" and value in upgrade):
                raise PackError(f"rule {question.id}: no option for {value!r}, a gap")


def _implied(rules: Rules) -> None:
    for question, brackets in (("time", rules.durations), ("tasks", rules.task_counts)):
        for bracket in brackets:
            if bracket.implies and bracket.implies not in ENUM_WORDS[question]:
                words = ", ".join(ENUM_WORDS[question])
                raise PackError(f"rule {bracket.id}: {question} is never {bracket.implies!r}; answers are {words}")


def _tie_breaks(rules: Rules) -> None:
    words = {**vocabulary(rules), "priorities": PRIORITY_WORDS}
    for rule in rules.tie_breaks:
        _condition(rule.id, {rule.input: (rule.value,)}, words)
        found = [method for tier in rule.tiers for method in tier]
        if sorted(found) != sorted(Method):
            raise PackError(f"rule {rule.id}: each of {', '.join(Method)} in one tier, found {', '.join(found)}")


def _serving(rules: Rules) -> None:
    pairs = Counter((rule.target, method) for rule in rules.serving for method in rule.methods)
    for target in SERVING_WORDS:
        for method in Method:
            # A pair without a rule is decided by what was read in the server's code.
            if pairs.pop((target, method), 0) > 1:
                raise PackError(f"serving: at most one rule for {method.value} on {target}")
    if pairs:
        raise PackError(f"serving: there is no target {next(iter(pairs))[0]!r}; targets are {', '.join(SERVING_WORDS)}")


def _methods(rules: Rules) -> None:
    for name, found in (
        ("methods", [card.method for card in rules.methods]),
        ("stars_order", list(rules.stars_order.methods)),
    ):
        if sorted(found) != sorted(Method):
            raise PackError(f"{name}: each of {', '.join(Method)} exactly once, found {', '.join(found)}")
    for method in Method:
        _batch_starts(rules, method)


def _batch_starts(rules: Rules, method: Method) -> None:
    """Check that only the last rule of a method applies to every task: no gap, and no rule that is never reached."""
    starts = [start for start in rules.batch.start if method in start.methods]
    general = [start.id for start in starts if start.general]
    if not starts or general != [starts[-1].id]:
        found = ", ".join(start.id for start in starts)
        raise PackError(
            f"batch.start: of the rules for {method.value} ({found}) the last, and no other, must be general"
        )
    for start in starts:
        for kind in start.task_domains:
            if kind not in ENUM_WORDS["task_domain"]:
                raise PackError(f"rule {start.id}: {kind} is no kind of task")


def _profiles(rules: Rules) -> None:
    named = [("pack", rules.profile)]
    named += [(f"rule {table.rows[0].id}", profile) for table in rules.recipe for profile in table.profiles]
    for place, profile in named:
        if profile not in PROFILES:
            raise PackError(f"{place}: there is no profile {profile!r}; profiles are {', '.join(PROFILES)}")


def _recipe(rules: Rules, method: Method, profile: str) -> None:
    tables = [table for table in rules.recipe if method in table.methods and profile in table.profiles]
    for knob in dict.fromkeys(table.knob for table in tables):
        totals = [table for table in tables if table.knob == knob and table.total]
        if len(totals) > 1:
            ids = f"{totals[0].rows[0].id} and {totals[1].rows[0].id}"
            raise PackError(f"rules {ids}: both always set {knob} of {method.value}, an overlap")
    if not any(table.knob == "training.learning_rate" and table.total for table in tables):
        raise PackError(f"recipe: no table always sets training.learning_rate of {method.value} in {profile}, a gap")
    for table in tables:
        _rows(table, method)


def _rows(table: Table, method: Method) -> None:
    ids = [row.id for row in table.rows]
    if table.unknown and table.unknown not in ids:
        raise PackError(f"rule {table.unknown}: it is named as `unknown` of {table.knob} and is no row of it")
    numeric = table.input in NUMBERS
    if numeric:
        _bounds(table.rows, whole=not table.factor)
    for row in table.rows:
        if table.input == "device" and not set(row.equals) <= set(DEVICE_WORDS):
            raise PackError(f"rule {row.id}: device is one of {', '.join(DEVICE_WORDS)}")
        if bool(table.input) != (row.below is not None or bool(row.equals)):
            raise PackError(f"rule {row.id}: `below` or `equals` goes with an `input` of its table, and only with one")
        if not table.factor and not row.times:
            _assignable(row, path_for(table.knob, method))


def _bounds(rows: Sequence[Row], *, whole: bool) -> None:
    for left, right in pairwise(rows):
        if left.below is None or right.below is None or left.below >= right.below:
            raise PackError(f"rules {left.id} and {right.id}: `below` must grow from row to row, else they overlap")
    if whole and (rows[-1].below is None or not math.isinf(rows[-1].below)):
        raise PackError(f"rule {rows[-1].id}: a gap above it; the last row's `below` must be .inf")


def _assignable(row: Row, path: str) -> None:
    try:
        assign(run_spec_pb2.RunSpec(), path, row.value)
    except TypeError:
        raise PackError(f"rule {row.id}: {row.value!r} is no value of {path}") from None
    except ValueError as error:
        raise PackError(f"rule {row.id}: {error}") from None
