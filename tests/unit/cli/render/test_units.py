# SPDX-License-Identifier: Apache-2.0
"""Numbers with their units."""

import pytest
from finetree_api.trainer.v1 import job_pb2
from finetree_cli.render import units
from google.type import money_pb2


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (units.size(500), "500 B"),
        (units.size(270 * 2**20), "270 MiB"),
        (units.size(1.5 * 2**30), "1.50 GiB"),
        (units.duration(0.84), "0.8 s"),
        (units.duration(9.97), "10 s"),
        (units.duration(59.6), "1 min 0 s"),
        (units.duration(125), "2 min 5 s"),
        (units.duration(12_000), "3 h 20 min"),
        (units.duration(187_200), "2 d 4 h"),
        (units.amount_of(0.00214, "USD"), "$0.0021"),
        (units.money(money_pb2.Money(currency_code="EUR", units=12, nanos=400_000_000)), "€12.40"),
        (units.amount_of(0.4, "USD"), "$0.40"),
        (units.amount_of(0, "CHF"), "CHF 0.00"),
        (units.count(134_515_008), "135 M"),
        (units.count(812), "812"),
        (units.count(9999), "9999"),
        (units.count(12_345), "12.3 k"),
        (units.count(999_885_952), "1 B"),
        (units.rate(2.14e12), "2.1 TFLOP/s"),
        (units.rate(7.8e11), "780 GFLOP/s"),
        (units.word(job_pb2.JobState, job_pb2.JOB_STATE_QUEUED), "queued"),
        (units.word(job_pb2.JobState, 99), "unknown (99)"),
    ],
)
def test_units(found, expected):
    assert found == expected
