# SPDX-License-Identifier: Apache-2.0
from finetree_api.trainer.v1 import retention_pb2
from finetree_trainer.jobs.retention.inventory import Item
from finetree_trainer.jobs.retention.plan import removals
from finetree_trainer.jobs.retention.policy import KINDS, Limit, Policy

DAY = 86_400 * 1_000_000
NOW = 100 * DAY
AGE, BYTES, TTL = (
    retention_pb2.REMOVAL_CAUSE_AGE,
    retention_pb2.REMOVAL_CAUSE_BYTES,
    retention_pb2.REMOVAL_CAUSE_TIME_TO_LIVE,
)


def checkpoint(step, days, *, project="p", uid="j1", size=10, kept="", expire_time=0):
    return Item(KINDS["checkpoints"], project, uid, str(step), size, NOW - days * DAY, kept, expire_time)


def chosen(items, **limits: Limit):
    policy = Policy({KINDS[name]: limit for name, limit in limits.items()})
    return [(each.item.part or each.item.uid, each.cause) for each in removals(items, policy, NOW)]


def test_what_is_older_than_its_limit_goes_oldest_first_and_never_what_is_kept():
    items = [checkpoint(1, 3), checkpoint(2, 9), checkpoint(3, 7, kept="is pinned"), checkpoint(4, 8)]
    assert chosen(items, checkpoints=Limit(5 * 86_400.0)) == [("2", AGE), ("4", AGE)]
    assert chosen(items) == []


def test_a_kind_that_is_too_large_loses_its_oldest_parts_until_it_fits():
    items = [checkpoint(step, 10 - step) for step in range(5)]
    assert chosen(items, checkpoints=Limit(bytes=50)) == []
    assert chosen(items, checkpoints=Limit(bytes=49)) == [("0", BYTES)]
    assert chosen(items, checkpoints=Limit(bytes=25)) == [("0", BYTES), ("1", BYTES), ("2", BYTES)]
    # What is kept counts, and is passed over: there is nothing else left to remove.
    held = [checkpoint(0, 10, size=100, kept="is pinned"), checkpoint(1, 5)]
    assert chosen(held, checkpoints=Limit(bytes=50)) == [("1", BYTES)]
    # Another project has a limit of its own.
    assert chosen([checkpoint(0, 1), checkpoint(1, 1, project="q")], checkpoints=Limit(bytes=15)) == []


def test_a_time_of_its_own_needs_no_limit_and_a_pin_is_stronger():
    items = [checkpoint(1, 1, expire_time=NOW - 1), checkpoint(2, 1, expire_time=NOW + 1)]
    items.append(checkpoint(3, 1, expire_time=NOW - 1, kept="is pinned"))
    assert chosen(items) == [("1", TTL)]


def test_what_goes_with_its_job_is_not_named_beside_it():
    job = Item(KINDS["jobs"], "p", "j1", "", 5, NOW - 9 * DAY)
    other = checkpoint(7, 9, uid="j2")
    limit = Limit(86_400.0)
    assert chosen([job, checkpoint(1, 9), other], jobs=limit, checkpoints=limit) == [("j1", AGE), ("7", AGE)]
