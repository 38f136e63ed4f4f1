# SPDX-License-Identifier: Apache-2.0
"""The ranks of a plan: one, or this process's part of several."""

from collections.abc import Iterator
from contextlib import contextmanager

from finetree_worker.plan import Sharding
from finetree_worker.ranks.membership import Membership
from finetree_worker.ranks.replicated import Replicated


@contextmanager
def join(member: Membership, sharding: Sharding) -> Iterator[Replicated]:
    """Form the process group, for as long as the context lasts. Raises RankError."""
    from finetree_worker.ranks.sharded import Sharded

    member.join()
    try:
        yield Sharded(member) if sharding is Sharding.FULL else Replicated(member)
    finally:
        member.leave()
