# SPDX-License-Identifier: Apache-2.0
"""The numbers of a request that a verdict can depend on, and where along each its outcome can change."""

import math
from collections.abc import Callable, Hashable, Iterator
from functools import lru_cache, partial
from itertools import pairwise, permutations, product

from finetree_recommender.decision.hardware_gate import memory_words
from finetree_recommender.decision.limits import all_seconds, all_usd, duration, seconds_of, usd_of
from finetree_recommender.decision.situation import Situation
from finetree_recommender.decision.stages import Verdict
from finetree_recommender.explain.searching import Number, Values, values_of
from finetree_recommender.method import Method
from finetree_recommender.policy.answers import UNKNOWN, Answers
from finetree_recommender.policy.pack import Pack
from finetree_recommender.policy.schema.wish_rules import Bracket
from finetree_recommender.request.hardware import memory_class
from finetree_recommender.request.inputs import bracket_key

NOT_PRICED = "(by the rules, not priced)"
"""What is said of hardware for which no estimate was made."""

LONGEST_DEADLINE = 31536000
"""Seconds of the longest deadline that a request can name: the contract's limit."""


def measured(situation: Situation) -> frozenset[str]:
    """Inputs of the rules that come from a number of this request, and are told with their threshold."""
    request = situation.inputs.request
    found = set()
    if situation.inputs.marketed_gb is not None:
        found.add("memory")
    if request.HasField("budget_usd_month"):
        found.add("budget")
    if situation.answers.time != UNKNOWN and not request.time:
        found.add("time")
    return frozenset(found)


def numbers(situation: Situation) -> Iterator[Number]:
    """The numbers of this request, as far as they were given."""
    yield from _memory(situation)
    yield from _month_budget(situation)
    yield from _run_budget(situation)
    yield from _deadline(situation)
    yield from _task_count(situation)
    yield from _examples(situation)


def bracket_words(bracket: Bracket) -> str:
    """A bracket for people."""
    if math.isinf(bracket.high):
        return f"{bracket.low:g} {bracket.unit} or more"
    return f"{bracket.low:g} to {bracket.high:g} {bracket.unit}"


def _memory(situation: Situation) -> Iterator[Number]:
    now, pack = situation.inputs.marketed_gb, situation.pack
    if now is None:
        return

    def verdict(gb: float) -> Verdict:
        key = memory_class(pack, gb).key
        if key == situation.answers.memory:
            return situation.verdict()
        return situation.elsewhere(key)

    def words(gb: float) -> str:
        return f"{gb:g} GB" if gb == now else f"{memory_words(pack, memory_class(pack, gb).key)} {NOT_PRICED}"

    yield Number("hardware", "GB", now, _memories(pack, now), words, verdict)


@lru_cache(maxsize=4096)
def _memories(pack: Pack, now: float) -> Values:
    """Where the class of a memory changes."""
    return values_of(_class_ends(pack), now, 0.01, lambda gb: memory_class(pack, gb).key)


@lru_cache(maxsize=64)
def _class_ends(pack: Pack) -> tuple[float, ...]:
    return tuple(item.low / (1 + pack.rules.gate.tolerance.value) for item in pack.rules.gate.classes)


def _month_budget(situation: Situation) -> Iterator[Number]:
    request = situation.inputs.request
    if not request.HasField("budget_usd_month"):
        return
    runs, offered = max(1, request.runs_per_month), situation.inputs.offered

    given = [request.budget_usd_run] if request.HasField("budget_usd_run") else []

    def verdict(usd: float) -> Verdict:
        demands = situation.demands if offered else situation.demands.within(min([*given, usd / runs]))
        return turned(bracket_key(budget, usd), demands)

    turned = situation.turner("budget")
    budget, costs = situation.pack.rules.budget, () if offered else _costs(situation)
    limits = tuple(cost * runs for cost in costs)
    points, now = (*_ends(budget), *limits), request.budget_usd_month
    values = values_of(points, now, 0.01, _sides(budget, limits))
    yield Number("budget_usd_month", "USD a month", now, values, _usd, verdict)


def _run_budget(situation: Situation) -> Iterator[Number]:
    request = situation.inputs.request
    if not request.HasField("budget_usd_run") or situation.inputs.offered:
        return
    runs, month = request.runs_per_month, request.HasField("budget_usd_month")

    def verdict(usd: float) -> Verdict:
        limits = [usd, *([request.budget_usd_month / max(1, runs)] if month else [])]
        answers = _with_budget(situation, usd * runs) if runs and not month else situation.gist
        return situation.verdict(answers, situation.demands.within(min(limits)))

    brackets = situation.pack.rules.budget if runs and not month else ()
    limits, now = tuple(_costs(situation)), request.budget_usd_run
    points = (*limits, *(end / runs for end in _ends(brackets)))
    values = values_of(points, now, 0.01, _sides(brackets, limits, runs))
    yield Number("budget_usd_run", "USD a run", now, values, _usd, verdict)


