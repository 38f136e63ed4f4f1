# SPDX-License-Identifier: Apache-2.0
"""How much an estimate rests on measured runs like it, apart for memory and for time, and why.

The farther a case is from anything measured, the wider its intervals have to be: `memory_spread` and `time_spread` say
by how much. The own observed runs of a device count as near: they were made with this very program on it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import NamedTuple

from finetree_estimator.evidence.corrections import UNCORRECTED, Correction, Factor
from finetree_estimator.evidence.measured_runs import Near, case_of, measured_settings, nearest
from finetree_estimator.evidence.similarity import (
    FAR,
    MEMORY,
    TIME,
    Case,
    Setting,
    Weights,
    setting_terms,
    size_terms,
    tokens_of,
)
from finetree_estimator.methods.registry import METHODS
from finetree_estimator.remarks import Remark
from finetree_estimator.run import Run

NEAR = 0.15
"""Largest distance of high confidence: another program of the same formulas, or three times the size."""
MIDDLE = 0.45
"""Largest distance of medium confidence: another method or a quantized base, and little else."""
OBSERVED_ENOUGH = 3
"""Observed runs of a device from which on it counts as measured: a median of fewer can be spoilt by one."""
WORTH_SAYING = 0.05
"""A respect that adds less is not named as a reason."""
MEMORY_FAR = 2.1
TIME_FAR = 1.5
"""Width of the intervals of a far case in units of a near one's. Own choices, held against published runs of other
programs than those that the constants were fitted on; the width that a device's unknown rate adds is the device's own,
and therefore time widens less."""


class Level(Enum):
    """The names are those of the contract's ConfidenceLevel."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Confidence:
    """Levels and distances (0 the same case, 1 far) for memory and for time, with one line for each reason."""

    memory: Level
    time: Level
    memory_distance: float
    time_distance: float
    reasons: tuple[Remark, ...]


@dataclass(frozen=True)
class Nearest:
    """The measured runs nearest to a run, given what was learned from observed runs of its device.

    Each is looked for once, when it is first asked for: searches need the peak alone.
    """

    run: Run
    correction: Correction = UNCORRECTED

    @cached_property
    def case(self) -> Case:
        """The run as the distance sees it."""
        return case_of(self.run)

    @cached_property
    def peak(self) -> Near:
        """The nearest run whose peak was measured."""
        return nearest(self.case, _weights(MEMORY, self.correction.memory))

    @cached_property
    def speed(self) -> Near:
        """The nearest run whose speed was measured."""
        return nearest(self.case, _weights(TIME, self.correction.step_time))

    def confidence(self, *, reasons: bool = True) -> Confidence:
        """Confidence in the estimate of the run; without `reasons` they are left out."""
        weights = _weights(MEMORY, self.correction.memory), _weights(TIME, self.correction.step_time)
        return Confidence(
            memory=level(self.peak.distance),
            time=level(self.speed.distance),
            memory_distance=self.peak.distance,
            time_distance=self.speed.distance,
            reasons=_reasons(self.case, self.peak, self.speed, weights=weights) if reasons else (),
        )


def _weights(weights: Weights, factor: Factor) -> Weights:
    """The weights of the distance, given what was observed of the device."""
    return weights.where_observed() if factor.observations >= OBSERVED_ENOUGH else weights


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


def _reasons(case: Case, memory: Near, time: Near, *, weights: tuple[Weights, Weights]) -> tuple[Remark, ...]:
    """What differs from the runs whose peak and whose speed are nearest; what both share is said once."""
    of_memory, of_time = weights
    peak = _setting_reasons(case.setting, memory.row.case.setting, of_memory)
    speed = _setting_reasons(case.setting, time.row.case.setting, of_time)
    peak_sizes, speed_sizes = _size_reasons(case, memory, of_memory), _size_reasons(case, time, of_time)
    return (
        *(_of(remark, "peak or speed" if remark in speed else "peak") for remark in peak),
        *peak_sizes,
        *(_of(remark, "speed") for remark in speed if remark not in peak),
        *(remark for remark in speed_sizes if remark not in peak_sizes),
    )


def _of(remark: Remark, what: str) -> Remark:
    """The remark with what was measured in its place."""
    return remark._replace(message=remark.message.format(what=what))


