# SPDX-License-Identifier: Apache-2.0
"""Intervals and sources as messages."""

from finetree_api.types.v1 import evidence_pb2
from finetree_estimator.intervals import Interval, Kind, Source
from finetree_estimator.messages.provenance import interval_message, optional_interval

SOURCE = Source(Kind.PUBLISHED, "a paper", "table 3", date="2026-07")


def test_an_interval_carries_its_numbers_and_sources():
    message = interval_message(Interval(0.0, 0.5, 1e15, sources=(SOURCE,), coverage=0.8))

    assert (message.low, message.expected, message.high, message.coverage) == (0.0, 0.5, 1e15, 0.8)
    assert list(message.provenance) == [
        evidence_pb2.Provenance(
            kind=evidence_pb2.PROVENANCE_KIND_PUBLISHED, source="a paper", locator="table 3", date="2026-07"
        )
    ]


def test_sources_are_cut_at_the_contracts_limits():
    many = tuple(Source(Kind.MEASURED, f"source {number} " + "y" * 300, "x" * 300) for number in range(40))
    message = interval_message(Interval(1.0, 2.0, 4.0, sources=many))

    assert len(message.provenance) == 32
    assert {(len(each.source), len(each.locator)) for each in message.provenance} == {(256, 256)}


def test_a_number_that_there_is_not_leaves_its_field_unset():
    assert optional_interval(None) is None
