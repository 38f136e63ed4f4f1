# SPDX-License-Identifier: Apache-2.0
"""Whether a job is tried again after an attempt that failed, and when: by its retry policy."""

from finetree_api.trainer.v1 import job_pb2
from sqlalchemy import Connection

from finetree_trainer.store import attempts, jobs

RANK_LOST = "RANK_LOST"
"""Reason of a failure in which a process of a run over several devices was lost: the worker itself reports it."""
FACTOR, MOST_SECONDS = 2.0, 3600
"""Growth of the pauses, and the longest one, where a policy says neither: as retries of calls usually have them."""


def resolve(policy: job_pb2.RetryPolicy, *, max_attempts: int) -> job_pb2.RetryPolicy:
    """Return a policy with every default filled in."""
    resolved = job_pb2.RetryPolicy(max_attempts=max_attempts, backoff_factor=FACTOR)
    resolved.max_backoff.FromSeconds(MOST_SECONDS)
    resolved.MergeFrom(policy)
    if not resolved.categories:
        resolved.categories.append(job_pb2.FAILURE_CATEGORY_SYSTEM)
    return resolved


def policy_of(connection: Connection, uid: str) -> job_pb2.RetryPolicy | None:
    """Return the policy of a job; None for one without."""
    row = jobs.load(connection, uid)
    record = job_pb2.Job.FromString(row.record) if row is not None else job_pb2.Job()
    return record.retry_policy if record.HasField("retry_policy") else None


def failures(connection: Connection, uid: str) -> int:
    """Return how many attempts of a job have failed: by their own report, or since the worker was lost."""
    causes = attempts.SYSTEM, attempts.FAILED
    return sum(attempts.count_by_cause(connection, uid, cause) for cause in causes)


def allowed(policy: job_pb2.RetryPolicy, category: int, failed: int) -> bool:
    """Return whether another attempt follows the `failed`-th one that failed, whose failure is of a category."""
    return category in policy.categories and failed < policy.max_attempts


def next_time(policy: job_pb2.RetryPolicy, failed: int, now: int) -> int:
    """Return when the attempt after the `failed`-th failure begins at the earliest, microseconds; 0: at once."""
    first, most = policy.initial_backoff.ToMicroseconds(), policy.max_backoff.ToMicroseconds()
    if not first:
        return 0
    # The exponent is bounded, for the factor's powers are not.
    return now + int(min(float(most), first * policy.backoff_factor ** min(failed - 1, 64)))