_METHODS = {method.trained_part: method.described for method in METHODS.values()}
_CHECKPOINTING = {
    "off": "without checkpointing",
    "full": "with checkpointing",
    "offloaded": "with offloaded checkpointing",
}


class Respect(NamedTuple):
    """How a respect in which runs differ is named."""

    code: str
    """First part of a remark's code."""
    field_path: str
    phrase: Callable[[Setting], str]
    """A setting in words that follow "a run"."""


_RESPECTS = {
    "method": Respect("METHOD", "spec", lambda setting: f"of {_METHODS[setting.method]}"),
    "bits": Respect(
        "BASE_BITS",
        "spec.qlora.quantization",
        lambda setting: f"of a {setting.bits}-bit base" if setting.bits else "of an unquantized base",
    ),
    "checkpointing": Respect(
        "CHECKPOINTING", "spec.gradient_checkpointing", lambda setting: _CHECKPOINTING[setting.checkpointing]
    ),
    "accelerator": Respect(
        "ACCELERATOR", "spec.hardware.accelerator", lambda setting: f"on {setting.accelerator or 'this accelerator'}"
    ),
    "devices": Respect(
        "DEVICE_COUNT",
        "spec.hardware.count",
        lambda setting: f"on {setting.devices} devices" if setting.devices > 1 else "on one device",
    ),
    "sharding": Respect("SHARDING", "spec.hardware.sharding", lambda setting: f"with sharding {setting.sharding}"),
    "nodes": Respect(
        "NODE_COUNT",
        "spec.hardware.nodes",
        lambda setting: "on several machines" if setting.nodes > 1 else "on one machine",
    ),
    "program": Respect("PROGRAM", "spec.program.program", lambda setting: f"of {setting.program}"),
    "mixture": Respect(
        "EXPERTS", "spec.model", lambda setting: "of a mixture of experts" if setting.mixture else "of a dense model"
    ),
    "eager": Respect(
        "ATTENTION",
        "spec.attention",
        lambda setting: "with eager attention" if setting.eager else "with fused attention",
    ),
    "hybrid": Respect(
        "LINEAR_ATTENTION",
        "spec.model",
        lambda setting: "of a model with linear attention" if setting.hybrid else "of a model without linear attention",
    ),
    "guessed": Respect(
        "ARCHITECTURE",
        "spec.model",
        lambda setting: "of a guessed architecture" if setting.guessed else "of a known architecture",
    ),
}


def _setting_reasons(mine: Setting, other: Setting, weights: Weights) -> list[Remark]:
    """One for each respect in which the nearest measured run differs, and whether any such run was measured.

    {what} in a message stands for what was measured.
    """
    found = []
    for name, term in setting_terms(mine, other, weights).items():
        if term < WORTH_SAYING:
            continue
        code, path, phrase = _RESPECTS[name]
        if getattr(mine, name) in _measured_values(name, peaks=weights.by_peak):
            text = f"the nearest measured {{what}} is {phrase(other)}, this run is {phrase(mine)}"
            found.append(Remark(f"{code}_DIFFERS", text, path))
        else:
            found.append(Remark(f"{code}_NOT_MEASURED", f"no measured {{what}} is {phrase(mine)}", path))
    return found


def _measured_values(name: str, *, peaks: bool) -> frozenset[object]:
    """Values that the measured runs have in a respect."""
    return frozenset(getattr(setting, name) for setting in measured_settings(peaks=peaks))


def _size_reasons(case: Case, near: Near, weights: Weights) -> list[Remark]:
    """One for each size in which the nearest measured run differs much."""
    other, found = near.row.case, []
    terms = size_terms(case, other, weights)
    if terms.parameters >= WORTH_SAYING:
        ours, theirs = math.exp(case.parameters) / 1e9, math.exp(other.parameters) / 1e9
        text = f"the model has {ours:.3g} billion parameters, the nearest measured one {theirs:.3g}"
        found.append(Remark("MODEL_SIZE_DIFFERS", text, "spec.model"))
    if terms.tokens >= WORTH_SAYING:
        ours, theirs = math.exp(tokens_of(case, weights)), math.exp(tokens_of(other, weights))
        which = "largest" if weights.by_peak else "average"
        text = f"the {which} micro-batch has {ours:,.0f} tokens, the nearest measured one {theirs:,.0f}"
        found.append(Remark("MICRO_BATCH_DIFFERS", text, "spec.training.micro_batch_size"))
    return found
