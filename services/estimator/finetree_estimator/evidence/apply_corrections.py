# SPDX-License-Identifier: Apache-2.0
"""Applies what was learned from observed runs to the peaks and times that the formulas give."""

from dataclasses import replace

from finetree_estimator.evidence.corrections import Correction, Factor
from finetree_estimator.intervals import Interval, Source, together, total
from finetree_estimator.memory.peak import COUNTED, Memory
from finetree_estimator.timing.phases import Phase, Times

BY_RATE = frozenset({Phase.TRAIN, Phase.EVALUATE})
"""Phases whose time goes with the device's rate; the others depend on disk and tokenizer."""


def correct_memory(peaks: Memory, correction: Correction, *, processes: int = 0) -> Memory:
    """Peaks with the factor on everything but what is counted exactly; no upper end is below that of `peaks`.

    `processes` are those whose device is the host's memory; 0 for a run on GPUs.
    """
    factor = correction.memory
    if not factor.observations:
        return peaks
    source = correction.source
    counted = total(interval for kind, interval in peaks.components if kind in COUNTED)
    device = _beyond(peaks.device, counted, factor, source=source)
    corrected = replace(
        peaks,
        components=tuple(
            (kind, interval if kind in COUNTED else factor.apply(interval, source))
            for kind, interval in peaks.components
        ),
        allocated=_beyond(peaks.allocated, counted, factor, source=source),
        reserved=_beyond(peaks.reserved, counted, factor, source=source),
        device=device,
        # On a CPU the device's peak is the host's; beside a GPU the host was not observed.
        host=device.scaled(processes) if processes else peaks.host,
    )
    return keep_upper_ends(corrected, peaks)


def keep_upper_ends(corrected: Memory, plain: Memory) -> Memory:
    """Corrected peaks whose upper ends are at least those of the uncorrected ones.

    The observed runs of a device may have been of any batch and length, which their points do not keep: that short rows
    took less than was predicted must not make long ones fit.
    """
    least = dict(plain.components)
    return Memory(
        components=tuple((kind, _at_least(size, least[kind])) for kind, size in corrected.components),
        allocated=_at_least(corrected.allocated, plain.allocated),
        reserved=_at_least(corrected.reserved, plain.reserved),
        device=_at_least(corrected.device, plain.device),
        host=_at_least(corrected.host, plain.host),
    )


def correct_times(times: Times, correction: Correction, *, narrow: bool = True) -> Times:
    """Times with the factor on what goes with the device's rate.

    Without `narrow` (row lengths are unknown, which no observation of other rows helps) the widths stay.
    """
    factor, source = correction.step_time, correction.source
    if not factor.observations:
        return times
    if not narrow:
        factor = replace(factor, weight=0.0)
    step = factor.apply(times.step, source)
    tokens = times.tokens_per_second.expected * times.step.expected
    others = total(interval for phase, interval in times.phases if phase not in BY_RATE)
    return replace(
        times,
        phases=tuple(
            (phase, factor.apply(interval, source) if phase in BY_RATE else interval)
            for phase, interval in times.phases
        ),
        total=_beyond(times.total, others, factor, source=source),
        step=step,
        tokens_per_second=Interval(tokens / step.high, tokens / step.expected, tokens / step.low, sources=step.sources),
    )


def _at_least(corrected: Interval, plain: Interval) -> Interval:
    return replace(corrected, high=max(corrected.high, plain.high))


def _beyond(whole: Interval, fixed: Interval, factor: Factor, *, source: Source) -> Interval:
    """An interval with the factor on what it has beyond `fixed`."""
    expected = max(0.0, whole.expected - fixed.expected)
    low = min(expected, max(0.0, whole.low - fixed.low))
    rest = factor.apply(Interval(low, expected, max(expected, whole.high - fixed.high)), source)
    return Interval(
        fixed.low + rest.low,
        fixed.expected + rest.expected,
        fixed.high + rest.high,
        sources=together(whole.sources, rest.sources),
        coverage=whole.coverage,
    )
