# SPDX-License-Identifier: Apache-2.0
"""The numbers of a request that a verdict can depend on, and the values at which each changes it.

The search is exact: a verdict can only change at the points where a rule or a limit changes its outcome, so the values
at and just before each point are enough.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, permutations, product

from finetree_recommender.decision.hardware_gate import memory_words
from finetree_recommender.decision.limits import seconds_of, usd_of
from finetree_recommender.decision.pipeline import Verdict
from finetree_recommender.decision.situation import Situation
from finetree_recommender.formatting import duration
from finetree_recommender.method import Method
from finetree_recommender.request.hardware import memory_class
from finetree_recommender.request.inputs import bracket_key
from finetree_recommender.request.limits import runs_per_month, stated_budget
from finetree_recommender.rule_pack.answers import UNKNOWN
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.rule_pack.schema.limits import Bracket

NOT_ESTIMATED = "(by the rules, not estimated)"
"""Remark on hardware for which no estimate was made."""
LONGEST_DURATION = 31536000
"""Seconds of the longest max_duration that a request can name: the contract's limit."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number of a request that a verdict can depend on."""

    field_path: str
    unit: str
    now: float
    step: float
    """Distance of two values that can be given."""
    points: tuple[float, ...]
    """Values at or beside which the outcome can change."""
    words: Callable[[float], str]
    verdict: Callable[[float], Verdict]


@dataclass(frozen=True, slots=True)
class Change:
    """The value nearest to the present one that has another verdict."""

    value: float
    verdict: Verdict


def search(number: Number, method: Method | None) -> Iterator[Change]:
    """Find, in each direction and for each other verdict, the value nearest to the present one."""
    for up in (True, False):
        seen = {method}
        for value in _values(number, up=up):
            found = number.verdict(value)
            if found.method not in seen:
                seen.add(found.method)
                yield Change(value, found)


def measured(situation: Situation) -> frozenset[str]:
    """Name the inputs of the rules that come from a number of this request, whose exact threshold is given."""
    request = situation.inputs.request
    found = set()
    if situation.inputs.marketed_gb is not None:
        found.add("memory")
    if request.HasField("budget_per_month"):
        found.add("budget")
    if situation.answers.time != UNKNOWN and not request.time:
        found.add("time")
    return frozenset(found)


def numbers(situation: Situation) -> Iterator[Number]:
    """Yield the numbers that the request states."""
    yield from _memory(situation)
    yield from _month_budget(situation)
    yield from _run_budget(situation)
    yield from _max_duration(situation)
    yield from _task_count(situation)
    yield from _examples(situation)


def bracket_words(bracket: Bracket) -> str:
    """Describe a bracket in words."""
    if math.isinf(bracket.high):
        return f"{bracket.low:g} {bracket.unit} or more"
    return f"{bracket.low:g} to {bracket.high:g} {bracket.unit}"


def _values(number: Number, *, up: bool) -> list[float]:
    """Values to look at above or below the present one, nearest first: of each point the first, and the next."""
    digits, sign = (2 if number.step < 1 else 0), (1 if up else -1)
    found: set[float] = set()
    for point in number.points:
        if math.isfinite(point) and (point - number.now) * sign > -2 * number.step:
            place = round(point / number.step, 6)
            first = math.ceil(place) if up else math.floor(place)
            found.update(round(index * number.step, digits) for index in (first, first + sign) if index > 0)
    return sorted((value for value in found if (value - number.now) * sign > 0), reverse=not up)


def _memory(situation: Situation) -> Iterator[Number]:
    now, pack = situation.inputs.marketed_gb, situation.pack
    if now is None:
        return

    estimated = situation.evidence is not None

    def verdict(gb: float) -> Verdict:
        key = memory_class(pack, gb).key
        if key == situation.answers.memory and not estimated:
            return situation.verdict()
        return situation.elsewhere(key, gb if estimated else None)

    def words(gb: float) -> str:
        if gb == now:
            return f"{gb:g} GB"
        known = memory_class(pack, gb)
        # Inside of a class it is the estimate that changes the verdict, at its lower end the class.
        if estimated and not gb <= known.low * (1 + tolerance):
            # Rounded away from the memory at hand, so that what is named has the verdict.
            tenths = math.ceil(gb * 10) if gb > now else math.floor(gb * 10)
            return f"a GPU with {tenths / 10:g} GB {NOT_ESTIMATED}"
        return f"{memory_words(pack, known.key)} {NOT_ESTIMATED}"

    tolerance = pack.rules.gate.tolerance.value
    edges = (item.low / (1 + tolerance) for item in pack.rules.gate.classes)
    yield Number("hardware", "GB", now, 0.01, (*edges, *situation.memory_edges), words, verdict)


def _month_budget(situation: Situation) -> Iterator[Number]:
    request, brackets = situation.inputs.request, situation.pack.rules.budget
    now, run = stated_budget(request, "month"), stated_budget(request, "run")
    if now is None:
        return
    runs, offered = runs_per_month(request), situation.inputs.offered

    def verdict(usd: float) -> Verdict:
        shared = usd / runs if run is None else min(run, usd / runs)
        limits = situation.limits if offered else replace(situation.limits, run_usd=shared)
        return situation.verdict(situation.answers.changed("budget", bracket_key(brackets, usd)), limits)

    costs = () if offered else _costs(situation)
    points = (*_ends(brackets), *(cost * runs for cost in costs))
    yield Number("budget_per_month", "USD a month", now, 0.01, points, _usd, verdict)


