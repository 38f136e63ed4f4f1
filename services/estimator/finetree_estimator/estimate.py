# SPDX-License-Identifier: Apache-2.0
"""The estimate of a run: one pure function, the same in a server, in a batch and in a one-shot program."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from finetree_estimator import cost
from finetree_estimator.cost import Cost
from finetree_estimator.evidence.apply_corrections import correct_memory, correct_times, keep_upper_ends
from finetree_estimator.evidence.confidence import (
    Confidence,
    Nearest,
    memory_spread,
    time_spread,
)
from finetree_estimator.evidence.corrections import UNCORRECTED, Correction
from finetree_estimator.evidence.token_count import widen_memory, widen_times
from finetree_estimator.intervals import LIMIT, BeyondLimitError, Interval
from finetree_estimator.memory import peak
from finetree_estimator.memory.fit import Fit, Verdict, judge
from finetree_estimator.memory.fragmentation import left_over, with_left_over
from finetree_estimator.memory.model_states import ModelStates, model_states
from finetree_estimator.memory.peak import Memory
from finetree_estimator.remarks import Remark
from finetree_estimator.run import Run
from finetree_estimator.shapes.parameters import count
from finetree_estimator.timing import phases
from finetree_estimator.timing.phases import Phase, Times

FULL_CARD = 0.92
"""Share of a device's memory above which its allocator frees its cache and tries again."""
MUCH_LEFT_OVER = 1.02
"""Device peak over what must be there from which on it is said how much is left over, and what avoids it."""
MUCH_TRUNCATED = 0.005
"""Share of all tokens from which on it is said that truncation leaves them out."""
MUCH_SAVING = 0.25
"""Share of a run's time beyond which its checkpoints are worth a remark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run takes. `times` and `cost` are None where the number of rows is unknown.

    Of a run that does not fit they are what it would take if it did: an answer has `duration` and `price` instead.
    """

    memory: Memory
    fit: Fit
    times: Times | None
    cost: Cost | None
    trainable_parameters: int
    total_parameters: int
    optimizer_steps: int
    confidence: Confidence
    remarks: tuple[Remark, ...]

    @property
    def fits(self) -> bool:
        """Whether the run fits, tightly or not, as far as the device's memory is known."""
        return self.fit.verdict is not Verdict.DOES_NOT_FIT

    @property
    def duration(self) -> Times | None:
        """Times of a run that can be made."""
        return self.times if self.fits else None

    @property
    def price(self) -> Cost | None:
        """Cost of a run that can be made."""
        return self.cost if self.fits else None


