# SPDX-License-Identifier: Apache-2.0
"""torch's caching allocator of one GPU and stream, played with sizes alone: what a series of requests reserves.

The rules are those of c10/cuda/CUDACachingAllocator.cpp (torch 2.1 to 2.13) with its default settings, or with
`expandable_segments:True`. Requests are rounded to 512 bytes. Up to 1 MiB come from a pool of 2 MiB segments, larger
ones from another: up to 10 MiB out of segments of 20 MiB, beyond out of a segment of their own in whole 2 MiB. The
smallest cached block that is large enough is taken and cut where more than 1 MiB (large) or 512 bytes (small) would be
left; neighbors of one segment grow together again when they are freed. Only when the card is full are segments that
lie wholly unused given back, all of them.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass

BLOCK = 512
"""Bytes that every request is rounded to (kMinBlockSize)."""
SMALL = 1 << 20
"""Largest request of the small pool, and the largest remainder that the large pool leaves uncut (kSmallSize)."""
SMALL_SEGMENT = 2 << 20
"""Segment of the small pool (kSmallBuffer)."""
SHARED_UNDER = 10 << 20
"""Requests below it share segments of LARGE_SEGMENT (kMinLargeAlloc)."""
LARGE_SEGMENT = 20 << 20
"""Segment that requests of 1 to 10 MiB are cut from (kLargeBuffer)."""
LARGE_STEP = 2 << 20
"""What the segments of larger requests are whole multiples of (kRoundLarge)."""


class CardFullError(Exception):
    """A request that does not fit even after everything unused was given back."""


@dataclass(slots=True, eq=False)
class Block:
    """A piece of a segment. Sizes and addresses in bytes; `before` and `after` are its neighbors in the segment."""

    size: int
    address: int
    pool: "_Pool"
    free: bool = False
    before: "Block | None" = None
    after: "Block | None" = None

    @property
    def whole(self) -> bool:
        """Whether it is a whole segment."""
        return self.before is None and self.after is None


class _Pool:
    """Free blocks, smallest first, those of one size by address."""

    def __init__(self, *, small: bool) -> None:
        self.small = small
        self.blocks: list[tuple[int, int, Block]] = []
        self.last: Block | None = None
        """The end of the one segment that grows, with expandable segments."""

    def put(self, block: Block) -> None:
        block.free = True
        insort(self.blocks, (block.size, block.address, block))

    def remove(self, block: Block) -> None:
        block.free = False
        del self.blocks[bisect_left(self.blocks, (block.size, block.address))]

    def smallest(self, size: int) -> Block | None:
        index = bisect_left(self.blocks, (size, -1))
        if index < len(self.blocks) and self.blocks[index][2] is self.last:
            # It can grow, so that for the best fit it counts as the largest.
            index = index + 1 if index + 1 < len(self.blocks) else index
        return self.blocks[index][2] if index < len(self.blocks) else None


class CachingAllocator:
    """Counts what is allocated and reserved, in bytes.

    `card` is what can be reserved; None is without limit, and the only choice with `expandable` segments.
    """

    def __init__(self, card: int | None = None, *, expandable: bool = False) -> None:
        if expandable and card is not None:
            raise ValueError("expandable segments are played without a limit: leave out card")
        self.allocated = self.reserved = self.peak_allocated = self.peak_reserved = self.retries = 0
        self._card = card
        self._expandable = expandable
        self._pools = _Pool(small=True), _Pool(small=False)
        self._address = 0

    def malloc(self, size: int) -> Block:
        """A block of at least so many bytes. Raises CardFullError."""
        rounded = max(BLOCK, -(-size // BLOCK) * BLOCK)
        pool = self._pools[rounded > SMALL]
        block = pool.smallest(rounded)
        if block is not None:
            pool.remove(block)
        else:
            block = self._grown(pool, rounded) if self._expandable else self._segment(pool, rounded)
        self._cut(block, rounded)
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def free(self, block: Block) -> None:
        """Give a block back to its pool, grown together with free neighbors."""
        self.allocated -= block.size
        before, after = block.before, block.after
        if before is not None and before.free:
            block.pool.remove(before)
            block.size += before.size
            block.address = before.address
            _join(before.before, block)
        if after is not None and after.free:
            block.pool.remove(after)
            block.size += after.size
            if block.pool.last is after:
                block.pool.last = block
            _join(block, after.after)
        block.pool.put(block)

    def empty_cache(self) -> None:
        """Give back every segment that lies wholly unused, or the unused end of one that grows."""
        for pool in self._pools:
            for _, _, block in list(pool.blocks):
                if block.whole or block is pool.last:
                    pool.remove(block)
                    self.reserved -= block.size
                    if block.before is not None:
                        block.before.after = None
                    if block is pool.last:
                        pool.last = block.before

    def _segment(self, pool: _Pool, size: int) -> Block:
        """A new segment."""
        return self._reserved(pool, segment_bytes(size))

    def _grown(self, pool: _Pool, size: int) -> Block:
        """The pool's one segment, made longer by what the request lacks, in whole pages of 2 or 20 MiB."""
        page = SMALL_SEGMENT if pool.small else LARGE_SEGMENT
        last = pool.last
        there = last.size if last is not None and last.free else 0
        more = self._reserved(pool, -(-(size - there) // page) * page)
        if last is not None and last.free:
            pool.remove(last)
            more.size += last.size
            more.address = last.address
            _join(last.before, more)
        elif last is not None:
            _join(last, more)
        pool.last = more
        return more

    def _reserved(self, pool: _Pool, size: int) -> Block:
        """So many bytes more of the card; where it is full, unused segments are given back first."""
        if self._card is not None and self.reserved + size > self._card:
            self.retries += 1
            self.empty_cache()
            if self.reserved + size > self._card:
                raise CardFullError(f"{size} bytes are asked for and {self._card - self.reserved} are left")
        self.reserved += size
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        block = Block(size, self._address, pool)
        self._address += size
        return block

    def _cut(self, block: Block, size: int) -> None:
        """Take the first bytes of a block; the rest is free where it is large enough to be cut off."""
        rest = block.size - size
        fine = block.pool.small or self._expandable
        if rest < BLOCK if fine else rest <= SMALL:
            return
        remaining = Block(rest, block.address + size, block.pool)
        _join(remaining, block.after)
        _join(block, remaining)
        block.size = size
        if block.pool.last is block:
            block.pool.last = remaining
        block.pool.put(remaining)


def segment_bytes(size: int) -> int:
    """Bytes of the segment that is made for a request, which is rounded already."""
    if size <= SMALL:
        return SMALL_SEGMENT
    if size < SHARED_UNDER:
        return LARGE_SEGMENT
    return -(-size // LARGE_STEP) * LARGE_STEP


def _join(before: Block | None, after: Block | None) -> None:
    """Make two blocks neighbors."""
    if before is not None:
        before.after = after
    if after is not None:
        after.before = before
