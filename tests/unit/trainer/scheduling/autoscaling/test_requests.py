# SPDX-License-Identifier: Apache-2.0
"""What a queue asks an autoscaler for, and what its waiting jobs are told of it."""

import pytest
from finetree_api.trainer.v1 import job_pb2
from finetree_api.types.v1 import hardware_pb2
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.scheduling.autoscaling.node_types import NodeType, PresentNode
from finetree_trainer.scheduling.autoscaling.requests import NodeRequests
from finetree_trainer.scheduling.devices import Device
from finetree_trainer.scheduling.memory import Budget, Budgets, MemoryLedger
from finetree_trainer.scheduling.queue import JobQueue
from finetree_trainer.scheduling.waiting import WaitingJob

GB = 1_000_000_000
CPU = hardware_pb2.Hardware(cpu=hardware_pb2.CpuDevice(cores=4), count=1)
ONE = {"CPU": 4.0}


def node(name: str, **changes) -> PresentNode:  # noqa: ANN003 - fields of the node
    cpu = Device(name, "cpu", CPU, "CPU", 32 * GB, 1, 4)
    return PresentNode(**{"name": name, "resources": ONE, "devices": (cpu,), **changes})


class Memory(MemoryLedger):
    """Memory of nodes that nobody uses."""

    def __init__(self) -> None:
        self.promised = dict

    def read(self) -> None:
        return None

    async def look(self) -> Budgets:
        return self.budgets(None)

    def budgets(self, reading: object) -> Budgets:
        del reading
        free = Budget(32 * GB, 32 * GB, 0, capacity=32 * GB)
        return Budgets(Budget(0, 0, 0), nodes={"a": free, "little": Budget(GB, GB, 0, capacity=GB)})

    def capacity(self, device: Device) -> int:
        return device.total_bytes


@pytest.fixture
async def cluster(store, new_row, create_job):
    """A queue of a cluster whose nodes a test sets; `asked` has what was asked for last."""

    class Cluster:
        def __init__(self) -> None:
            self.now, self.devices, self.nodes, self.asked = 1_000_000, [], [], None
            memory = Memory()
            type_ = NodeType("small", ONE, node("small").devices, 2)
            self.requests = NodeRequests([type_], memory, lambda: self.now, wait=60.0)
            self.requests.present = lambda: self.nodes
            self.requests.request = lambda bundles: setattr(self, "asked", bundles)
            self.queue = JobQueue(EventLog(store), self.devices, memory)
            self.queue.nodes = self.requests
            self.queue.start = self._start
            self.queue.follow_devices()

        async def _start(self, uid: str, _slots: object) -> bool:
            self.queue._drop(uid)
            return True

        def have(self, *nodes: PresentNode) -> None:
            self.nodes[:] = nodes
            self.devices[:] = [device for each in nodes for device in each.devices]
            self.queue.follow_devices()

        def add(self, uid: str, **changes) -> None:  # noqa: ANN003 - fields of the row
            record = job_pb2.Job(uid=uid)
            record.train.spec.hardware.CopyFrom(CPU)
            row = new_row(uid, state=job_pb2.JOB_STATE_QUEUED, record=record.SerializeToString(), **changes)
            create_job(row)
            self.queue.recover([row])

        async def look(self) -> list[dict[str, float]]:
            await self.queue.start_all()
            self.queue._ask_for_nodes()
            return self.asked

    return Cluster()


async def test_an_empty_queue_asks_for_nothing(cluster):
    assert await cluster.look() == []
    cluster.have(node("a"))
    assert await cluster.look() == []


async def test_nodes_are_asked_for_as_long_as_jobs_need_them(cluster):
    for uid in ("first", "second", "third"):
        cluster.add(uid)
    assert await cluster.look() == [ONE, ONE]
    cluster.have(node("a"))
    # The first job runs there, so that the floor is this node and another one.
    assert await cluster.look() == [ONE, ONE]
    assert cluster.queue.position("second").code == "NODE_REQUESTED"
    cluster.queue.release(list(cluster.queue.slots.of("first")), "first")
    assert await cluster.look() == [ONE, ONE]
    cluster.queue.release(list(cluster.queue.slots.of("second")), "second")
    assert await cluster.look() == [ONE]
    cluster.queue.release(list(cluster.queue.slots.of("third")), "third")
    assert await cluster.look() == []


async def test_a_job_is_told_which_node_was_asked_for_and_since_when(cluster):
    cluster.add("job")
    await cluster.look()
    position = cluster.queue.position("job")
    assert (position.code, position.blocked_by) == (
        "NODE_REQUESTED",
        "a node of type small was asked for at 00:00:01 UTC",
    )
    assert dict(position.metadata) == {
        "node_type": "small",
        "requested_time": "1970-01-01T00:00:01Z",
        "requested_nodes": "1",
        "maximum_nodes": "2",
    }
    cluster.now += 61_000_000
    await cluster.look()
    position = cluster.queue.position("job")
    assert position.code == "NODE_OVERDUE"
    assert position.blocked_by.endswith("at 00:00:01 UTC and has not come within 1 minutes")
    assert "ray status" in position.remedy


async def test_the_time_of_the_request_is_known_after_a_restart(cluster):
    stored = job_pb2.Job()
    stored.state_reason.code = "NODE_REQUESTED"
    stored.state_reason.metadata.update({"node_type": "small", "requested_time": "1970-01-01T00:00:00.5Z"})
    cluster.add("job", snapshot=stored.SerializeToString())
    await cluster.look()
    assert cluster.queue.position("job").metadata["requested_time"] == "1970-01-01T00:00:00.500Z"


async def test_held_jobs_ask_for_nothing_and_say_why_they_wait(cluster):
    class NoStarts:
        def allows(self, job: WaitingJob) -> bool:
            return job.uid != "limited"

        def add(self, job: WaitingJob) -> None: ...

    cluster.requests.starts = NoStarts
    cluster.add("suspended", suspended=True)
    cluster.add("limited")
    assert await cluster.look() == []
    assert "suspended" in cluster.queue.position("suspended").blocked_by
    cluster.add("free")
    assert await cluster.look() == [ONE]


async def test_a_job_beyond_the_maximum_is_told_so(cluster):
    for uid in ("first", "second", "third"):
        cluster.add(uid)
    await cluster.look()
    position = cluster.queue.position("third")
    assert position.code == "WAITING_FOR_DEVICE"
    assert "2 of type small, are there or asked for" in position.blocked_by
    assert position.metadata["node_types"] == "small"


async def test_a_node_that_lacks_something_is_not_asked_for_a_second_time(cluster):
    cluster.have(node("a", fault="the trainer's data folder is not mounted there", devices=()))
    cluster.add("job")
    assert await cluster.look() == []
    assert "the trainer's data folder is not mounted there" in cluster.queue.position("job").blocked_by


async def test_an_idle_node_that_is_too_small_does_not_stand_for_the_one_that_is_asked_for(cluster):
    cluster.have(node("little"))
    cluster.add("job")
    # For Ray it has all that was asked for, so that the floor is both.
    assert await cluster.look() == [ONE, ONE]
    assert cluster.queue.position("job").code == "NODE_REQUESTED"
    assert [each.present for each in cluster.requests.describe()] == [1]
