# SPDX-License-Identifier: Apache-2.0
"""Replicas whose workers run on a Ray cluster: the leader is killed, and the next one has its workers."""

import pytest
from cluster_nodes import attempts, capacity, on, steps
from finetree_api.trainer.v1 import job_pb2
from held_port import held_port
from replica_group import Replicas, follow, until_step
from trainer_harness import assert_whole

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow(60)]


@pytest.fixture
async def group(nodes, tmp_path, postgresql):
    settings = on(nodes, 2.0)
    del settings["worker_address"]
    made = Replicas(
        tmp_path,
        {},
        postgresql,
        postgresql.new_schema(),
        count=2,
        own=lambda _: {"worker_address": f"127.0.0.1:{held_port()}"},
        **settings,
    )
    yield made
    await made.end()


async def test_the_leader_is_killed_and_its_worker_attaches_to_the_next_one(nodes, group):
    nodes.have("one")
    await group.start_all()
    first = await group.leader()
    (other,) = set(group.servers) - {first}
    await capacity(group.talks[other], ["one"])
    job = await group.talks[other].train()
    await until_step(group, other, job, 2)
    await group.kill(first)
    events = await follow(group, other, job.name)
    assert_whole(events)
    assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED
    assert attempts(events) == [(1, 0)]
    assert steps(events) == [(1, step) for step in range(1, 9)]
    # The next one starts workers too, and the first one, back again, takes none of them away.
    await group.start(first)
    assert await group.leader() == other
    again = await group.talks[first].train(dataset=job.train.spec.dataset.name)
    events = await follow(group, first, again.name)
    assert_whole(events)
    assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED
    assert attempts(events) == [(1, 0)]
