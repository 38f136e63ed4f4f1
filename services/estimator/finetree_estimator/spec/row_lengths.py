# SPDX-License-Identifier: Apache-2.0
"""Row lengths after truncation, from a dataset profile."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from finetree_api.types.v1 import training_data_pb2

from finetree_estimator.run import LengthRange, Rows


def rows_of(
    profile: training_data_pb2.DatasetProfile, *, sequence_length: int, learns_all: bool, share: float = 1.0
) -> Rows:
    """Compute the number of rows and their lengths in tokens, of a share of a dataset.

    Where the tokens are estimated, with the fewest and the most that there may be, all rows shorter or longer alike.
    """

    def rows(one: training_data_pb2.DatasetProfile) -> Rows:
        return _rows(one, sequence_length=sequence_length, learns_all=learns_all, share=share)

    counted = token_range(profile)
    if counted is None:
        return rows(profile)
    low, high = counted
    return replace(rows(profile), ends=(rows(_with_total(profile, low)), rows(_with_total(profile, high))))


def token_range(profile: training_data_pb2.DatasetProfile) -> tuple[int, int] | None:
    """The fewest and the most tokens that all rows may have; None where their number is taken as it is."""
    total, given = profile.total_tokens, profile.total_tokens_range
    if not (total and profile.HasField("total_tokens_range")):
        return None
    low, high = min(given.low, total), max(given.high, total)
    return (low, high) if low < high else None


def _with_total(profile: training_data_pb2.DatasetProfile, total: int) -> training_data_pb2.DatasetProfile:
    """A profile of another number of tokens, its buckets scaled."""
    factor = total / profile.total_tokens
    changed = training_data_pb2.DatasetProfile()
    changed.CopyFrom(profile)
    changed.total_tokens = total
    for bucket in changed.token_lengths:
        bucket.upper_bound = math.ceil(bucket.upper_bound * factor)
    return changed


def _rows(profile: training_data_pb2.DatasetProfile, *, sequence_length: int, learns_all: bool, share: float) -> Rows:
    """Number and lengths of rows with the profile's total of tokens.

    The rows of a bucket are assumed to lie in its middle; the total number of tokens, where given, corrects that.
    Without buckets all rows have the mean length, and without a total the sequence length.
    """
    examples, total_tokens = profile.examples, profile.total_tokens
    count = max(1, round(examples * share))
    # Where the share of target tokens is unknown, all tokens count as targets.
    target = profile.target_fraction if profile.HasField("target_fraction") and not learns_all else 1.0
    buckets = list(_buckets(profile))
    rows = sum(number for _, _, number in buckets)
    if rows == 0:
        mean = total_tokens / examples if total_tokens else float(sequence_length)
        truncated = max(0.0, 1 - sequence_length / mean)
        mean = min(max(mean, 1.0), float(sequence_length))
        # The longest row is unknown: memory is that of rows at the limit.
        return Rows(
            count=count,
            mean=mean,
            mean_square=mean * mean,
            longest=sequence_length,
            target_fraction=target,
            longest_known=False,
            mean_known=total_tokens > 0,
            truncated=truncated,
        )
    middle = sum(length * number for length, _, number in buckets) / rows
    scale = total_tokens / examples / middle if total_tokens else 1.0
    whole = [(min(length * scale, float(upper)), number) for length, upper, number in buckets]
    lengths = [(min(length, float(sequence_length)), number) for length, number in whole]
    before = sum(length * number for length, number in whole)
    longest = min(max(upper for _, upper, number in buckets if number), sequence_length)
    mean = sum(length * number for length, number in lengths) / rows
    square = sum(length * length * number for length, number in lengths) / rows
    return Rows(
        count=count,
        mean=max(mean, 1.0),
        mean_square=max(square, 1.0),
        longest=longest,
        target_fraction=target,
        truncated=max(0.0, 1 - mean * rows / before),
        length_ranges=tuple(_length_ranges(buckets, scale=scale, limit=sequence_length, rows=rows)),
    )


def _length_ranges(
    buckets: Iterable[tuple[float, int, int]], *, scale: float, limit: int, rows: int
) -> Iterator[LengthRange]:
    """Ranges of row lengths: each bucket spread symmetrically around its mean; rows beyond the limit are truncated."""
    lower, cut = 0, 0.0
    for middle, upper, number in buckets:
        shortest = min(float(upper), max(lower + 1.0, 2 * middle * scale - upper))
        lower = upper
        if not number:
            continue
        inside = 1.0 if upper <= limit else max(0.0, limit - shortest) / max(1.0, upper - shortest)
        if inside:
            yield LengthRange(shortest, float(min(upper, limit)), inside * number / rows)
        cut += (1 - inside) * number / rows
    if cut:
        yield LengthRange(float(limit), float(limit), cut)


def _buckets(profile: training_data_pb2.DatasetProfile) -> Iterator[tuple[float, int, int]]:
    """Middle, upper bound and number of rows of each bucket."""
    lower = 0
    for bucket in sorted(profile.token_lengths, key=lambda item: item.upper_bound):
        yield (lower + 1 + bucket.upper_bound) / 2, bucket.upper_bound, bucket.count
        lower = bucket.upper_bound
