# SPDX-License-Identifier: Apache-2.0
"""Checks of a pack's numbers, whatever rule they belong to."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from finetree_recommender.method import Method
from finetree_recommender.rule_pack.schema.cards import CardInterval
from finetree_recommender.rule_pack.schema.limits import QualityPrior
from finetree_recommender.rule_pack.schema.recipe import BatchStart, Row, Table
from finetree_recommender.rule_pack.schema.rules import Rules, Times
from finetree_recommender.rule_pack.yaml import PackError

OPEN_ENDS = ("high", "below")
"""Fields that may be .inf: the end of the last bracket."""


def check_numbers(rules: Rules) -> None:
    """Check that numbers are finite and not negative, ranges and intervals in order, and tables complete.

    Raises:
        PackError: The first thing that is wrong, with its rule.
    """
    for place, item in _walk(rules, "pack"):
        for name, number in _numbers(item):
            if not (number >= 0 and (math.isfinite(number) or name in OPEN_ENDS)):
                raise PackError(f"{place}: {name} is {number:g}, expected a number from 0 on")
        if isinstance(item, QualityPrior | CardInterval) and not item.low <= item.expected <= item.high:
            raise PackError(f"{place}: give low, expected and high in this order of size")
        if isinstance(item, Row | BatchStart):
            _range(item)
    for table in rules.recipe:
        _values(table)
    _times(rules.times)


def _walk(value: object, place: str) -> Iterator[tuple[str, Any]]:
    """Yield every dataclass in a value, and the value itself, with the rule or card that it belongs to."""
    if dataclasses.is_dataclass(value):
        place = _place(value, place)
        yield place, value
        for field in dataclasses.fields(value):
            yield from _walk(getattr(value, field.name), place)
    elif isinstance(value, tuple):
        for item in value:
            yield from _walk(item, place)


def _place(item: Any, outer: str) -> str:
    if hasattr(item, "id") and not isinstance(item, Rules):
        return f"rule {item.id}"
    if hasattr(item, "method"):
        return f"card {item.method.value}"
    return "times" if isinstance(item, Times) else outer


def _numbers(item: Any) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a dataclass with their fields."""
    for field in dataclasses.fields(item):
        for value in _flat(getattr(item, field.name)):
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield field.name, value


def _flat(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _range(item: Row | BatchStart) -> None:
    if item.range and (len(item.range) != 2 or item.range[0] > item.range[1]):
        raise PackError(f"rule {item.id}: `range` is two numbers, the lower one first")


def _values(table: Table) -> None:
    """Check that a table has rows, and that a row's own number is in its range; a product may be outside."""
    if not table.rows:
        raise PackError(f"recipe: the table of {table.knob} has no rows")
    for row in table.rows:
        plain = not table.factor and not row.times and not isinstance(row.value, bool | str)
        if row.range and plain and not row.range[0] <= float(row.value) <= row.range[1]:
            raise PackError(f"rule {row.id}: {row.value:g} is outside of its range")


def _times(times: Times) -> None:
    """Check that there are hours for every size of data, since figures are interpolated."""
    sizes = times.examples
    if len(sizes) < 2 or sizes[0] < 1 or any(left >= right for left, right in pairwise(sizes)):
        raise PackError("times: examples are two sizes of data or more, each larger than the one before")
    for method in Method:
        hours = times.hours.get(method, ())
        if len(hours) != len(sizes) or min(hours) <= 0 or method not in times.usd_per_hour:
            raise PackError(
                f"times: {method.value} needs hours above 0 for each of {len(sizes)} sizes, and a price of an hour"
            )
