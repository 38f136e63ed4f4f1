# SPDX-License-Identifier: Apache-2.0
"""How much an estimate rests on measured runs like it, apart for memory and for time, and why.

The farther a case is from anything measured, the wider its intervals have to be: `memory_spread` and `time_spread` say
by how much. The own observed runs of a device count as near: they were made with this very program on it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import cache, lru_cache

from finetree_estimator.evidence.corrections import UNCORRECTED, Correction
from finetree_estimator.evidence.measured_runs import Near, case_of, measured, nearest
from finetree_estimator.evidence.similarity import (
    FAR,
    MEMORY,
    TIME,
    Case,
    Setting,
    Weights,
    size_terms,
    terms,
    tokens_of,
)
from finetree_estimator.run import Run

NEAR = 0.15
"""Largest distance of high confidence: another program of the same formulas, or three times the size."""
MIDDLE = 0.45
"""Largest distance of medium confidence: another method or a quantised base, and little else."""
OBSERVED_ENOUGH = 3
"""Observed runs of a device from which on it counts as measured: a median of fewer can be spoilt by one."""
WORTH_SAYING = 0.05
"""A respect that adds less is not named as a reason."""
MEMORY_FAR = 2.0
TIME_FAR = 1.5
"""Width of the intervals of a far case in units of a near one's. Own choices, held against published runs of other
programs than those that the constants were fitted on; the width that a device's unknown rate adds is the device's own,
and therefore time widens less."""


class Level(Enum):
    """The names are those of the contract's ConfidenceLevel."""

    # Enum's own hashes the name, in Python; members are single, so their identity will do.
    __hash__ = object.__hash__

    LOW = 1
    MEDIUM = 2
    HIGH = 3


@dataclass(slots=True)
class Confidence:
    """Levels and distances (0 the same case, 1 far) for memory and for time, with one line for each reason.

    Not to be changed: it is kept.
    """

    memory: Level
    time: Level
    memory_distance: float
    time_distance: float
    reasons: tuple[str, ...]
    written: list[bytes] = field(default_factory=list, init=False, compare=False, repr=False)
    """What of it stands on the wire, for who writes it more than once."""


def of(run: Run, correction: Correction = UNCORRECTED, case: Case | None = None, *, told: bool = True) -> Confidence:
    """Confidence in the estimate of a run, with what was learned from observed runs of its device.

    `case` is its `evidence.case_of`, where that is known. Without `told` the reasons are left out.
    """
    learned = correction.memory.observations, correction.step_time.observations
    of_memory = _weights(MEMORY, learned[0] >= OBSERVED_ENOUGH)
    of_time = _weights(TIME, learned[1] >= OBSERVED_ENOUGH)
    return _of(case or case_of(run), of_memory, of_time, told)


@lru_cache(maxsize=4096)
def _of(case: Case, of_memory: Weights, of_time: Weights, told: bool) -> Confidence:  # noqa: FBT001  # a key
    memory, time = nearest(case, of_memory), nearest(case, of_time)
    reasons = _reasons(case, memory, time, of_memory, of_time) if told else ()
    return Confidence(level(memory.distance), level(time.distance), memory.distance, time.distance, reasons)


def memory_distance(run: Run, correction: Correction = UNCORRECTED) -> float:
    """Distance of the nearest measured peak alone: what `of` says, for searches that ask about many runs."""
    learned = correction.memory.observations >= OBSERVED_ENOUGH
    return _nearest(case_of(run), _weights(MEMORY, learned)).distance


def memory_spread(distance: float) -> float:
    """Factor of the half-widths of memory at a distance: 1 where the case was measured, never less."""
    return 1.0 + (MEMORY_FAR - 1.0) * min(max(distance, 0.0), FAR)


def time_spread(distance: float) -> float:
    """Factor of the half-widths of time at a distance: 1 where the case was measured, never less."""
    return 1.0 + (TIME_FAR - 1.0) * min(max(distance, 0.0), FAR)


def level(distance: float) -> Level:
    """What a distance means."""
    if distance <= NEAR:
        return Level.HIGH
    return Level.MEDIUM if distance <= MIDDLE else Level.LOW


def _reasons(case: Case, memory: Near, time: Near, of_memory: Weights, of_time: Weights) -> tuple[str, ...]:
    others = memory.row.case.setting, time.row.case.setting
    memory_why, time_why = _setting_lines(case.setting, *others, of_memory, of_time)
    memory_sizes, time_sizes = _size_reasons(case, memory, of_memory), _size_reasons(case, time, of_time)
    return (*memory_why, *memory_sizes, *time_why, *(line for line in time_sizes if line not in memory_sizes))


