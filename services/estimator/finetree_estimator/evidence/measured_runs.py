# SPDX-License-Identifier: Apache-2.0
"""The measured runs that the constants rest on, and which of them are nearest to a run.

The rows are made by benchmarks/estimator/evidence.py from published tables.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

from finetree_estimator.catalog.accelerators import accelerator
from finetree_estimator.catalog.architecture import Shape
from finetree_estimator.catalog.names import UnknownNameError, table
from finetree_estimator.catalog.parameters import count
from finetree_estimator.evidence.similarity import (
    CPU,
    FAR,
    MEMORY,
    TIME,
    Case,
    Setting,
    Weights,
    apart,
    case_made,
    per_log,
    setting_of,
    sizes,
    terms,
    tokens_of,
)
from finetree_estimator.intervals import Kind, Source
from finetree_estimator.methods.base import QuantizedLora, name_of
from finetree_estimator.run import Run
from finetree_estimator.timing.step_time import step_of

NEAREST = 5
"""Rows that a full answer holds."""
ALONE = "replicated"
"""Sharding of a single device."""
DIGITS = 4
"""Decimal places of a distance; finer ones say nothing."""


@dataclass(frozen=True, slots=True)
class Row:
    """A measured run; where it was repeated, the medians. Peaks in bytes, 0 where it was not measured."""

    case: Case
    description: str
    peak_bytes: int
    tokens_per_second: float
    """Of all devices; 0 where it was not measured."""
    source: Source


class Near(NamedTuple):
    """A row and its distance, 0 to 1."""

    row: Row
    distance: float


@cache
def rows() -> tuple[Row, ...]:
    """All measured runs, in the order of the file."""
    return tuple(_row(row) for row in table("evidence.csv"))


def case_of(run: Run) -> Case:
    """A run as the distance sees it."""
    method, devices = name_of(run.method), run.devices
    name, architecture = _known(run.device.name, run.device.is_cpu)
    setting = setting_of(
        "lora" if method == "qlora" else method,
        run.method.bits if isinstance(run.method, QuantizedLora) else 0,
        "offloaded" if run.offloaded else "full" if run.checkpointing else "off",
        name,
        architecture,
        devices,
        run.sharding if devices > 1 else ALONE,
        run.nodes,
        run.program.name,
        run.shape.experts > 0,
        run.eager_attention,
        run.shape.guessed,
    )
    peak = run.peak_tokens
    mean = step_of(run, run.rows).tokens if run.rows is not None else peak
    return case_made((setting, _log_parameters(run.shape), _size(peak), _size(mean)))


def nearest_evidence(case: Case, most: int = NEAREST) -> tuple[Near, ...]:
    """The measured runs most like a case, nearest first: by the mean of the distances for memory and for time."""
    found = []
    for row in rows():
        both = [sum(terms(case.setting, row.case.setting, w).values()) for w in (MEMORY, TIME)]
        both += [sum(sizes(case, row.case, w).values()) for w in (MEMORY, TIME)]
        found.append((round(sum(both) / 2, DIGITS), row))
    found.sort(key=lambda pair: pair[0])
    return tuple(Near(row, min(FAR, distance)) for distance, row in found[:most])


def nearest(case: Case, weights: Weights) -> Near:
    """The nearest row that measured what the weights are for: a peak (MEMORY) or a speed (TIME)."""
    best, found = math.inf, 0
    of_parameters, of_tokens = per_log(weights.parameters), per_log(weights.tokens)
    parameters, tokens = case.parameters, tokens_of(case, weights)
    for base, points in _by_setting(case.setting, weights):
        if base >= best:
            break
        for row_parameters, of_model in points.items():
            by_parameters = base + of_parameters * abs(parameters - row_parameters)
            if by_parameters >= best:
                continue  # the terms only add up: most rows are too far already by the size of their model
            for row_tokens, number in of_model:
                far = by_parameters + of_tokens * abs(tokens - row_tokens)
                if far < best:
                    best, found = far, number
    return Near(measured(peaks=weights.by_peak)[found], min(FAR, round(best, DIGITS)))


_Points = dict[float, list[tuple[float, int]]]
"""Logarithms of tokens and numbers of rows, by the logarithm of their model's parameters."""