@dataclass(frozen=True)
class Prediction:
    """A run with what observed runs of its device say; what its fit and its estimate share is computed once."""

    run: Run
    correction: Correction = UNCORRECTED

    @cached_property
    def exceeds(self) -> bool:
        """Whether weights and optimizer states alone are more than the device has: no peak is needed to tell."""
        # They are counted exactly: no peak, observed or not, is lower.
        return 0 < self.run.device.usable_bytes < self._states.kept_for_the_step

    @cached_property
    def memory(self) -> Memory:
        """Peaks in bytes, with what is left over for nothing."""
        filled = self._over_counts(Prediction._filled)
        return keep_upper_ends(filled, self._over_counts(Prediction._filled_uncorrected)) if self._learned else filled

    @cached_property
    def fit(self) -> Fit:
        """Whether the peak fits."""
        return judge(self._peaks.device, self.run.device.usable_bytes)

    def estimate(self, *, explained: bool = True) -> Estimate:
        """Memory, fit, time and cost of the run. Raises BeyondLimitError.

        Without `explained`, remarks and the reasons of the confidence are left out.
        """
        run, correction, memory, fit = self.run, self.correction, self.memory, self.fit
        _guard("memory in bytes", memory.device.high, memory.host.high)
        times = self._times(self._nearest.speed.apart)
        return Estimate(
            memory=memory,
            fit=fit,
            times=times,
            cost=_cost(run, times) if times is not None else None,
            trainable_parameters=run.method.trainable_parameters(run.shape),
            total_parameters=count(run.shape).total,
            optimizer_steps=run.steps,
            confidence=self._nearest.confidence(reasons=explained),
            remarks=tuple(_remarks(run, correction, memory=memory, fit=fit, times=times)) if explained else (),
        )

    @cached_property
    def _states(self) -> ModelStates:
        return model_states(self.run)

    @cached_property
    def _nearest(self) -> Nearest:
        return Nearest(self.run, self.correction)

    def _times(self, distance: float) -> Times | None:
        """Times of a run whose nearest measured speed is so far; None where the number of rows is unknown."""
        times = _times(self.run, self.correction, distance)
        if times is None or self._ends is None:
            return times
        fewest, most = (_times(end.run, self.correction, distance) for end in self._ends)
        return widen_times(times, fewest or times, most or times)

    @cached_property
    def _ends(self) -> "tuple[Prediction, Prediction] | None":
        """The run with the fewest and with the most tokens; None where they are counted."""
        if self.run.counts_tokens:
            return None
        return Prediction(self.run.with_end(0), self.correction), Prediction(self.run.with_end(1), self.correction)

    def _over_counts(self, peaks_of: "Callable[[Prediction], Memory]") -> Memory:
        """Peaks that hold whatever number of tokens the rows may have."""
        peaks = peaks_of(self)
        return peaks if self._ends is None else widen_memory(peaks, *map(peaks_of, self._ends))

    @cached_property
    def _peaks(self) -> Memory:
        """Peaks with what was learned of the device, judged by what must be there.

        What is left over is given back when the device is full.
        """
        peaks = self._over_counts(Prediction._corrected)
        return keep_upper_ends(peaks, self._over_counts(Prediction._uncorrected)) if self._learned else peaks

    def _filled(self) -> Memory:
        """Peaks of the expected tokens with what was learned of the device, and with what is left over."""
        return self._with_left_over(self._corrected())

    def _filled_uncorrected(self) -> Memory:
        """Peaks of the expected tokens by the formulas alone, with what is left over."""
        return self._with_left_over(self._uncorrected())

    def _with_left_over(self, peaks: Memory) -> Memory:
        return with_left_over(peaks, self._left_over, self.run.device.usable_bytes) if self._left_over else peaks

    @cached_property
    def _left_over(self) -> Interval | None:
        return left_over(self.run)

    def _corrected(self) -> Memory:
        """Peaks of the expected tokens with what was learned of the device."""
        return correct_memory(self._formulas, self.correction, processes=self.run.devices if self.run.on_cpu else 0)

    def _uncorrected(self) -> Memory:
        return self._formulas

    @cached_property
    def _formulas(self) -> Memory:
        """Peaks of the expected tokens by the formulas alone, as wide as the nearest measured peak is far.

        An observed run of the device is not taken for a near one here: it may have been of another size.
        """
        near = Nearest(self.run) if self._learned else self._nearest
        return peak.estimate(self.run, memory_spread(near.peak.apart), states=self._states)

    @property
    def _learned(self) -> bool:
        """Whether peaks of the device were observed."""
        return self.correction.memory.observations > 0


def estimate(run: Run, correction: Correction = UNCORRECTED) -> Estimate:
    """Memory, fit, time and cost of a run, corrected by observed runs of its device. Raises BeyondLimitError."""
    return Prediction(run, correction).estimate()


def fit_of(run: Run, correction: Correction = UNCORRECTED) -> tuple[Memory, Fit]:
    """Memory of a run and whether it fits: the part of `estimate` that searches repeat."""
    prediction = Prediction(run, correction)
    return prediction.memory, prediction.fit


def _times(run: Run, correction: Correction, distance: float) -> Times | None:
    """Times of a run whose nearest measured speed is so far; None where the number of rows is unknown."""
    times = phases.estimate(run, time_spread(distance))
    if times is None:
        return None
    times = correct_times(times, correction, narrow=run.rows is not None and run.rows.mean_known)
    _guard("time in seconds", times.total.high)
    _guard("tokens", times.processed_tokens, times.tokens_per_second.high)
    return times


def _cost(run: Run, times: Times) -> Cost:
    found = cost.estimate(run, times.total)
    _guard("money, energy or carbon", *found.largest())
    return found


def _guard(what: str, *values: float) -> None:
    """Raise BeyondLimitError where a number is too large for an answer."""
    for value in values:
        if not value < LIMIT:
            raise BeyondLimitError(what)


