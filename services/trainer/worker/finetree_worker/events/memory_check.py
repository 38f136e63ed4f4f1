# SPDX-License-Identifier: Apache-2.0
"""What the preflight measured, in the shape that every check of a plan has."""

from finetree_api.types.v1 import check_pb2, evidence_pb2

from finetree_worker.events.types import PreflightReport


def memory_check(event: PreflightReport) -> check_pb2.Check:
    """The largest micro-batch as a check of the run's memory: measured is the peak, the limit what there is with it."""
    peak, free = event.peak_memory_bytes, event.free_memory_bytes
    fits, what = "fits", f"the largest micro-batch, {event.rows} rows of {event.tokens} tokens in all,"
    verdict = check_pb2.CHECK_VERDICT_PASS
    if not event.fits:
        fits, verdict = "does not fit", check_pb2.CHECK_VERDICT_FAIL
    source = evidence_pb2.Provenance(kind=evidence_pb2.PROVENANCE_KIND_MEASURED, source="this run", locator="preflight")
    return check_pb2.Check(
        rule_id="memory.largest_micro_batch",
        severity=check_pb2.SEVERITY_ERROR,
        verdict=verdict,
        measured=evidence_pb2.Interval(low=peak, expected=peak, high=peak, provenance=[source]),
        limit=peak + free,
        field_path="training.micro_batch_size",
        help=f"{what} {fits}: peak {peak / 1e9:.2f} GB, {free / 1e9:.2f} GB free",
    )