def _run_budget(situation: Situation) -> Iterator[Number]:
    request = situation.inputs.request
    now, month = stated_budget(request, "run"), stated_budget(request, "month")
    if now is None or situation.inputs.offered:
        return
    runs = runs_per_month(request)
    brackets = situation.pack.rules.budget if request.HasField("runs_per_month") and month is None else ()

    def verdict(usd: float) -> Verdict:
        answers = situation.answers
        if brackets:
            answers = answers.changed("budget", bracket_key(brackets, usd * runs))
        most = usd if month is None else min(usd, month / runs)
        return situation.verdict(answers, replace(situation.limits, run_usd=most))

    points = (*_costs(situation), *(end / runs for end in _ends(brackets)))
    yield Number("budget_per_run", "USD a run", now, 0.01, points, _usd, verdict)


def _max_duration(situation: Situation) -> Iterator[Number]:
    limits, now = situation.limits, situation.limits.max_seconds
    if now is None:
        return
    implied = not situation.inputs.request.time
    brackets = situation.pack.rules.durations if implied else ()

    def verdict(seconds: float) -> Verdict:
        answers = situation.answers
        if implied:
            word = next(item.implies for item in brackets if item.holds(seconds))
            answers = answers.changed("time", word or UNKNOWN)
        return situation.verdict(answers, replace(limits, max_seconds=seconds))

    def words(seconds: float) -> str:
        told = duration(seconds)
        return told if seconds == now or told != duration(now) else f"{seconds:,.0f} s"

    times = map(situation.seconds, Method)
    ends = (*_ends(brackets), *(seconds for seconds in times if seconds is not None))
    points = tuple(point for point in ends if point < LONGEST_DURATION)
    yield Number("max_duration", "seconds", now, 1, points, words, verdict)


def _task_count(situation: Situation) -> Iterator[Number]:
    request, counts = situation.inputs.request, situation.pack.rules.task_counts
    if not request.task_count or request.tasks:
        return

    def verdict(count: float) -> Verdict:
        found = next(item for item in counts if item.holds(count))
        counted = situation.answers.changed("task_count", found.key)
        return situation.verdict(counted.changed("tasks", found.implies or UNKNOWN))

    points = tuple(_ends(counts))
    yield Number("task_count", "tasks", request.task_count, 1, points, lambda n: f"{n:.0f} tasks", verdict)


def _examples(situation: Situation) -> Iterator[Number]:
    """Rows of the data, where limits are compared with the pack's own figures; an estimate is for its own rows."""
    limits = situation.limits
    now, limited = limits.examples, limits.max_seconds is not None or limits.run_usd is not None
    if now is None or situation.evidence is not None or not limited:
        return

    def verdict(rows: float) -> Verdict:
        return situation.verdict(limits=replace(limits, examples=int(rows)))

    def words(rows: float) -> str:
        return f"{rows:.0f} examples"

    points = tuple(_crossings(situation))
    yield Number("dataset_profile.examples", "examples", now, 1, points, words, verdict)


def _crossings(situation: Situation) -> Iterator[float]:
    """Rows at which a method's own hours or cost reach a limit, the ends of the table, and where costs change order."""
    pack, limits = situation.pack, situation.limits
    low, high = pack.rules.times.examples[0], pack.rules.times.examples[-1]
    yield from (low, high)
    if pack.rules.limits.nearest is not None and limits.run_usd is not None:
        yield from _swaps(pack)
    for method in Method:
        if limits.max_seconds is not None:
            yield _reached(pack, seconds_of, method, limit=limits.max_seconds)
        if limits.run_usd is not None:
            yield _reached(pack, usd_of, method, limit=limits.run_usd)


def _reached(pack: Pack, figure: Callable[..., float | None], method: Method, *, limit: float) -> float:
    """Rows up to which a method's own time or cost keeps a limit."""
    rows = pack.rules.times.examples
    return _last(rows[0], rows[-1], lambda count: (figure(pack, None, method, examples=count) or 0.0) <= limit)


def _swaps(pack: Pack) -> Iterator[float]:
    """Rows at which two methods change places in the order of the pack's own costs: at most once between two sizes."""
    for segment, pair in product(pairwise(pack.rules.times.examples), permutations(Method, 2)):
        yield from _swap(pack, segment, pair)


def _swap(pack: Pack, segment: tuple[int, int], pair: tuple[Method, Method]) -> Iterator[float]:
    low, high = segment

    def cheaper(rows: int) -> bool:
        one, other = (usd_of(pack, None, method, examples=rows) or 0.0 for method in pair)
        return one < other

    first = cheaper(low)
    if first != cheaper(high):
        yield _last(low, high, lambda rows: cheaper(rows) == first)


def _last(low: int, high: int, holds: Callable[[int], bool]) -> float:
    """Largest number from `low` to `high` for which a condition holds that no larger number meets again."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return float(low)


def _costs(situation: Situation) -> Iterator[float]:
    return (usd for usd in map(situation.usd, Method) if usd is not None)


def _ends(brackets: tuple[Bracket, ...]) -> Iterator[float]:
    return (item.low for item in brackets if item.low > 0)


def _usd(usd: float) -> str:
    return f"{usd:.2f} USD"