@cache
def measured(*, peaks: bool) -> tuple[Row, ...]:
    """Rows that measured a peak, or those that measured a speed."""
    return tuple(row for row in rows() if (row.peak_bytes if peaks else row.tokens_per_second) > 0)


@cache
def _groups(weights: Weights) -> dict[Setting, _Points]:
    """Rows that measured it, by setting."""
    groups: dict[Setting, _Points] = {}
    for number, row in enumerate(measured(peaks=weights.by_peak)):
        of_model = groups.setdefault(row.case.setting, {}).setdefault(row.case.parameters, [])
        tokens = tokens_of(row.case, weights)
        # Of rows of the same sizes the first is as near as any.
        if all(tokens != other for other, _ in of_model):
            of_model.append((tokens, number))
    return groups


@lru_cache(maxsize=1024)
def _by_setting(setting: Setting, weights: Weights) -> list[tuple[float, _Points]]:
    """The groups with the distance of their settings from this one, nearest first."""
    groups = _groups(weights).items()
    found = [(apart(setting, other, weights), points) for other, points in groups]
    return sorted(found, key=lambda pair: pair[0])


def _size(number: float) -> float:
    """Logarithm of tokens in steps of a twentieth: finer ones change no distance that matters, and few cases repeat."""
    return round(math.log(number) * 20) / 20


@lru_cache(maxsize=1024)
def _log_parameters(shape: Shape) -> float:
    return math.log(count(shape).total)


@lru_cache(maxsize=1024)
def _known(name: str, is_cpu: bool) -> tuple[str, str]:  # noqa: FBT001  # a key
    """Catalogue name and architecture of a device; empty where no measured run has it: it differs from all alike."""
    if is_cpu:
        return CPU, CPU
    found, architecture = _named(name)
    names, architectures = _measured_devices()
    return found if found in names else "", architecture if architecture in architectures else ""


@cache
def _measured_devices() -> tuple[frozenset[str], frozenset[str]]:
    """Accelerators and architectures of the measured runs."""
    found = [_named(row["accelerator"]) for row in table("evidence.csv")]
    return frozenset(name for name, _ in found), frozenset(architecture for _, architecture in found)


def _named(name: str) -> tuple[str, str]:
    try:
        entry = accelerator(name)
    except UnknownNameError:
        return "", ""
    return entry.name, entry.architecture


def _row(row: dict[str, str]) -> Row:
    name, architecture = _known(row["accelerator"], row["accelerator"] == CPU)
    setting = setting_of(
        row["method"],
        int(row["bits"]),
        row["checkpointing"],
        name,
        architecture,
        int(row["devices"]),
        row["sharding"] or ALONE,
        int(row["nodes"]),
        row["program"],
        False,  # noqa: FBT003  # no mixture
        False,  # noqa: FBT003  # and no eager attention was measured
        False,  # noqa: FBT003  # nor is any architecture guessed
    )
    peak, mean = (_size(float(row[column])) for column in ("peak_tokens", "mean_tokens"))
    return Row(
        Case(setting, math.log(float(row["parameters"])), peak, mean),
        ", ".join(_parts(row)),
        int(row["peak_bytes"]),
        float(row["tokens_per_second"]),
        Source(Kind.PUBLISHED, row["source"], row["locator"], row["date"]),
    )


def _parts(row: dict[str, str]) -> Iterator[str]:
    """A row for people, part by part."""
    yield row["model"]
    yield (row["variant"] or row["method"]) + (f" rank {row['rank']}" if row["rank"] else "")
    if row["targets"]:
        yield f"on {row['targets'].replace(';', ' ')}"
    if row["virtual_tokens"]:
        yield f"{row['virtual_tokens']} virtual tokens"
    if row["bits"] != "0":
        yield f"{row['bits']}-bit base"
    yield f"{int(row['peak_tokens']):,} tokens a micro-batch"
    yield f"checkpointing {row['checkpointing']}"
    yield f"{row['devices']} x {row['accelerator']}" + (f" on {row['nodes']} nodes" if row["nodes"] != "1" else "")
    yield row["program"]
    if row["peak_kind"]:
        yield f"peak {row['peak_kind']}"
    if row["runs"] != "1":
        yield f"median of {row['runs']} runs"
