# SPDX-License-Identifier: Apache-2.0
"""Division of a step's rows among ranks, the same on each of them."""

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def shares(items: Sequence[Item], count: int, size: Callable[[Item], int]) -> list[list[Item]]:
    """Divide items into `count` shares of like size: the largest first, each to the share that is smallest so far.

    The largest share exceeds the best possible one by at most a third (Graham 1969, "Bounds on multiprocessing timing
    anomalies"). Items of a share keep their order; what is equal goes to the lower rank.
    """
    filled, chosen = [0] * count, [[] for _ in range(count)]  # type: list[int], list[list[int]]
    for place in sorted(range(len(items)), key=lambda i: (-size(items[i]), i)):
        rank = min(range(count), key=lambda r: (filled[r], r))
        filled[rank] += size(items[place])
        chosen[rank].append(place)
    return [[items[place] for place in sorted(places)] for places in chosen]
