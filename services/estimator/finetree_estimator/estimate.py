# SPDX-License-Identifier: Apache-2.0
"""The estimate of a run: one pure function, the same in a server, in a batch and in a one-shot program."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple

from finetree_estimator import cost
from finetree_estimator.catalog.parameters import count
from finetree_estimator.evidence import confidence
from finetree_estimator.evidence.apply_corrections import correct_memory, correct_times
from finetree_estimator.evidence.corrections import UNCORRECTED, Correction
from finetree_estimator.evidence.measured_runs import case_of
from finetree_estimator.intervals import LIMIT, BeyondLimitError
from finetree_estimator.memory import fit, fragmentation, peak
from finetree_estimator.methods.base import name_of, trainable_parameters
from finetree_estimator.run import Run
from finetree_estimator.timing import phases

MOST_PEAKS = 1024
"""Peaks that are kept, the ones asked for last: some five megabytes."""
MUCH_LEFT_OVER = 1.02
"""Device peak over what must be there from which on it is said how much is left over, and what avoids it."""
MUCH_SAVING = 0.25
"""Share of a run's time beyond which its checkpoints are worth a remark."""


class Estimate(NamedTuple):
    """What a run takes. `times` and `cost` are None where the number of rows is unknown."""

    memory: peak.Memory
    fit: fit.Fit
    times: phases.Times | None
    cost: cost.Cost | None
    trainable_parameters: int
    total_parameters: int
    optimizer_steps: int
    confidence: confidence.Confidence
    notes: tuple[str, ...]


Fitted = tuple[peak.Memory, fit.Fit]
"""Memory of a run and whether it fits."""


def estimate(
    run: Run, correction: Correction = UNCORRECTED, *, fitted: Fitted | None = None, told: bool = True
) -> Estimate:
    """Memory, fit, time and cost of a run, corrected by what observed runs of its device say. Raises BeyondLimitError.

    `fitted` is what `fit_of` says of the run, where that is known. Without `told`, what is for people is left out:
    notes and the reasons of the confidence.
    """
    case = case_of(run)
    known = confidence.of(run, correction, case, told=told)
    peaks, fits = fitted or _fit(run, correction, known.memory_distance)
    _guard("memory in bytes", peaks.device.high, peaks.host.high)
    times = phases.estimate(run, confidence.time_spread(known.time_distance))
    if times is not None:
        times = _corrected(times, run, correction)
    price = _price(run, times) if times is not None else None
    notes = tuple(_notes(run, correction, peaks, fits, times)) if told else ()
    trained, total = trainable_parameters(run.method, run.shape), count(run.shape).total
    return Estimate(peaks, fits, times, price, trained, total, run.steps, known, notes)


def _corrected(times: phases.Times, run: Run, correction: Correction) -> phases.Times:
    if correction.step_time.observations:
        times = correct_times(times, correction, narrow=run.rows is not None and run.rows.mean_known)
    _guard("time in seconds", times.total.high)
    _guard("tokens", times.processed_tokens, times.tokens_per_second.high)
    return times


def _price(run: Run, times: phases.Times) -> cost.Cost:
    price = cost.estimate(run, times.total)
    _guard("money, energy or carbon", *price.largest())
    return price


def fit_of(run: Run, correction: Correction = UNCORRECTED) -> Fitted:
    """Memory of a run and whether it fits: the part of `estimate` that searches repeat."""
    return _fit(run, correction, confidence.memory_distance(run, correction))


def exceeds(run: Run) -> bool:
    """Whether weights and optimizer states alone are more than the device has: no peak is needed to tell."""
    usable = run.device.usable_bytes
    return 0 < usable < peak.counted_bytes(run)


def _fit(run: Run, correction: Correction, distance: float) -> Fitted:
    """Memory of a run whose nearest measured peak is so far, and whether it fits."""
    peaks = correct_memory(_peaks(run, confidence.memory_spread(distance)), correction)
    usable = run.device.usable_bytes
    fits = fit.judge(peaks.device, usable)
    # Judged by what must be there: what is left over for nothing is given back when the device is full.
    more = fragmentation.left_over(run)
    return (fragmentation.with_left_over(peaks, more, usable) if more else peaks), fits


_PEAKS: OrderedDict[Hashable, peak.Memory] = OrderedDict()


def _peaks(run: Run, spread: float) -> peak.Memory:
    """Peaks. Those on GPUs are kept: who compares GPUs, prices or sizes of the data asks for them again."""
    key = None if run.device.is_cpu else (peak.decided_by(run), spread)
    peaks = _PEAKS.get(key)
    if peaks is not None:
        _PEAKS.move_to_end(key)
        return peaks
    peaks = peak.estimate(run, spread)
    if key is not None:
        _PEAKS[key] = peaks
        if len(_PEAKS) > MOST_PEAKS:
            _PEAKS.popitem(last=False)
    return peaks


def _guard(what: str, *values: float) -> None:
    for value in values:
        if not value < LIMIT:
            raise BeyondLimitError(what)


def _notes(
    run: Run, correction: Correction, peaks: peak.Memory, fits: fit.Fit, times: phases.Times | None
) -> list[str]:
    notes = [*run.notes, *run.device.notes, *correction.notes()]
    if run.rows is None or run.steps == 0:
        notes.append("time and cost are left out: the number of rows is unknown (give dataset_profile.examples)")
    if run.rows is None or not run.rows.longest_known:
        notes.append("the longest row is unknown: memory is that of full micro-batches")
    if run.rows is not None and not run.rows.mean_known:
        notes.append("row lengths are unknown: time is that of rows at the limit")
    method = name_of(run.method)
    if method in {"qlora", "prefix", "adapter"}:
        notes.append("few measured runs of this method are public: intervals are wider")
    if method == "qlora" and run.shape.experts and not run.program.packs_experts:
        notes.append("the experts of a mixture stay in 16 bits: quantisation packs linear layers, and they are none")
    if run.devices > 1:
        notes.append("several devices: few runs of the kind were published, and networks differ: intervals are wider")
    usable = run.device.usable_bytes
    if not run.device.is_cpu and usable and 0.92 * usable < peaks.device.expected <= usable:
        notes.append("above 92 % of the device the allocator frees its cache and retries: slower, but it may run")
    if peaks.device.expected > MUCH_LEFT_OVER * fits.peak.expected:
        left = (peaks.device.expected - fits.peak.expected) / 1024**3
        text = f"{left:.1f} GiB of what is reserved are blocks of shorter rows that longer ones cannot use"
        remedy = "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True avoids them"
        notes.append(f"{text}; they are given back where the device is full, and {remedy}")
    if times is not None and run.checkpoints and (share := _saving(times)) > MUCH_SAVING:
        text = f"writing {run.checkpoints} checkpoints takes {share:.0%} of the time"
        notes.append(f"{text}: raise checkpoints.every_steps")
    return notes


def _saving(times: phases.Times) -> float:
    """Share of the time that is spent on writing what was trained."""
    saving = next(seconds.expected for phase, seconds in times.phases if phase is phases.Phase.SAVE)
    return saving / times.total.expected
