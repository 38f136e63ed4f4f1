# SPDX-License-Identifier: Apache-2.0
"""Search for the largest micro-batch and the longest sequence length with which a run fits.

Memory grows with both, so a binary search finds the limit. There is one exception: memory falls where the micro-batch
becomes the whole batch, since no gradients are accumulated then, so sizes from there on are searched first. (On a CPU
it also falls once as rows grow, where attention changes its kernel; the result is still a size that fits.) A
micro-batch that the request leaves open has fewer rows where they are longer: each of its sizes is searched by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from finetree_runtime.runspec.defaults import MICRO_BATCH_TOKENS, default_micro_batch

from finetree_estimator.estimate import fit_of
from finetree_estimator.evidence.corrections import UNCORRECTED, Correction
from finetree_estimator.memory.fit import Verdict
from finetree_estimator.run import Rows, Run
from finetree_estimator.spec.parse import ParsedRequest
from finetree_estimator.spec.settings import training_rows

MOST_ROWS = 65_536
"""Most rows of a micro-batch, the contract's limit."""
MOST_BATCH = 1_048_576
"""Most rows of an effective batch, the contract's limit."""
MOST_TOKENS = 16_777_216
"""Most tokens of a row, the contract's limit."""
FINE, COARSE, FINE_UNTIL = 8, 64, 512
"""Row lengths are multiples of 8 up to 512 tokens and of 64 beyond."""


@dataclass(frozen=True, slots=True)
class Largest:
    """Largest sizes that fit; 0 where the smallest does not."""

    micro_batch: int
    sequence_length: int


def search(parsed: ParsedRequest, correction: Correction = UNCORRECTED) -> Largest | None:
    """Find the largest sizes with which a run fits; None where the device's memory is unknown.

    The micro-batch is at most one device's share of the request's effective batch. Where the request has none, the
    effective batch grows with the micro-batch, up to the number of training rows.
    """
    if not parsed.run.device.usable_bytes:
        return None
    batch_is_open = not parsed.request.spec.training.HasField("effective_batch_size")
    length = _sequence_length(parsed, correction)
    return Largest(_micro_batch(parsed.run, correction, batch_is_open=batch_is_open), length)


def _micro_batch(run: Run, correction: Correction, *, batch_is_open: bool) -> int:
    """Largest micro-batch in rows that fits; 0 where none does."""
    whole = min(MOST_ROWS, -(-run.batch // run.devices))
    rows = run.rows.count if run.rows is not None else MOST_ROWS
    most = max(whole, min(MOST_ROWS, min(rows, MOST_BATCH) // run.devices)) if batch_is_open else whole

    def fits(rows: int) -> bool:
        return _fits(replace(run, micro_batch=rows, batch=max(run.batch, rows * run.devices)), correction)

    return _largest(whole, most, fits) or _largest(1, whole - 1, fits)


def _sequence_length(parsed: ParsedRequest, correction: Correction) -> int:
    """Longest sequence in tokens that fits; 0 where the shortest does not."""
    last = _steps(parsed.run.shape.max_positions or MOST_TOKENS)
    ends = [last]
    if _follows_length(parsed):
        # The rows of a micro-batch are halved behind these lengths.
        halved = [_steps(MICRO_BATCH_TOKENS >> exponent) for exponent in range(1, MICRO_BATCH_TOKENS.bit_length())]
        ends += [end for end in halved if 0 < end < last]
    for end, before in zip(ends, [*ends[1:], 0], strict=True):
        if found := _largest(before + 1, end, lambda step: _fits(lengthened(parsed, _length(step)), correction)):
            return _length(found)
    return 0


def _follows_length(parsed: ParsedRequest) -> bool:
    """Whether the rows of a micro-batch are a default, which follows the sequence length."""
    return not parsed.request.spec.training.HasField("micro_batch_size")


def lengthened(parsed: ParsedRequest, length: int) -> Run:
    """Copy a run with another sequence length, and truncate training and held-out rows at it."""
    run, rows = parsed.run, training_rows(parsed.spec, parsed.profile, length)
    held = run.evaluation.rows
    plan = run.evaluation if held is None else replace(run.evaluation, rows=_cut(held, run.sequence_length, length))
    micro_batch = default_micro_batch(run.batch, length) if _follows_length(parsed) else run.micro_batch
    return replace(run, sequence_length=length, micro_batch=micro_batch, rows=rows, evaluation=plan)


def _cut(held: Rows, limit: int, length: int) -> Rows:
    """Held-out rows at another length; where the longest was truncated, it is assumed to reach the new limit."""
    longest = length if held.longest >= limit else min(held.longest, length)
    mean = min(held.mean, float(longest)) if held.mean_known else float(longest)
    square = min(held.mean_square, mean * longest) if held.mean_known else mean * mean
    return replace(held, longest=longest, mean=mean, mean_square=square)


def _fits(run: Run, correction: Correction) -> bool:
    return fit_of(run, correction)[1].verdict is Verdict.FITS


def _steps(length: int) -> int:
    """Number of candidate row lengths up to a length."""
    if length <= FINE_UNTIL:
        return length // FINE
    return FINE_UNTIL // FINE + (length - FINE_UNTIL) // COARSE


def _length(step: int) -> int:
    """Candidate row length by its number, counted from 1; 0 for number 0."""
    fine = FINE_UNTIL // FINE
    return step * FINE if step <= fine else FINE_UNTIL + (step - fine) * COARSE


def _largest(first: int, last: int, fits: Callable[[int], bool]) -> int:
    """Largest number from `first` to `last` that fits, assuming that all smaller ones do; 0 where none does."""
    if last < first or not fits(first):
        return 0
    if fits(last):
        return last
    below, above = last // 2, last
    # Halving from above finds a size that fits even where memory is not monotonic below it.
    while below > first and not fits(below):
        below, above = below // 2, below
    below = max(below, first)
    while above - below > 1:
        middle = (above + below) // 2
        if fits(middle):
            below = middle
        else:
            above = middle
    return below
