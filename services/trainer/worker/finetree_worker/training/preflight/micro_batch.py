# SPDX-License-Identifier: Apache-2.0
"""Preflight: run the largest micro-batch before the first step, so that a lack of memory shows at once."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from finetree_api.trainer.v1 import event_pb2
from finetree_api.types.v1 import check_pb2, evidence_pb2
from torch.optim import Optimizer

from finetree_worker.data.packing import Limit
from finetree_worker.device_memory import GIB, free_memory_bytes, is_out_of_memory, peak_memory_bytes
from finetree_worker.errors import MemoryExhaustedError
from finetree_worker.events.envelope import Reporter
from finetree_worker.tokenize.example import Example
from finetree_worker.training.gradients import Gradients, Subject


def check(gradients: Gradients, optimizer: Optimizer, longest_first: Sequence[Example], *, reporter: Reporter) -> None:
    """Run the largest micro-batch like a step in the middle of the run, and change no weights.

    `longest_first` are the rows of the run's largest batch, of several ranks the largest share of it. Where they do not
    fit together, the micro-batch is halved, as in the middle of a run. Raises MemoryExhaustedError
    OUT_OF_MEMORY_PREFLIGHT with the numbers when the longest row or the optimizer's state does not fit, or when several
    rows do not that ranks compute in lockstep: those halve it between two attempts, by the error's metadata. Every rank
    runs it, and each has a check of its own in the report.
    """
    subject, resumed = gradients.subject, bool(optimizer.state)
    rows = fullest(longest_first, gradients.limit, packing=gradients.packing)
    try:
        # From the second micro-batch on gradients are there beside the activations, from the second step on the state.
        _make_gradients(subject)
        if not resumed:
            _make_state(optimizer)
        if _is_whole(rows, longest_first):
            gradients.forget()
        rows = _fit(gradients, longest_first)
    except (MemoryExhaustedError, RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryExhaustedError) and not is_out_of_memory(error):
            raise
        _report(reporter, rows, gradients, fits=False)
        smaller = error.metadata if isinstance(error, MemoryExhaustedError) else {}
        raise _refused(rows, gradients, smaller) from error
    finally:
        gradients.forget()
        if not resumed:
            optimizer.state.clear()
    _report(reporter, rows, gradients, fits=True)


def _fit(gradients: Gradients, longest_first: Sequence[Example]) -> list[Example]:
    """Run the largest micro-batch, a smaller one where it does not fit; return the rows that did."""
    while True:
        limit = gradients.limit
        rows = fullest(longest_first, limit, packing=gradients.packing)
        # Rows that share nothing need the most memory for their tokens.
        with gradients.each_alone():
            gradients.add(-1, rows, everywhere=True)
        if gradients.limit == limit:
            return rows


def fullest(longest_first: Sequence[Example], limit: Limit, *, packing: bool) -> list[Example]:
    """Return the fullest micro-batch of a batch: its longest rows, with packing up to the last token of the limit.

    Shorter rows may fill a packed micro-batch better than the longest ones do, so the last row is cut to what is left.
    """
    if not packing:
        return list(longest_first[: limit.rows])
    found, room = [longest_first[0]], limit.tokens - len(longest_first[0])
    for example in longest_first[1:]:
        if room <= 0:
            break
        found.append(replace(example, tokens=example.tokens[:room], is_target=example.is_target[:room]))
        room -= len(found[-1])
    return found


def _is_whole(rows: Sequence[Example], batch: Sequence[Example]) -> bool:
    """Return whether a micro-batch is the whole batch: no gradients of an earlier one are in memory beside it then."""
    return sum(map(len, rows)) == sum(map(len, batch))


def _make_gradients(subject: Subject) -> None:
    """Give every trained weight a gradient of zeros, whose memory is in use at once, not when it is first added to."""
    for parameter in subject.trainable.values():
        parameter.grad = torch.zeros_like(parameter)


def _make_state(optimizer: Optimizer) -> None:
    """Make the optimizer allocate its state: with gradients of zeros and a rate of zero no weight changes."""
    if getattr(optimizer, "is_paged", False):
        return  # it leaves the GPU's memory when there is too little
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _report(reporter: Reporter, rows: Sequence[Example], gradients: Gradients, *, fits: bool) -> None:
    device, ranks, tokens = gradients.subject.device, gradients.ranks, sum(map(len, rows))
    peak, free = peak_memory_bytes(device), free_memory_bytes(device)
    # Where one rank's memory ran out, the others may be on their way out already.
    found = ranks.gathered((peak, free)) if fits else [(peak, free)]
    checks = [
        _check(rows, where, amounts, fits=fits)
        for where, amounts in zip(map(ranks.name_of, range(len(found))) if fits else [ranks.named], found, strict=True)
    ]
    reporter.emit(
        event_pb2.PreflightReport(
            checks=checks,
            rows=len(rows),
            tokens=tokens,
            peak_memory_bytes=max(peak for peak, _ in found),
            free_memory_bytes=min(free for _, free in found),
        )
    )


def _check(rows: Sequence[Example], where: str, amounts: tuple[int, int], *, fits: bool) -> check_pb2.Check:
    """Return the check of one rank, whose amounts are the peak and what was free after it, bytes."""
    peak, free = amounts
    source = evidence_pb2.Provenance(kind=evidence_pb2.PROVENANCE_KIND_MEASURED, source="this run", locator="preflight")
    verdict = "fits" if fits else "does not fit"
    total = sum(map(len, rows))
    size = f"{len(rows)} rows of {total} tokens in all" if len(rows) > 1 else f"one row of {total} tokens"
    return check_pb2.Check(
        rule_id="memory.largest_micro_batch",
        severity=check_pb2.SEVERITY_ERROR,
        verdict=check_pb2.CHECK_VERDICT_PASS if fits else check_pb2.CHECK_VERDICT_FAIL,
        measured=evidence_pb2.Interval(low=peak, expected=peak, high=peak, provenance=[source]),
        limit=peak + free,
        unit=check_pb2.CHECK_UNIT_BYTES,
        field_path="training.micro_batch_size",
        message=f"the largest micro-batch{where}, {size}, {verdict}: peak {peak / GIB:.2f} GiB, "
        f"{free / GIB:.2f} GiB free",
    )


def _refused(rows: Sequence[Example], gradients: Gradients, smaller: Mapping[str, str]) -> MemoryExhaustedError:
    device = gradients.subject.device
    peak, free = (amount / GIB for amount in (peak_memory_bytes(device), free_memory_bytes(device)))
    longest = max(map(len, rows))
    # Ranks in lockstep cannot try a smaller one: whoever leaves a pass leaves the others waiting in it.
    several = bool(smaller)
    what = f"{len(rows)} rows of {sum(map(len, rows))} tokens do not fit"
    one = f"Not even one row of {longest} tokens fits"
    lower = f"micro_batch_size below {len(rows)}" if several else f"sequence_length below {longest}"
    return MemoryExhaustedError(
        "OUT_OF_MEMORY_PREFLIGHT",
        f"{what if several else one} in this device's memory{gradients.ranks.named}: at most {peak:.2f} GiB were in "
        f"use before it ran out, and {free:.2f} GiB are free without {'those rows' if several else 'that row'}.",
        field="training.micro_batch_size" if several else "training.sequence_length",
        remedy=f"Lower {lower}, {gradients.advice}.",
        metadata=smaller,
    )
