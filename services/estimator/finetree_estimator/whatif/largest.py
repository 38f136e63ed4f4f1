# SPDX-License-Identifier: Apache-2.0
"""The largest micro-batch and the longest rows with which a run fits, everything else unchanged.

Memory grows with both, so the border is found by doubling and halving. It falls where a micro-batch becomes the whole
batch, since gradients of earlier ones wait no longer beside it: sizes from there on are searched first. (On a CPU it
also falls once as rows grow, where attention changes its kernel; what is found fits all the same, since it was tried.)
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from finetree_estimator.estimate import fit_of
from finetree_estimator.evidence.corrections import UNCORRECTED, Correction
from finetree_estimator.memory.fit import Verdict
from finetree_estimator.run import Rows, Run
from finetree_estimator.spec.parse import ParsedRequest
from finetree_estimator.spec.settings import training_rows

MOST_ROWS = 65_536
"""Rows of a micro-batch at most, as the contract limits them."""
MOST_BATCH = 1_048_576
"""Rows of an effective batch at most, as the contract limits them."""
MOST_TOKENS = 16_777_216
"""Tokens of a row at most, as the contract limits them."""
FINE, COARSE, FINE_UNTIL = 8, 64, 512
"""Row lengths are multiples of 8 up to 512 tokens and of 64 beyond."""


@dataclass(frozen=True, slots=True)
class Largest:
    """Sizes that fit; 0 where not even the smallest does."""

    micro_batch: int
    sequence_length: int


def search(parsed: ParsedRequest, correction: Correction = UNCORRECTED) -> Largest | None:
    """The largest sizes with which a run fits; None where the device's memory is unknown.

    A micro-batch is at most a device's share of the effective batch that the request names; where it names none, the
    effective batch rises with the micro-batch, up to the rows that there are.
    """
    if not parsed.run.device.usable_bytes:
        return None
    batch_is_open = not parsed.request.spec.training.HasField("effective_batch_size")
    longest = _steps(parsed.run.shape.max_positions or MOST_TOKENS)
    length = _largest(1, longest, lambda step: _fits(lengthened(parsed, _length(step)), correction))
    return Largest(_micro_batch(parsed.run, correction, batch_is_open=batch_is_open), _length(length))


def _micro_batch(run: Run, correction: Correction, *, batch_is_open: bool) -> int:
    """The largest micro-batch that fits; 0 when none does."""
    whole = min(MOST_ROWS, -(-run.batch // run.devices))
    rows = run.rows.count if run.rows is not None else MOST_ROWS
    most = max(whole, min(MOST_ROWS, min(rows, MOST_BATCH) // run.devices)) if batch_is_open else whole

    def fits(rows: int) -> bool:
        return _fits(replace(run, micro_batch=rows, batch=max(run.batch, rows * run.devices)), correction)

    return _largest(whole, most, fits) or _largest(1, whole - 1, fits)


def lengthened(parsed: ParsedRequest, length: int) -> Run:
    """The run with another sequence length: other rows are cut, of those that are held out too."""
    run, rows = parsed.run, training_rows(parsed.spec, parsed.profile, length)
    held = run.evaluation.rows
    plan = run.evaluation if held is None else replace(run.evaluation, rows=_cut(held, run.sequence_length, length))
    return replace(run, sequence_length=length, rows=rows, evaluation=plan)


def _cut(held: Rows, limit: int, length: int) -> Rows:
    """Held-out rows at another length. Where the longest was cut, nothing says how much longer it was: up to that."""
    longest = length if held.longest >= limit else min(held.longest, length)
    mean = min(held.mean, float(longest)) if held.mean_known else float(longest)
    square = min(held.mean_square, mean * longest) if held.mean_known else mean * mean
    return replace(held, longest=longest, mean=mean, mean_square=square)


def _fits(run: Run, correction: Correction) -> bool:
    return fit_of(run, correction)[1].verdict is Verdict.FITS


def _steps(length: int) -> int:
    """Number of row lengths, in ascending order, up to a length."""
    if length <= FINE_UNTIL:
        return length // FINE
    return FINE_UNTIL // FINE + (length - FINE_UNTIL) // COARSE


def _length(step: int) -> int:
    """The row length of this number, counted from 1; 0 of none."""
    fine = FINE_UNTIL // FINE
    return step * FINE if step <= fine else FINE_UNTIL + (step - fine) * COARSE


def _largest(first: int, last: int, fits: Callable[[int], bool]) -> int:
    """The largest of `first` to `last` that fits, taking it that all before it do; 0 when none does."""
    if last < first or not fits(first):
        return 0
    if fits(last):
        return last
    below, above = last // 2, last
    # By halves from above, so that a bump in what smaller sizes need hides nothing above it.
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
