# SPDX-License-Identifier: Apache-2.0
"""The limits that there are, and which one holds for whom.

A limit that nothing states does not exist; 0 allows nothing. What a project or principal has of its own goes before
the default of its kind, limit by limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

from finetree_runtime.errors import ResourceExhausted

QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
PROJECTS, PRINCIPALS = "projects", "principals"
"""Kinds of subjects."""

WORDS: Mapping[str, str] = {
    "requests_per_second": "requests a second",
    "burst": "requests at once",
    "watchers": "open watches",
    "uploads": "open uploads",
    "upload_bytes_per_day": "uploaded bytes of this day (UTC)",
    "generations": "open Generate streams",
    "running_jobs": "running jobs",
    "devices": "devices at once",
    "queued_jobs": "queued jobs",
    "dataset_bytes": "bytes of datasets",
    "monthly_cost": "cost of this month (UTC)",
}
"""Every limit by its name in the file, and what it counts, for people."""
UNPRICED = "unpriced_trainings"
"""Whether a training without a price in the currency of `monthly_cost` is refused ("refuse", as a rule) or allowed."""
WEIGHT = "weight"
"""What part of the devices is a project's where several wait for them, against the weights of the others."""
OF_PROJECTS = (UNPRICED, WEIGHT)
"""What the file says of projects alone, and which limits nothing by itself."""


class Budget(NamedTuple):
    """An amount of money."""

    amount: Decimal
    currency: str

    def __str__(self) -> str:
        return f"{self.amount:.2f} {self.currency}"


class Caller(NamedTuple):
    """Who asks, and for which project: the two subjects of a limit."""

    principal: str
    project: str

    @property
    def subjects(self) -> tuple[str, str]:
        """Names of the two, "projects/…" and "principals/…"."""
        return f"{PROJECTS}/{self.project}", f"{PRINCIPALS}/{self.principal}"


@dataclass(frozen=True, slots=True)
class LimitTable:
    """Limits by name: `defaults` by kind of subject, `own` by subject."""

    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def limits_any(self, limit: str, kind: str) -> bool:
        """Return whether a subject of a kind has this limit."""
        return limit in self.defaults.get(kind, {}) or any(
            limit in limits for subject, limits in self.own.items() if subject.startswith(f"{kind}/")
        )

    def value(self, limit: str, subject: str) -> Any:
        """Return a limit of a subject ("projects/…" or "principals/…"); None where it has none."""
        own = self.own.get(subject, {})
        return own[limit] if limit in own else self.defaults.get(subject.partition("/")[0], {}).get(limit)


def exceeded(
    limit: str,
    subject: str,
    value: object,
    used: object,
    *,
    todo: str,
    reason: str = QUOTA_EXCEEDED,
    retry_delay: float | None = None,
) -> ResourceExhausted:
    """Build the error for what goes beyond a limit. `retry_delay`: seconds until more is allowed, if time helps."""
    text = f"{subject} has {used} of {value} {WORDS[limit]}: {todo}."
    metadata = {"limit": limit, "subject": subject, "value": str(value), "used": str(used)}
    return ResourceExhausted(reason, text, metadata=metadata, retry_delay=retry_delay)
