# SPDX-License-Identifier: Apache-2.0
"""The replay of torch's caching allocator, by the rules of c10/cuda/CUDACachingAllocator.cpp."""

import itertools
import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[3] / "benchmarks" / "estimator"))

from cuda_allocator import CachingAllocator, CardFullError, segment_bytes
from replay import Event, Replay, Trace

MIB = 1 << 20


@pytest.mark.parametrize(
    ("size", "segment"),
    [
        (512, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 512, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (11 * MIB, 12 * MIB),
    ],
)
def test_the_segment_that_a_request_makes(size, segment):
    assert segment_bytes(size) == segment
    allocator = CachingAllocator()
    allocator.malloc(size - 100)
    assert allocator.reserved == segment
    assert allocator.allocated % 512 == 0


def test_a_block_is_cut_where_more_than_a_mebibyte_is_left_and_grows_together_again():
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(32 * MIB))
    whole = allocator.malloc(31 * MIB)
    assert allocator.allocated == 32 * MIB  # a rest of 1 MiB is not cut off
    allocator.free(whole)
    first, second = allocator.malloc(16 * MIB), allocator.malloc(14 * MIB)
    assert allocator.reserved == 32 * MIB
    allocator.free(second)
    allocator.free(first)
    allocator.malloc(32 * MIB)
    assert allocator.reserved == 32 * MIB


def test_the_smallest_block_that_is_large_enough_is_taken():
    allocator = CachingAllocator()
    small, large = allocator.malloc(20 * MIB), allocator.malloc(60 * MIB)
    allocator.free(large)
    allocator.free(small)
    allocator.malloc(18 * MIB)
    allocator.malloc(60 * MIB)
    assert allocator.reserved == 80 * MIB


def test_a_larger_request_takes_a_new_segment_and_a_full_card_gives_unused_ones_back():
    allocator = CachingAllocator(card=100 * MIB)
    for size in (20, 30, 40):
        allocator.free(allocator.malloc(size * MIB))
    assert allocator.reserved == 90 * MIB
    pinned = allocator.malloc(10 * MIB)
    allocator.malloc(60 * MIB)
    assert (allocator.reserved, allocator.retries) == (80 * MIB, 1)  # the cut segment of 20 stays
    with pytest.raises(CardFullError, match="are left"):
        allocator.malloc(60 * MIB)
    allocator.free(pinned)
    allocator.empty_cache()
    assert allocator.reserved == 60 * MIB


def test_with_expandable_segments_the_unused_end_grows():
    allocator = CachingAllocator(expandable=True)
    for size in (20, 30, 40):
        allocator.free(allocator.malloc(size * MIB))
    assert allocator.reserved == 40 * MIB
    first = allocator.malloc(30 * MIB)
    second = allocator.malloc(30 * MIB)
    allocator.free(first)
    allocator.malloc(20 * MIB)
    assert allocator.reserved == 60 * MIB
    allocator.free(second)
    allocator.empty_cache()
    assert allocator.reserved < 40 * MIB


def test_no_two_blocks_overlap_and_nothing_is_lost():
    draws = random.Random(3)
    allocator, held = CachingAllocator(), []
    for _ in range(2000):
        if held and draws.random() < 0.5:
            allocator.free(held.pop(draws.randrange(len(held))))
        else:
            held.append(allocator.malloc(draws.choice((700, 300_000, 3 * MIB, 15 * MIB)) * draws.randint(1, 3)))
    spans = sorted((block.address, block.address + block.size) for block in held)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    assert allocator.allocated == sum(end - start for start, end in spans) <= allocator.reserved
    for block in held:
        allocator.free(block)
    allocator.empty_cache()
    assert (allocator.allocated, allocator.reserved) == (0, 0)


LOGITS = 4.0 * 32_000
"""Bytes per token of float32 logits."""
AT_LOSS = (
    Event(0, 0, LOGITS / 2, freed=False),
    Event(1, 0, LOGITS, freed=False),
    Event(2, 0, LOGITS, freed=False),
    Event(1, 0, 0, freed=True),
    Event(3, 0, LOGITS, freed=False),
    Event(4, 0, LOGITS, freed=False),
    *(Event(number, 0, 0, freed=True) for number in (0, 2, 3, 4)),
)


@pytest.mark.parametrize(
    ("lengths", "renewed"),
    [
        ((1000,) * 9, 1000),
        ((1000, 400, 700, 999), 1000),
        ((400, 700, 1000), 2100),
        ((700, 400, 1000, 999, 1300, 1299), 3000),
    ],
    ids=["equal", "longest first", "each longer", "three records"],
)
@pytest.mark.parametrize(("cache", "share"), [("kept", 1.0), ("emptied", None), ("expandable", None)])
def test_each_longest_row_so_far_takes_its_logits_anew(lengths, renewed, cache, share):
    allocator = CachingAllocator(expandable=cache == "expandable")
    trace = Trace(weights=(), trained=(), first=AT_LOSS, later=AT_LOSS)
    Replay(trace, allocator, empties=cache == "emptied").run(lengths)
    expected = 3 * LOGITS * (renewed if share else max(lengths))
    # The 16-bit logits of the first rows have no older block to go into.
    assert expected <= allocator.peak_reserved <= 1.25 * expected
