# SPDX-License-Identifier: Apache-2.0
"""Rank 0: the worker process itself, which starts the others and speaks for all of them."""

from collections.abc import Iterator
from contextlib import contextmanager

from finetree_api.worker.v1 import worker_pb2

from finetree_worker.errors import RankError, TaskError
from finetree_worker.events.envelope import Reporter
from finetree_worker.plan import Plan
from finetree_worker.ranks.alone import Alone
from finetree_worker.ranks.halving import halves_next
from finetree_worker.ranks.join import join
from finetree_worker.ranks.launch import Crew, RankFailedError
from finetree_worker.ranks.membership import Membership

_BACKENDS = ("gloo", "nccl")


@contextmanager
def ranks_of(task: worker_pb2.Task, plan: Plan, reporter: Reporter) -> Iterator[Alone]:
    """Provide the ranks of a task: this process alone, or with others, which end with the context.

    Raises RankError RANK_LOST or RankFailedError where another rank is why the work in the context failed, and
    Interrupted where it lacked memory for a micro-batch that the next attempt makes smaller.
    """
    if plan.ranks == 1:
        yield Alone()
        return
    with halves_next(plan, reporter), Crew(task, plan.ranks) as crew, _causes(crew):
        member = Membership(
            0, plan.ranks, kind=plan.device, folder=crew.folder, device_ids=plan.device_ids, alive=crew.check
        )
        crew.on_lost = member.abort
        with join(member, plan.sharding) as ranks:
            yield ranks


@contextmanager
def _causes(crew: Crew) -> Iterator[None]:
    """Replace an error that another rank has caused by its cause."""
    try:
        yield
    except (TaskError, RankFailedError):
        raise
    except Exception as error:
        # A message to a rank that has ended fails before anything else is known of it.
        crew.check_soon()
        if isinstance(error, RuntimeError) and any(name in str(error).lower() for name in _BACKENDS):
            text = "Ranks have waited for one another in vain, or a connection between them failed."
            raise RankError("RANK_LOST", text, remedy="The next attempt resumes from the last checkpoint.") from error
        raise
