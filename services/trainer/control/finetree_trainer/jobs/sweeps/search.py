# SPDX-License-Identifier: Apache-2.0
"""The values of a sweep's trials: every combination of a grid, or drawn from lists and ranges by the seed."""

import itertools
import math
import random
from collections.abc import Sequence
from typing import Any

from finetree_api.trainer.v1 import sweep_pb2
from finetree_runtime.errors import invalid_field

from finetree_trainer.jobs.sweeps import settings

MAX_TRIALS = 256
"""Most trials of a sweep."""
DEFAULT_TRIALS = 10
"""Trials of a random search that states none."""
DIGITS = 4
"""Digits that a number drawn from a range is rounded to: what a person can read and repeat."""

Values = tuple[sweep_pb2.SweepValue, ...]
"""The values of a trial, in the order of the parameters."""


def search_of(sweep: sweep_pb2.SweepTemplate) -> sweep_pb2.SweepSearch.ValueType:
    """Return how the values are chosen, the default filled in."""
    if sweep.search != sweep_pb2.SWEEP_SEARCH_UNSPECIFIED:
        return sweep.search
    lists = all(parameter.WhichOneof("domain") == "values" for parameter in sweep.parameters)
    most = sweep.trials if sweep.HasField("trials") else MAX_TRIALS
    fits = lists and combinations(sweep.parameters) <= most
    return sweep_pb2.SWEEP_SEARCH_GRID if fits else sweep_pb2.SWEEP_SEARCH_RANDOM


def combinations(parameters: Sequence[sweep_pb2.SweepParameter]) -> int:
    """Return how many combinations the lists have."""
    return math.prod(len(parameter.values.values) for parameter in parameters)


def choose(sweep: sweep_pb2.SweepTemplate) -> list[Values]:
    """Choose the values of every trial.

    Raises InvalidArgument INVALID_REQUEST where a grid has a range or too many combinations, or a domain does not fit.
    """
    if search_of(sweep) == sweep_pb2.SWEEP_SEARCH_GRID:
        return _grid(sweep)
    return _random(sweep)


def _grid(sweep: sweep_pb2.SweepTemplate) -> list[Values]:
    for place, parameter in enumerate(sweep.parameters):
        if parameter.WhichOneof("domain") != "values":
            path = f"sweep.parameters[{place}].range"
            raise invalid_field(path, "cannot be part of a grid; list its values, or search at random")
    most = sweep.trials if sweep.HasField("trials") else MAX_TRIALS
    count = combinations(sweep.parameters)
    if count > most:
        text = (
            f"the grid has {count} combinations and the sweep at most {most} trials; shorten lists, or search at random"
        )
        raise invalid_field("sweep.parameters", text)
    return list(itertools.product(*(parameter.values.values for parameter in sweep.parameters)))


def _random(sweep: sweep_pb2.SweepTemplate) -> list[Values]:
    """Draw trials; of lists alone no combination twice, so that there may be fewer than asked for."""
    count = sweep.trials if sweep.HasField("trials") else DEFAULT_TRIALS
    draws = [_domain(parameter, place) for place, parameter in enumerate(sweep.parameters)]
    lists = all(parameter.WhichOneof("domain") == "values" for parameter in sweep.parameters)
    if lists:
        # By places, not by values: a list may be long, and its combinations too many to write down.
        places = range(combinations(sweep.parameters))
        chosen = random.Random(f"{sweep.seed}").sample(places, min(count, len(places)))
        sizes = [len(parameter.values.values) for parameter in sweep.parameters]
        return [_at(place, sizes, sweep.parameters) for place in chosen]
    # Each number has a generator of its own: another parameter, or more trials, changes no other draw.
    return [
        tuple(
            draw(random.Random(f"{sweep.seed}/{number}/{parameter.field_path}"))
            for draw, parameter in zip(draws, sweep.parameters, strict=True)
        )
        for number in range(count)
    ]


def _at(place: int, sizes: Sequence[int], parameters: Sequence[sweep_pb2.SweepParameter]) -> Values:
    """Return a grid's combination at a place, the last parameter changing fastest."""
    chosen: list[sweep_pb2.SweepValue] = []
    for size, parameter in zip(reversed(sizes), reversed(parameters), strict=True):
        place, index = divmod(place, size)
        chosen.append(parameter.values.values[index])
    return tuple(reversed(chosen))


def _domain(parameter: sweep_pb2.SweepParameter, place: int) -> Any:
    """Return a function that draws a value with a generator. Raises InvalidArgument for a range that does not fit."""
    if parameter.WhichOneof("domain") == "values":
        return lambda generator: generator.choice(parameter.values.values)
    chosen, path = parameter.range, f"sweep.parameters[{place}].range"
    whole = settings.is_whole(parameter.field_path, f"sweep.parameters[{place}].field_path")
    if whole and not (chosen.low.is_integer() and chosen.high.is_integer()):
        raise invalid_field(path, f"{parameter.field_path} is a whole number, so its range must have whole ends")
    logarithmic = chosen.scale == sweep_pb2.SWEEP_SCALE_LOG
    if logarithmic and chosen.low <= 0:
        raise invalid_field(f"{path}.low", "must be above 0 on a logarithmic scale")
    if chosen.scale == sweep_pb2.SWEEP_SCALE_UNSPECIFIED:
        logarithmic = not whole and chosen.low > 0

    def draw(generator: random.Random) -> sweep_pb2.SweepValue:
        if logarithmic:
            value = math.exp(generator.uniform(math.log(chosen.low), math.log(chosen.high)))
        elif whole:
            value = float(generator.randint(int(chosen.low), int(chosen.high)))
        else:
            value = generator.uniform(chosen.low, chosen.high)
        rounded = float(round(value)) if whole else float(f"{value:.{DIGITS}g}")
        return sweep_pb2.SweepValue(number=min(max(rounded, chosen.low), chosen.high))

    return draw
