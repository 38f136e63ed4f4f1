# SPDX-License-Identifier: Apache-2.0
"""Places in the queue: texts of hexadecimal digits whose order as texts is the order of the jobs of one priority.

A job's first place is its uid, which grows with time. Between any two different places there is another one, so that a
job is moved by writing its own row alone.
"""

from finetree_runtime.ids import uuid7

from finetree_trainer.store.jobs import JobRow

Order = tuple[int, str, str]
"""What jobs of a project are sorted by."""
UNDECIDED = "f" * 32
"""Place, behind that of every uid, of a job that gets a new one when it is resumed."""


def place_of(row: JobRow) -> str:
    """Return a job's place."""
    return row.place or row.uid.replace("-", "")


def order(row: JobRow) -> Order:
    """Return what a queue is sorted by: jobs of a higher priority first, each in the order of their places."""
    return -row.priority, place_of(row), row.uid


def last() -> str:
    """Return a place behind all that were given before."""
    return uuid7().hex


def between(before: str, after: str) -> str:
    """Return a place behind `before`, or "" for the beginning, and before `after`; `before` must be the smaller one."""
    digits = max(len(before), len(after)) + 1
    low, high = (int(text.ljust(digits, "0"), 16) for text in (before or "0", after))
    return f"{(low + high) // 2:0{digits}x}".rstrip("0")
