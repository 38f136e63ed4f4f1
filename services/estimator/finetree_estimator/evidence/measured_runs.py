# SPDX-License-Identifier: Apache-2.0
"""The measured runs that the constants rest on, and which of them are nearest to a run.

The rows are made by benchmarks/estimator/evidence.py from published tables.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from finetree_estimator.catalog import accelerators
from finetree_estimator.catalog.names import table
from finetree_estimator.evidence.similarity import (
    CPU,
    FAR,
    MEMORY,
    TIME,
    Case,
    Setting,
    Weights,
    setting_distance,
    size_terms,
)
from finetree_estimator.intervals import Kind, Source
from finetree_estimator.run import Run
from finetree_estimator.shapes.parameters import count
from finetree_estimator.timing.step_time import step_of

NEAREST = 5
"""Rows that a full answer holds."""
DIGITS = 4
"""Decimal places of a distance; finer ones say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """A measured run; where it was repeated, the medians. Peaks in bytes, 0 where it was not measured."""

    place: int
    """Place in the file, from 0: of equally near runs the first one counts."""
    case: Case
    description: str
    peak_bytes: int
    tokens_per_second: float
    """Of all devices; 0 where it was not measured."""
    source: Source


@dataclass(frozen=True, slots=True)
class Near:
    """A measured run and its distance, 0 to 1."""

    row: MeasuredRun
    distance: float
    apart: float = 0.0
    """Distance of the nearest run where the number of tokens does not count, 0 to 1."""


@cache
def measured_runs() -> tuple[MeasuredRun, ...]:
    """All measured runs, in the order of the file, which is read once."""
    return tuple(_row(place, row) for place, row in enumerate(table("evidence.csv")))


def measured(*, peaks: bool) -> tuple[MeasuredRun, ...]:
    """Runs that measured a peak, or those that measured a speed."""
    return tuple(row for row in measured_runs() if (row.peak_bytes if peaks else row.tokens_per_second) > 0)


@cache
def _by_setting(*, peaks: bool) -> tuple[tuple[Setting, tuple[MeasuredRun, ...]], ...]:
    """Runs that measured a peak, or those that measured a speed, by their setting: few settings differ."""
    found: dict[Setting, list[MeasuredRun]] = {}
    for row in measured(peaks=peaks):
        found.setdefault(row.case.setting, []).append(row)
    return tuple((setting, tuple(rows)) for setting, rows in found.items())


def measured_settings(*, peaks: bool) -> tuple[Setting, ...]:
    """The different settings of the runs that measured a peak, or of those that measured a speed."""
    return tuple(setting for setting, _ in _by_setting(peaks=peaks))


def case_of(run: Run) -> Case:
    """A run as the distance sees it."""
    name, architecture = _known(run.device.name, is_cpu=run.on_cpu)
    peak = run.peak_tokens
    return Case(
        setting=Setting(
            method=run.method.trained_part,
            bits=run.method.base_bits,
            checkpointing="offloaded" if run.offloaded else "full" if run.checkpointing else "off",
            accelerator=name,
            architecture=architecture,
            devices=run.devices,
            sharding=run.sharding if run.devices > 1 else "replicated",
            nodes=run.nodes,
            program=run.program.name,
            mixture=run.shape.experts > 0,
            eager=run.eager_attention,
            hybrid=run.shape.mixer is not None,
            guessed=run.shape.guessed,
        ),
        parameters=math.log(count(run.shape).total),
        peak_tokens=_size(peak),
        mean_tokens=_size(step_of(run, run.rows).tokens if run.rows is not None else peak),
    )


def nearest_runs(case: Case, most: int = NEAREST) -> tuple[Near, ...]:
    """The measured runs most like a case, nearest first: by the mean of the distances for memory and for time."""
    found = [
        (round((_distance(case, row, MEMORY) + _distance(case, row, TIME)) / 2, DIGITS), row) for row in measured_runs()
    ]
    found.sort(key=lambda pair: pair[0])
    return tuple(Near(row, min(FAR, distance)) for distance, row in found[:most])


def nearest(case: Case, weights: Weights) -> Near:
    """The nearest run that measured what the weights are for: a peak (MEMORY) or a speed (TIME).

    Looks at the nearest settings first, and no further than where the settings alone are farther than what was found.
    """
    groups = [
        (setting_distance(case.setting, setting, weights), rows) for setting, rows in _by_setting(peaks=weights.by_peak)
    ]
    groups.sort(key=lambda group: group[0])
    found: list[tuple[float, int, MeasuredRun]] = []
    least = apart = math.inf
    for settings, rows in groups:
        if settings > least:
            break
        for row in rows:
            sizes = size_terms(case, row.case, weights)
            distance = settings + sum(sizes)
            found.append((distance, row.place, row))
            least, apart = min(least, distance), min(apart, settings + sizes.parameters)
    distance, _, row = min(found)
    return Near(row, min(FAR, round(distance, DIGITS)), min(FAR, round(apart, DIGITS)))


def _distance(case: Case, row: MeasuredRun, weights: Weights) -> float:
    """Distance of a case from a measured run."""
    settings = setting_distance(case.setting, row.case.setting, weights)
    return settings + sum(size_terms(case, row.case, weights))


def _size(number: float) -> float:
    """Logarithm of tokens in steps of a twentieth: finer ones change no distance that matters, and few cases repeat."""
    return round(math.log(number) * 20) / 20


def _known(name: str, *, is_cpu: bool) -> tuple[str, str]:
    """Catalog name and architecture of a device; empty where no measured run has it: it differs from all alike."""
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
    entry = accelerators.find(name)
    return (entry.name, entry.architecture) if entry is not None else ("", "")


def _row(place: int, row: dict[str, str]) -> MeasuredRun:
    name, architecture = _known(row["accelerator"], is_cpu=row["accelerator"] == CPU)
    return MeasuredRun(
        place=place,
        # No mixture of experts, no eager attention, no hybrid and no guessed architecture was measured.
        case=Case(
            setting=Setting(
                method=row["method"],
                bits=int(row["bits"]),
                checkpointing=row["checkpointing"],
                accelerator=name,
                architecture=architecture,
                devices=int(row["devices"]),
                sharding=row["sharding"] or "replicated",
                nodes=int(row["nodes"]),
                program=row["program"],
            ),
            parameters=math.log(float(row["parameters"])),
            peak_tokens=_size(float(row["peak_tokens"])),
            mean_tokens=_size(float(row["mean_tokens"])),
        ),
        description=", ".join(_parts(row)),
        peak_bytes=int(row["peak_bytes"]),
        tokens_per_second=float(row["tokens_per_second"]),
        source=Source(Kind.PUBLISHED, row["source"], row["locator"], date=row["date"]),
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
