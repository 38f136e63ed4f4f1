# SPDX-License-Identifier: Apache-2.0
"""Days and calendar months, in UTC: when one began, what it is called, and when it ends."""

from datetime import UTC, datetime, timedelta


def day_of(now: int) -> str:
    """Name of the day of a time (microseconds since 1970), for example "2026-11-28"."""
    return f"{_moment(now):%Y-%m-%d}"


def month_of(now: int) -> str:
    """Name of the month, for example "2026-11"."""
    return f"{_moment(now):%Y-%m}"


def end_of_day(now: int) -> int:
    """The next midnight, microseconds since 1970."""
    return _micros(_moment(now).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1))


def end_of_month(now: int) -> int:
    """The first moment of the next month, microseconds since 1970."""
    first = _moment(now).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return _micros((first + timedelta(days=32)).replace(day=1))


def _moment(now: int) -> datetime:
    return datetime.fromtimestamp(now / 1e6, UTC)


def _micros(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000
