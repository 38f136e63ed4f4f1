# SPDX-License-Identifier: Apache-2.0
"""What rows lose where they are truncated."""

from dataclasses import dataclass

from finetree_api.types.v1 import training_data_pb2

_LEAST = 0.01
"""Share below which it is not worth a number."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What truncation at a length loses."""

    share: float
    """Share of all tokens, 0 to 1."""
    rows: int
    """Rows that lose their end, at most; 0 where it is unknown which do."""

    @property
    def words(self) -> str:
        """Share of the tokens in words; at most that, where the lengths are known, else at least."""
        if self.share < _LEAST:
            return "less than 1 percent"
        return f"{'up to' if self.rows else 'at least'} {100 * self.share:.0f} percent"


def loss_at(profile: training_data_pb2.DatasetProfile | None, length: int) -> Loss | None:
    """Find what rows lose at a length in tokens; None where that is unknown.

    A row counts as long as the upper bound of its bucket. Where only the average length is known, rows lose at least
    what the average exceeds the length by.
    """
    if profile is None or not length:
        return None
    buckets = profile.token_lengths
    total = sum(bucket.count * bucket.upper_bound for bucket in buckets)
    if total:
        lost = sum(bucket.count * max(0, bucket.upper_bound - length) for bucket in buckets)
        return Loss(lost / total, sum(bucket.count for bucket in buckets if bucket.upper_bound > length))
    mean = profile.total_tokens / profile.examples
    return Loss(1 - length / mean, 0) if mean > length else None
