# SPDX-License-Identifier: Apache-2.0
"""How the rows of a batch are told apart, and how many are answered abreast."""

from collections.abc import Iterable, Iterator, Sequence

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_runtime.errors import invalid_field

ROWS_AT_A_TIME = 32
"""Rows of a batch that are answered abreast, before other calls get their turn (a row takes some 0.2 ms,
one in the FULL view some 8 ms)."""


def abreast(rows: Sequence[pb.BatchEstimateRow]) -> Iterator[tuple[int, int]]:
    """Begin and end of the rows that are answered together: ROWS_AT_A_TIME, or a single one in the FULL view."""
    first, taken = 0, 0
    for number, row in enumerate(rows):
        weight = ROWS_AT_A_TIME if row.request.view == pb.ESTIMATE_VIEW_FULL else 1
        if taken and taken + weight > ROWS_AT_A_TIME:
            yield first, number
            first, taken = number, 0
        taken += weight
    if taken:
        yield first, len(rows)


def check_keys(keys: Iterable[str]) -> None:
    """Refuse a batch of which two rows have one key. Raises InvalidArgument."""
    seen: set[str] = set()
    for number, key in enumerate(keys):
        if key in seen:
            raise invalid_field(f"rows[{number}].key", f"{key!r} is the key of an earlier row; keys must differ")
        seen.add(key)
