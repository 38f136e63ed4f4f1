# SPDX-License-Identifier: Apache-2.0
"""What the CUDA allocator keeps of memory that no later request can use, where rows have many lengths.

Blocks of more than 10 MiB are segments of their own, and a block never serves a request that is larger than itself.
Each micro-batch that is longer than all before it therefore takes its large blocks anew, beside those of the shorter
ones, until the device is full; then everything unused is given back. How often that happens is a matter of records in
a random order: what counts is the expected sum of all lengths that are longer than those before. What of a step is
taken anew was found by a replay of the allocator with traced steps (benchmarks/estimator/fragmentation.py).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from finetree_estimator import constants as c
from finetree_estimator.intervals import Interval, around, together
from finetree_estimator.memory.activations import layer_activations
from finetree_estimator.memory.model_states import model_states
from finetree_estimator.memory.peak import Component, Memory
from finetree_estimator.memory.step_peak import Moment, fullest_moment, loss_moment
from finetree_estimator.run import LengthRange, Rows, Run

_EULER = 0.5615
"""exp(-0.5772): the n-th harmonic number is about log(n / _EULER)."""


def left_over(run: Run) -> Interval | None:
    """Bytes that are reserved beyond what rows of one length reserve, were the device without limit.

    None where there are none: one length, packed rows, a CPU, an allocator whose segments grow.
    """
    rows = run.rows
    if rows is None or not rows.length_ranges or run.packing or run.on_cpu or run.program.cache == "expandable":
        return None
    states, layer = model_states(run), layer_activations(run)
    at_loss = loss_moment(run, states, layer)
    spare = fullest_moment(run, states, layer).total - at_loss.total
    trained = states.optimizer_states + states.gradients
    logits = _of_logits(run, rows, at_loss, spare=spare, trained=trained)
    expected = c.DRAW * max(logits, _of_activations(run, rows, at_loss))
    if expected < 1:
        return None
    below, above = c.DRAW_SPREAD
    return around(expected, below=below, above=above, sources=(c.ALLOCATOR_REPLAY,))


def with_left_over(peaks: Memory, more: Interval, usable_bytes: int) -> Memory:
    """Peaks that hold what is left over as well, as far as the device has room (0: unknown, without limit)."""
    room = max(0.0, usable_bytes - peaks.device.expected) if usable_bytes else more.expected
    added = Interval(min(more.low, room), min(more.expected, room), more.high, sources=more.sources)
    components = tuple(
        (kind, _plus(size, added) if kind is Component.FRAGMENTATION else size) for kind, size in peaks.components
    )
    full = float(usable_bytes) if usable_bytes else math.inf
    most = max(peaks.device.high, full)
    outside = peaks.device.expected - peaks.reserved.expected
    reserved = _peak_plus(peaks.reserved, more, full=full - outside, most=most - outside)
    device = _peak_plus(peaks.device, more, full=full, most=most)
    return replace(peaks, components=components, reserved=reserved, device=device)


def _plus(one: Interval, other: Interval) -> Interval:
    sources = together(one.sources, other.sources)
    return Interval(one.low + other.low, one.expected + other.expected, one.high + other.high, sources=sources)


def _peak_plus(peak: Interval, more: Interval, *, full: float, most: float) -> Interval:
    """A peak with what is left over beside it: the lower ends up to `full` bytes, each as far as it has room itself.

    A low end that took the expected one's room would fall as the run grows, since the distance between them does.
    """
    low, expected = (
        max(own, min(own + left, full)) for own, left in ((peak.low, more.low), (peak.expected, more.expected))
    )
    high = max(expected, min(peak.high + more.high, c.WIDEST * expected, most))
    return Interval(low, expected, high, sources=together(peak.sources, more.sources))


def _of_logits(run: Run, rows: Rows, moment: Moment, *, spare: float, trained: float) -> float:
    """Bytes of blocks that the loss leaves over: its float32 tensors are the largest.

    `spare` is what other moments reserve beyond it. Optimizer states and gradients, `trained` bytes of them, come into
    what the first step's rows leave over.
    """
    if not run.whole_logits:
        # Chunks have one size.
        return 0.0
    per_logit = c.RENEWED_LOGITS_BYTES[4 if run.activation_bytes == 4 else 2]
    renewed = c.RENEWED_LOGITS * min(moment.transient, per_logit * run.shape.vocab * run.peak_tokens)
    widest = 4.0 * run.shape.vocab
    first = renewed * (_renewed(run, rows, widest, count=_in_step(run)) - 1)
    again = _renewed(run, rows, widest, count=_micro_batches(run)) - 1
    return max(0.0, renewed * again - spare - min(trained, first))


def _of_activations(run: Run, rows: Rows, moment: Moment) -> float:
    """Bytes of blocks that activations leave over: many of few sizes, which serve one another for a while."""
    widest = float(run.stream_bytes * run.shape.widest_mlp)
    if run.checkpointing or widest * run.peak_tokens < c.OWN_SEGMENT:
        return 0.0
    return c.RENEWED_ACTIVATIONS * math.log(_renewed(run, rows, widest, count=_micro_batches(run))) * moment.activations


def _renewed(run: Run, rows: Rows, widest: float, *, count: int) -> float:
    """The sum of record lengths where the largest blocks have so many bytes per token: only larger segments count."""
    return record_sum(
        rows.length_ranges,
        micro_batch=run.rows_at_once,
        count=count,
        step=c.SEGMENT_STEP / (widest * run.rows_at_once),
    )


def _in_step(run: Run) -> int:
    """Micro-batches of a device in an optimizer step."""
    return -(-run.batch // (run.micro_batch * run.devices))


def _micro_batches(run: Run) -> int:
    """Micro-batches of a device between two times that the cache is given back."""
    return _in_step(run) if run.program.cache == "emptied" else _in_step(run) * max(1, run.steps)


def record_sum(ranges: Sequence[LengthRange], *, micro_batch: int, count: int, step: float) -> float:
    """Expected sum of all lengths that are longer than those before, in units of the longest; at least 1.

    Of `count` micro-batches in random order, each as long as the longest of its `micro_batch` rows; lengths within
    `step` tokens count as one. A length x is a record at a rate of f(x) / (1 - F(x)), cut off where so many
    micro-batches, or so many different lengths, have no further one.
    """
    total, below = 0.0, 0.0
    for shortest, longest, share in ranges:
        upto = min(1.0, below + share)
        start, end = 1 - below**micro_batch, 1 - upto**micro_batch
        below = upto
        if start <= end:
            continue
        width = longest - shortest
        if width < step:
            total += longest * (start - end) / start * (1 - (1 - start) ** count)
            continue
        least = _EULER * ((start - end) * step / width + 1 / count)
        begin = shortest + width * (start + least) / (start - end)
        total += begin * math.log((start + least) / (end + least)) - width
    return max(1.0, total / ranges[-1].longest)