_nearest = lru_cache(maxsize=4096)(nearest)


@cache
def _weights(weights: Weights, learned: bool) -> Weights:  # noqa: FBT001  # a key of the cache
    return weights.where_observed() if learned else weights


@lru_cache(maxsize=4096)
def _setting_lines(
    mine: Setting, in_memory: Setting, in_time: Setting, of_memory: Weights, of_time: Weights
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Lines on the settings of the runs whose peak and whose speed are nearest; what both share is said once."""
    peak, speed = _setting_reasons(mine, in_memory, of_memory), _setting_reasons(mine, in_time, of_time)
    said = (line.format(what="peak or speed" if line in speed else "peak") for line in peak)
    return tuple(said), tuple(line.format(what="speed") for line in speed if line not in peak)


_METHODS = {
    "full": "of full training",
    "lora": "of low-rank adapters",
    "prefix": "of prefix tuning",
    "adapter": "of bottleneck adapters",
}
_CHECKPOINTING = {
    "off": "without checkpointing",
    "full": "with checkpointing",
    "offloaded": "with offloaded checkpointing",
}
_PHRASES: dict[str, Callable[[Setting], str]] = {
    "method": lambda setting: _METHODS[setting.method],
    "bits": lambda setting: f"of a {setting.bits}-bit base" if setting.bits else "of an unquantised base",
    "checkpointing": lambda setting: _CHECKPOINTING[setting.checkpointing],
    "accelerator": lambda setting: f"on {setting.accelerator or 'this accelerator'}",
    "devices": lambda setting: f"on {setting.devices} devices" if setting.devices > 1 else "on one device",
    "sharding": lambda setting: f"with sharding {setting.sharding}",
    "nodes": lambda setting: "on several machines" if setting.nodes > 1 else "on one machine",
    "program": lambda setting: f"of {setting.program}",
    "mixture": lambda setting: "of a mixture of experts" if setting.mixture else "of a dense model",
    "eager": lambda setting: "with eager attention" if setting.eager else "with fused attention",
    "guessed": lambda setting: "of a guessed architecture" if setting.guessed else "of a known architecture",
}


def _setting_reasons(mine: Setting, other: Setting, weights: Weights) -> tuple[str, ...]:
    """A line for each respect in which the nearest measured run differs; whether any such run was measured is said.

    {what} stands for what was measured.
    """
    lines = []
    for name, term in terms(mine, other, weights).items():
        if term < WORTH_SAYING:
            continue
        phrase = _PHRASES[name]
        if getattr(mine, name) in _measured_values(name, peaks=weights.by_peak):
            lines.append(f"the nearest measured {{what}} is {phrase(other)}, this run is {phrase(mine)}")
        else:
            lines.append(f"no measured {{what}} is {phrase(mine)}")
    return tuple(lines)


@cache
def _measured_values(name: str, *, peaks: bool) -> frozenset[object]:
    """What the measured runs have in a respect."""
    return frozenset(getattr(row.case.setting, name) for row in measured(peaks=peaks))


def _size_reasons(case: Case, near: Near, weights: Weights) -> list[str]:
    """A line for each size in which the nearest measured run differs much."""
    other = near.row.case
    by_parameters, by_tokens = size_terms(case, other, weights)
    lines = []
    if by_parameters >= WORTH_SAYING:
        lines.append(_parameters_line(case.parameters, other.parameters))
    if by_tokens >= WORTH_SAYING:
        lines.append(_tokens_line(tokens_of(case, weights), tokens_of(other, weights), by_peak=weights.by_peak))
    return lines


@lru_cache(maxsize=4096)
def _parameters_line(mine: float, other: float) -> str:
    """Both are logarithms."""
    ours, theirs = math.exp(mine) / 1e9, math.exp(other) / 1e9
    return f"the model has {ours:.3g} billion parameters, the nearest measured one {theirs:.3g}"


@lru_cache(maxsize=4096)
def _tokens_line(mine: float, other: float, *, by_peak: bool) -> str:
    """Both are logarithms; few differ, since they come in steps."""
    ours, theirs = math.exp(mine), math.exp(other)
    which = "largest" if by_peak else "average"
    return f"the {which} micro-batch has {ours:,.0f} tokens, the nearest measured one {theirs:,.0f}"