def _deadline(situation: Situation) -> Iterator[Number]:
    now, pack = situation.demands.deadline_seconds, situation.pack
    if now is None:
        return
    implied = not situation.inputs.request.time

    def verdict(seconds: float) -> Verdict:
        answers = situation.gist
        if implied:
            word = next(item.implies for item in pack.rules.deadlines if item.holds(seconds))
            answers = answers.changed("time", word or UNKNOWN)
        return situation.verdict(answers, situation.demands._replace(deadline_seconds=seconds))

    examples = situation.demands.examples
    times = all_seconds(pack, situation.evidence, examples)
    limits = tuple(seconds for seconds in times if seconds is not None)
    brackets = pack.rules.deadlines if implied else ()
    points = tuple(point for point in (*_ends(brackets), *limits) if point < LONGEST_DEADLINE)

    def words(seconds: float) -> str:
        told = duration(seconds)
        return told if seconds == now or told != duration(now) else f"{seconds:,.0f} s"

    values = values_of(points, now, 1, _sides(brackets, limits))
    yield Number("deadline", "seconds", now, values, words, verdict)


def _task_count(situation: Situation) -> Iterator[Number]:
    request, pack = situation.inputs.request, situation.pack
    if not request.task_count or request.tasks:
        return

    def verdict(count: float) -> Verdict:
        found = next(item for item in pack.rules.task_counts if item.holds(count))
        counted = situation.gist.changed("task_count", found.key)
        return situation.verdict(counted.changed("tasks", found.implies or UNKNOWN))

    counts, now = pack.rules.task_counts, request.task_count
    points = tuple(_ends(counts))
    values = values_of(points, now, 1, _sides(counts, ()))
    yield Number("task_count", "tasks", now, values, lambda n: f"{n:.0f} tasks", verdict)


def _examples(situation: Situation) -> Iterator[Number]:
    """Rows of the data, where the pack's own hours are checked; an estimate holds for the rows it was made for."""
    now, demands = situation.demands.examples, situation.demands
    limited = demands.deadline_seconds is not None or demands.run_usd is not None
    if now is None or situation.evidence is not None or not limited:
        return

    def verdict(rows: float) -> Verdict:
        return situation.verdict(demands=demands._replace(examples=int(rows)))

    def words(rows: float) -> str:
        return f"{rows:.0f} examples"

    points = tuple(_crossings(situation))
    values = values_of(points, now, 1, lambda rows: rows)
    yield Number("dataset_profile.examples", "examples", now, values, words, verdict)


def _crossings(situation: Situation) -> Iterator[float]:
    """Rows at which a method's own hours or cost reach a limit, the ends of the table, and where costs change order."""
    pack, demands = situation.pack, situation.demands
    low, high = pack.rules.times.examples[0], pack.rules.times.examples[-1]
    yield from (low, high)
    if pack.rules.demands.nearest is not None and demands.run_usd is not None:
        yield from _swaps(pack)
    for method in Method:
        for figure, limit in ((seconds_of, demands.deadline_seconds), (usd_of, demands.run_usd)):
            if limit is not None:
                yield _bisect(lambda rows, f=figure, m=method: f(pack, None, m, rows) or 0.0, limit, low, high)  # type: ignore[misc]  # bound now


@lru_cache(maxsize=64)
def _swaps(pack: Pack) -> tuple[float, ...]:
    """Rows up to which a method is cheaper than another, or is not, by the pack's own cost: at most one a segment."""
    found = set[float]()
    for (low, high), (one, other) in product(pairwise(pack.rules.times.examples), permutations(Method, 2)):
        cheaper = partial(_cheaper, pack, one, other)
        if cheaper(low) != cheaper(high):
            found.add(_bisect(lambda rows, c=cheaper, at=low: c(rows) != c(at), 0, low, high))  # type: ignore[misc]  # bound now
    return tuple(sorted(found))


def _cheaper(pack: Pack, one: Method, other: Method, rows: int) -> bool:
    return (usd_of(pack, None, one, rows) or 0.0) < (usd_of(pack, None, other, rows) or 0.0)


def _bisect(figure: Callable[[int], float], limit: float, low: int, high: int) -> float:
    """The largest number of rows whose figure keeps to a limit; figures grow with the rows."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if figure(middle) <= limit else (low, middle - 1)
    return float(low)


def _sides(brackets: tuple[Bracket, ...], limits: tuple[float, ...], factor: float = 1) -> Callable[[float], Hashable]:
    """The bracket that a value times a factor lies in, and which limits it keeps to."""

    def sides(value: float) -> Hashable:
        key = bracket_key(brackets, value * factor) if brackets else ""
        return key, tuple([limit > value for limit in limits])

    return sides


def _with_budget(situation: Situation, usd: float) -> Answers:
    return situation.gist.changed("budget", bracket_key(situation.pack.rules.budget, usd))


def _costs(situation: Situation) -> Iterator[float]:
    examples = situation.demands.examples
    return (usd for usd in all_usd(situation.pack, situation.evidence, examples) if usd is not None)


def _ends(brackets: tuple[Bracket, ...]) -> Iterator[float]:
    return (item.low for item in brackets if item.low > 0)


def _usd(usd: float) -> str:
    return f"{usd:.2f} USD"
