# SPDX-License-Identifier: Apache-2.0
"""Ends of days and months, in UTC."""

from datetime import UTC, datetime

import pytest
from finetree_trainer.limits.periods import day_of, end_of_day, end_of_month, month_of


def micros(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1e6)


@pytest.mark.parametrize(
    ("now", "day", "month"),
    [
        ("2026-11-28T20:04:05.5", "2026-11-29T00:00", "2026-12-01T00:00"),
        ("2026-12-31T23:59:59.999999", "2027-01-01T00:00", "2027-01-01T00:00"),
        ("2028-02-29T00:00:00", "2028-03-01T00:00", "2028-03-01T00:00"),
        ("2026-01-31T12:00:00", "2026-02-01T00:00", "2026-02-01T00:00"),
    ],
)
def test_a_period_ends_where_the_next_begins(now, day, month):
    assert end_of_day(micros(now)) == micros(day)
    assert end_of_month(micros(now)) == micros(month)
    assert (day_of(micros(now)), month_of(micros(now))) == (now[:10], now[:7])
    assert month_of(end_of_month(micros(now))) != month_of(micros(now))
