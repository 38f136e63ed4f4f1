# SPDX-License-Identifier: Apache-2.0
"""Histograms of row lengths of data sets of which a source publishes mean, deviation, shortest and longest row."""

import itertools
import math
from dataclasses import dataclass
from functools import cache

from finetree_api.types.v1 import training_data_pb2

BUCKETS = 24
"""Equally wide pieces up to the limit that a histogram has."""


@dataclass(frozen=True, slots=True)
class Published:
    """What is published of a data set; lengths in tokens.

    The lengths are taken as those of a gamma distribution that begins at the shortest row and has this mean and this
    deviation: nothing else of the shape is known.
    """

    rows: int
    mean: float
    deviation: float
    shortest: int
    longest: int

    def share(self, low: int, high: int) -> float:
        """Share of the rows that are longer than `low` and at most `high`."""
        return _within(self, low, high) / _within(self, 0, self.longest)

    def profile(self, limit: int, *, sampled: int = 0, cut: bool) -> training_data_pb2.DatasetProfile:
        """The rows that a run with this limit sees, of all or of `sampled` ones: longer ones are cut, or left out."""
        taken = sampled or self.rows
        borders = [limit * number // BUCKETS for number in range(BUCKETS + 1)]
        profile = training_data_pb2.DatasetProfile()
        for low, high in itertools.pairwise(borders):
            if number := round(taken * self.share(low, high)):
                profile.token_lengths.add(upper_bound=high, count=number)
        beyond = round(taken * self.share(limit, self.longest))
        if cut and beyond:
            profile.token_lengths.add(upper_bound=self.longest, count=beyond)
        profile.examples = sum(bucket.count for bucket in profile.token_lengths)
        return profile


@cache
def _within(data: Published, low: int, high: int) -> float:
    """The density's sum over lengths beyond `low` and up to `high`, without its constant."""
    spread = data.mean - data.shortest
    shape, scale = (spread / data.deviation) ** 2, data.deviation**2 / spread
    lengths = range(max(low + 1, data.shortest), min(high, data.longest) + 1)
    return math.fsum((x := (length - data.shortest + 0.5) / scale) ** (shape - 1) * math.exp(-x) for length in lengths)


FUDAN_NEWS = Published(rows=4959, mean=3234.4, deviation=2547.5, shortest=91, longest=19_548)
"""cls-fudan-news-zh by Qwen's tokenizer (ms-swift's Benchmark.md and its list of data sets)."""
