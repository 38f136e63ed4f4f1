# SPDX-License-Identifier: Apache-2.0
"""Rows are divided by their tokens, in the same way on each rank."""

import random

from finetree_worker.ranks.sharing import shares


def test_shares_hold_everything_once_in_order_and_are_of_like_size() -> None:
    drawn = random.Random(0)
    for _ in range(200):
        sizes = [drawn.randrange(1, 400) for _ in range(drawn.randrange(40))]
        count = drawn.randrange(1, 9)
        found = shares(list(enumerate(sizes)), count, lambda item: item[1])
        assert len(found) == count
        assert sorted(item for share in found for item in share) == list(enumerate(sizes))
        assert all(share == sorted(share) for share in found)
        loads = [sum(size for _, size in share) for share in found]
        # The last item of the fullest share went to it when no other was smaller.
        assert max(loads) - min(loads) <= max(sizes, default=0)


def test_equal_rows_go_round_from_the_first_rank() -> None:
    assert shares("abcde", 2, lambda _: 1) == [["a", "c", "e"], ["b", "d"]]
    assert shares("a", 3, lambda _: 7) == [["a"], [], []]
