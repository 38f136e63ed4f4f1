# SPDX-License-Identifier: Apache-2.0
"""Asks an autoscaler for the nodes that the queue needs, and knows which job waits for one, and since when.

What is asked for is a floor: all nodes that the cluster is to have. It is the nodes that jobs hold, those that come for
waiting ones, and nothing else, so that every other node may go.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from finetree_api.trainer.v1 import capacity_pb2, job_pb2

from finetree_trainer.clock import timestamp
from finetree_trainer.scheduling.autoscaling.node_types import NodeType, PresentNode, covers, difference, type_of
from finetree_trainer.scheduling.autoscaling.shortage import (
    Shortage,
    Starts,
    find_shortage,
    machine_there,
)
from finetree_trainer.scheduling.devices import Device
from finetree_trainer.scheduling.fit import WAITING_FOR_DEVICE, Blocked
from finetree_trainer.scheduling.memory import MemoryLedger
from finetree_trainer.scheduling.slots import Slots
from finetree_trainer.scheduling.waiting import WaitingJob

NODE_REQUESTED, NODE_OVERDUE = "NODE_REQUESTED", "NODE_OVERDUE"
"""Codes of the reason for which a job waits: a node was asked for; and it has not come in time."""
_REMEDIES = {
    NODE_REQUESTED: "It starts when the node has come; nothing is to be done.",
    NODE_OVERDUE: "It starts when the node comes; the autoscaler's log and `ray status` say why it does not, often a "
    "quota of the provider or resources that its configuration does not have. Or take another kind of device.",
}


@dataclass(frozen=True, slots=True)
class Request:
    """A node that a job waits for: its type, and since when it was asked for, microseconds."""

    type_: str
    since: int


class NodeRequests:
    """What is asked of the autoscaler for the waiting jobs of a queue; `types` are those that it may bring.

    `wait`: seconds in which a node comes. `clock` gives microseconds.
    """

    def __init__(
        self, types: Sequence[NodeType], memory: MemoryLedger, clock: Callable[[], int], *, wait: float
    ) -> None:
        self.types, self._memory, self._clock, self._wait = types, memory, clock, wait
        self._by_name = {type_.name: type_ for type_ in types}
        self._jobs: dict[str, Request] = {}
        self._asked: Counter[str] = Counter()
        self._spoiled: dict[str, str] = {}
        """Types of which a node is there that is not what the file says, and what is wrong with it."""
        self.present: Callable[[], Sequence[PresentNode]] = tuple
        """Returns the nodes that are there."""
        self.starts: Callable[[], Starts] = _Unlimited
        """Returns the limits of projects, with what runs now."""
        self.request: Callable[[Sequence[Mapping[str, float]]], None] = lambda _bundles: None
        """Tells the cluster which nodes it is to have, as what each of them has; none: any may go."""

    @property
    def devices(self) -> list[Device]:
        """The devices of one node of each type."""
        return [device for type_ in self.types for device in type_.devices]

    def look(self, waiting: Iterable[WaitingJob], slots: Slots) -> bool:
        """Ask for what waiting jobs need, given in their turn; return whether nodes are awaited."""
        present = self.present()
        types = {node.name: type_of(node, self.types) for node in present}
        there = Counter(type_.name for type_ in types.values() if type_ is not None)
        self._spoiled = {}
        for node in present:
            type_ = types[node.name]
            if type_ is not None and (why := difference(node, type_)):
                self._spoiled[type_.name] = why
        room = {
            type_.name: 0 if type_.name in self._spoiled else max(0, type_.maximum - there[type_.name])
            for type_ in self.types
        }
        budgets = self._memory.budgets(self._memory.read())
        free = slots.free_in_order()
        usable = [machine_there(node, free, budgets) for node in present if not node.fault]
        jobs = list(waiting)
        found = find_shortage(jobs, usable, self.types, room=room, capacity=self._memory.capacity, starts=self.starts())
        self._note(found, {job.uid: job for job in jobs})
        self._asked = found.nodes
        self.request(self._floor(found, present, types, slots))
        return bool(found.nodes)

    def _note(self, found: Shortage, waiting: Mapping[str, WaitingJob]) -> None:
        now, before = self._clock(), self._jobs
        self._jobs = {}
        for uid, type_ in found.jobs.items():
            known = before.get(uid) or _stored(waiting[uid])
            same = known is not None and known.type_ == type_
            self._jobs[uid] = known if known is not None and same else Request(type_, now)

    def _floor(
        self,
        found: Shortage,
        present: Sequence[PresentNode],
        types: Mapping[str, NodeType | None],
        slots: Slots,
    ) -> list[dict[str, float]]:
        held = {slot.node for slot, holder in slots.holders.items() if holder is not None} | found.kept
        asked = [self._by_name[name].resources for name in sorted(found.nodes.elements())]
        bundles = []
        for node in present:
            type_ = types[node.name]
            own = type_.resources if type_ is not None else node.resources
            # A node that no job can take would stand for one of those that are asked for.
            if node.name in held or any(covers(node.resources, bundle) for bundle in asked):
                bundles.append(dict(own))
        return bundles + [dict(bundle) for bundle in asked]

    def about(self, job: WaitingJob) -> Blocked | None:
        """Say which node a job waits for; None where it waits for none."""
        asked = self._jobs.get(job.uid)
        if asked is None:
            return None if job.demand.candidates else self._none_to_come(job)
        type_, since = self._by_name[asked.type_], timestamp(asked.since)
        text = f"a node of type {type_.name} was asked for at {since.ToDatetime():%H:%M:%S} UTC"
        metadata = {
            "node_type": type_.name,
            "requested_time": since.ToJsonString(),
            "requested_nodes": str(self._asked[type_.name]),
            "maximum_nodes": str(type_.maximum),
        }
        if self._clock() - asked.since < self._wait * 1e6:
            return Blocked(NODE_REQUESTED, text, remedy=_REMEDIES[NODE_REQUESTED], metadata=metadata)
        text = f"{text} and has not come within {self._wait / 60:g} minutes"
        return Blocked(NODE_OVERDUE, text, remedy=_REMEDIES[NODE_OVERDUE], metadata=metadata)

    def _none_to_come(self, job: WaitingJob) -> Blocked | None:
        """Say why no node is asked for, for a job that only nodes can run that may come."""
        names = sorted({name for name, _ in job.demand.may_come})
        if not names:
            return None
        metadata = {"device_kind": job.demand.kind, "needed": str(job.demand.count), "node_types": ",".join(names)}
        wrong = [self._spoiled[name] for name in names if name in self._spoiled]
        if wrong:
            remedy = "Mend the node, or correct the file of node types; then another one is asked for."
            return Blocked(WAITING_FOR_DEVICE, "; ".join(wrong), remedy=remedy, metadata=metadata)
        most = ", ".join(f"{self._by_name[name].maximum} of type {name}" for name in names)
        text = f"as many nodes as may come, {most}, are there or asked for, or too small for it beside other jobs"
        remedy = "It starts when jobs before it have ended; or raise `maximum` in the file of node types."
        return Blocked(WAITING_FOR_DEVICE, text, remedy=remedy, metadata=metadata)

    def describe(self) -> list[capacity_pb2.NodeType]:
        """The types, with how many nodes of each are there and asked for."""
        types = [type_of(node, self.types) for node in self.present()]
        there = Counter(type_.name for type_ in types if type_ is not None)
        return [
            capacity_pb2.NodeType(
                name=type_.name,
                devices=[
                    capacity_pb2.Device(
                        id=device.id,
                        hardware=device.hardware,
                        display_name=device.display_name,
                        total_bytes=device.total_bytes,
                        slots=device.slot_count,
                        threads_per_slot=device.threads,
                    )
                    for device in type_.devices
                ],
                present=there[type_.name],
                requested=self._asked[type_.name],
                maximum=type_.maximum,
            )
            for type_ in self.types
        ]


class _Unlimited:
    """No limits."""

    def allows(self, job: WaitingJob) -> bool:
        """Always."""
        del job
        return True

    def add(self, job: WaitingJob) -> None:
        """Nothing."""


def _stored(job: WaitingJob) -> Request | None:
    """What an earlier run of the service has asked for."""
    reason = job_pb2.Job.FromString(job.row.snapshot).state_reason
    if reason.code not in (NODE_REQUESTED, NODE_OVERDUE):
        return None
    since = timestamp(0)
    since.FromJsonString(reason.metadata["requested_time"])
    return Request(reason.metadata["node_type"], since.ToMicroseconds())