def _remarks(run: Run, correction: Correction, *, memory: Memory, fit: Fit, times: Times | None) -> Iterator[Remark]:
    """What was guessed or unknown, why intervals are wide, and what is worth changing."""
    yield from run.remarks
    yield from run.device.remarks
    yield from correction.remarks()
    yield from _row_remarks(run)
    if fit.verdict is Verdict.DOES_NOT_FIT:
        text = (
            "time and cost are left out: the run does not fit at its expected memory; remedies have those of changes "
        )
        text += "that make it fit"
        yield Remark("RUN_DOES_NOT_FIT", text, "spec.hardware")
    yield from run.method.remarks(run)
    if run.devices > 1 and run.sharding == "replicated":
        who = "processes" if run.on_cpu else "devices"
        text = f"each of the {run.devices} {who} holds a full copy: more of them take no less memory each"
        yield Remark("DEVICES_HOLD_COPIES", text, "spec.hardware.sharding")
    if run.devices > 1 and run.on_cpu:
        text = f"{run.devices} processes share one processor, {run.device.cores} of its cores each: together they are "
        text += "no faster than one"
        yield Remark("DEVICES_SHARE_CORES", text, "spec.hardware.count")
    elif run.devices > 1:
        text = "few runs on several devices were published, and networks differ: intervals are wider"
        yield Remark("DEVICES_RARELY_MEASURED", text, "spec.hardware.count")
    if run.nodes > 1 and not run.network_known:
        text = f"the network of each machine is assumed to pass {run.device.network_gbits:g} Gbit/s in each direction"
        yield Remark("NETWORK_ASSUMED", text, "spec.hardware.network_gbits_per_second")
    yield from _memory_remarks(run, memory, fit)
    if (
        times is not None
        and fit.verdict is not Verdict.DOES_NOT_FIT
        and run.checkpoints
        and (share := _saving_share(times)) > MUCH_SAVING
    ):
        text = f"writing {run.checkpoints} checkpoints takes {share:.0%} of the time: raise checkpoints.every_steps"
        yield Remark("CHECKPOINTS_SLOW", text, "spec.checkpoints.every_steps")


def _row_remarks(run: Run) -> Iterator[Remark]:
    if run.rows is None or run.steps == 0:
        text = "time and cost are left out: the number of rows is unknown (give dataset.profile.examples)"
        yield Remark("ROWS_UNKNOWN", text, "spec.dataset.profile.examples")
    if run.rows is not None and run.rows.truncated >= MUCH_TRUNCATED:
        share = f"{run.rows.truncated:.0%}"
        text = f"rows are truncated at {run.sequence_length:,} tokens: at least {share} of all tokens are lost"
        yield Remark("ROWS_TRUNCATED", text, "spec.training.sequence_length")
    if run.rows is not None and run.rows.ends is not None:
        few, many = (f"{rows.tokens:,.0f}" for rows in run.rows.ends)
        text = (
            f"the tokens of the rows are estimated: {few} to {many}, which depends on the model's tokenizer and chat "
        )
        text += "template; intervals are as much wider, until a PREPARE job with the model has counted them"
        yield Remark("TOKENS_ESTIMATED", text, "dataset_profile.total_tokens_range")
    # Where nothing is known of the lengths, the one assumption about all rows says it (spec/assumptions).
    if run.rows is None or (run.rows.mean_known and not run.rows.longest_known):
        text = "the longest row is unknown: memory is that of full micro-batches"
        yield Remark("LONGEST_ROW_UNKNOWN", text, "dataset_profile.token_lengths")


def _memory_remarks(run: Run, memory: Memory, fit: Fit) -> Iterator[Remark]:
    usable, expected = run.device.usable_bytes, memory.device.expected
    if not run.on_cpu and usable and FULL_CARD * usable < expected <= usable:
        text = "above 92 % of the device's memory the allocator frees its cache and retries: slower, but it may run"
        yield Remark("DEVICE_NEARLY_FULL", text, "spec.hardware")
    if expected > MUCH_LEFT_OVER * fit.peak.expected:
        left = (expected - fit.peak.expected) / 1024**3
        text = f"{left:.1f} GiB of what is reserved are blocks of shorter rows that longer rows cannot use"
        remedy = "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True avoids them"
        text = f"{text}; they are freed where the device is full, and {remedy}"
        yield Remark("FRAGMENTATION", text, "spec.program.allocator_cache")


def _saving_share(times: Times) -> float:
    """Share of the time that is spent on writing what was trained."""
    return dict(times.phases)[Phase.SAVE].expected / times.total.expected
