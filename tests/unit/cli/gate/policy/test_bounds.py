# SPDX-License-Identifier: Apache-2.0
"""Bounds as people write them."""

import re

import pytest
from finetree_cli.gate.policy import bounds
from google.type import money_pb2

WRITTEN = [
    ("cost", "50 USD", money_pb2.Money(currency_code="USD", units=50)),
    ("monthly_cost", "0.5 EUR", money_pb2.Money(currency_code="EUR", nanos=500_000_000)),
    ("duration_seconds", "8h", 28800),
    ("duration_seconds", "1h30m", 5400),
    ("device_bytes", "24 GiB", 24 * 2**30),
    ("device_bytes", "24GB", 24e9),
    ("device_bytes", "1.5 TiB", 1.5 * 2**40),
    ("energy_kwh", "5", 5),
    ("energy_kwh", "5.5 kWh", 5.5),
    ("carbon_kg", "2 kg", 2),
    ("examples", "1e5", 100_000),
    ("tokens", "50000000", 50_000_000),
]
WRONG = [
    ("cost", "50"),
    ("cost", "-5 USD"),
    ("duration_seconds", "8"),
    ("duration_seconds", "soon"),
    ("device_bytes", "24"),
    ("device_bytes", "24 gigs"),
    ("energy_kwh", "5 kg"),
    ("carbon_kg", "-1"),
    ("examples", "1_000"),
    ("tokens", "1e999"),
]


@pytest.mark.parametrize(("metric", "text", "value"), WRITTEN)
def test_a_bound_has_its_unit_and_the_pattern_of_editors_agrees(metric, text, value):
    kind = bounds.KINDS[metric]
    assert kind.parse is not None
    assert kind.parse(text) == value
    assert re.search(kind.pattern, text)


@pytest.mark.parametrize(("metric", "text"), WRONG)
def test_what_is_no_bound_is_refused_with_what_is_expected(metric, text):
    kind = bounds.KINDS[metric]
    assert kind.parse is not None
    with pytest.raises(ValueError, match=re.escape(text)):
        kind.parse(text)
    assert "e999" in text or not re.search(kind.pattern, text)


def test_each_kind_reads_its_own_example():
    for kind in bounds.KINDS.values():
        if kind.parse is not None:
            kind.parse(kind.example)


def test_a_share_is_written_in_percent():
    assert bounds.percent("20%") == pytest.approx(0.2)
    for text in ("0.2", "20", "-1%"):
        with pytest.raises(ValueError, match="such as 20%"):
            bounds.percent(text)
