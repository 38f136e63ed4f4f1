# SPDX-License-Identifier: Apache-2.0
"""Messages of intervals, sources and revisions."""

from collections.abc import Mapping

from finetree_api.types.v1 import evidence_pb2

from finetree_estimator.catalog.versions import Part
from finetree_estimator.intervals import Interval, Source

MAX_SOURCES = 32
"""Most sources of an interval, the contract's limit."""
MAX_TEXT = 256
"""Most characters of a source's name and of its locator, the contract's limit."""


def interval_message(interval: Interval) -> evidence_pb2.Interval:
    """Write an interval with its sources."""
    return evidence_pb2.Interval(
        low=interval.low,
        expected=interval.expected,
        high=interval.high,
        coverage=interval.coverage,
        provenance=map(provenance_message, interval.sources[:MAX_SOURCES]),
    )


def money_interval(interval: Interval | None, currency: str) -> evidence_pb2.MoneyInterval | None:
    """Write an interval of money; None leaves the field unset."""
    if interval is None:
        return None
    return evidence_pb2.MoneyInterval(amount=interval_message(interval), currency_code=currency)


def optional_interval(interval: Interval | None) -> evidence_pb2.Interval | None:
    """Write an interval; None leaves the field unset."""
    return interval_message(interval) if interval is not None else None


def provenance_message(source: Source) -> evidence_pb2.Provenance:
    """Write the source of a number."""
    return evidence_pb2.Provenance(
        kind=evidence_pb2.ProvenanceKind.Value(f"PROVENANCE_KIND_{source.kind.name}"),
        source=source.name[:MAX_TEXT],
        locator=source.locator[:MAX_TEXT],
        date=source.date,
    )


def revision_message(parts: Mapping[str, Part]) -> evidence_pb2.Revision:
    """Write the versions that an answer was computed with."""
    return evidence_pb2.Revision(**{name: component_message(part) for name, part in parts.items()})


def component_message(part: Part) -> evidence_pb2.RevisionComponent:
    """Write name, hash and date of one versioned part."""
    return evidence_pb2.RevisionComponent(id=part.part_id, sha256=part.sha256, date=part.date)
