# SPDX-License-Identifier: Apache-2.0
"""What a waiting job is told: what is in its way, in words and as data, and what would end it.

A reason names jobs of the same project alone; of others it says that there are some.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice

from finetree_runtime.ids import project_in

from finetree_trainer.scheduling.demand import Demand
from finetree_trainer.scheduling.fit import (
    DEVICE_LOST,
    KEPT_FOR_ANOTHER,
    MEMORY_IN_USE,
    WAITING_FOR_DEVICE,
    WAITING_FOR_NODE,
    Blocked,
    Holder,
    NotPlacedError,
)
from finetree_trainer.scheduling.slots import Occupancy

FAIR_SHARE, NO_SUCH_DEVICE = "FAIR_SHARE", "NO_SUCH_DEVICE"
"""Codes of reasons beside those of a round: devices that projects with a smaller share get first, and a kind of device
that the machine has no more."""
NAMED_HOLDERS = 4
"""Running jobs that the reason of a waiting one names."""
_REMEDIES = {
    WAITING_FOR_DEVICE: "It starts when enough of its devices are free; ending or pausing a job that holds one helps, "
    "moving it forward in the queue, or another kind of device.",
    FAIR_SHARE: "It starts when its project's share of the devices is the least of those that wait; a higher weight of "
    "the project in the limits file lowers its share.",
    MEMORY_IN_USE: "It starts when the memory is given back, by jobs or by other programs; a smaller micro-batch or "
    "quantized base model needs less.",
    KEPT_FOR_ANOTHER: "It starts behind the job for which the devices or the memory are kept.",
    DEVICE_LOST: "Reset the devices or repair them; or run it on another kind of device.",
    WAITING_FOR_NODE: "It is tried again by itself; start nodes of the cluster, or end what holds their resources.",
    NO_SUCH_DEVICE: "Bring the device back, or cancel the job and create it for a kind that the machine has.",
}


def not_placed(error: NotPlacedError) -> Blocked:
    """Say why a worker could not be started on a node."""
    return with_remedy(Blocked(WAITING_FOR_NODE, str(error)))


def told_to(blocked: Blocked, project: str) -> Blocked:
    """Say what was found for all jobs with the same demand to one of a project."""
    if blocked.kept_for:
        own = project_in(blocked.kept_for) == project
        name = blocked.kept_for.rpartition("/")[2] if own else "a job of another project"
        text = f"what is free is kept for {name}, which others have passed"
        blocked = replace(blocked, text=text, metadata={"kept_for": blocked.kept_for} if own else {})
    return with_remedy(blocked)


def with_remedy(blocked: Blocked) -> Blocked:
    """Add what would end the wait, where that is the same for all of its code."""
    return blocked if blocked.remedy else replace(blocked, remedy=_REMEDIES.get(blocked.code, ""))


def no_such_device(demand: Demand, kinds: list[str]) -> Blocked:
    """Describe the wait for a kind of device, or so many of it, as the machine has no more."""
    there = ", ".join(sorted(set(kinds)))
    text = f"it needs {demand.count} of the kind {demand.kind}, and the machine has {there or 'no device'} now"
    metadata = {"device_kind": demand.kind, "needed": str(demand.count), "devices": ",".join(kinds)}
    return with_remedy(Blocked(NO_SUCH_DEVICE, text, metadata=metadata))


def for_devices(
    demand: Demand,
    project: str,
    *,
    ahead: int,
    occupancy: Occupancy,
    about: Mapping[str, str],
    shares: tuple[float, float] | None,
) -> Blocked:
    """Describe the wait for a slot: who holds those that the job could have, and how many are free.

    `about` says of jobs, by uid, when they give their slots up, if before their end. `shares` are that of the job's
    project and the least one of those that wait for the same devices; None where that is its own.
    """
    held, free = occupancy.held, occupancy.free
    own = occupancy.by_project.get(project, {})
    named = [f"{', '.join(at)}: {_called(holder, own)}" for holder, at in islice(held.items(), NAMED_HOLDERS)]
    names = f" ({', '.join(named)}{', …' if len(held) > len(named) else ''})" if named else ""
    text = f"{ahead} {'job' if ahead == 1 else 'jobs'} ahead and {len(held)} running on {demand.kind}{names}"
    if demand.count > 1:
        text = f"it needs {demand.count} devices at once and {free} {'is' if free == 1 else 'are'} free; {text}"
    for holder in held if about else ():
        if said := about.get(holder.uid):
            text = f"{text}; {own.get(holder.uid, 'a job of another project')} {said}"
    metadata = {"device_kind": demand.kind, "needed": str(demand.count), "free": str(free), "ahead": str(ahead)}
    if own:
        metadata["held_by"] = ",".join(islice(own.values(), NAMED_HOLDERS))
    if len(held) > len(own):
        metadata["held_by_other_projects"] = str(len(held) - len(own))
    if shares is None:
        return with_remedy(Blocked(WAITING_FOR_DEVICE, text, metadata=metadata))
    metadata |= {"share": f"{shares[0]:.4f}", "least_share": f"{shares[1]:.4f}"}
    text = f"{text}; projects with a smaller share of the devices come first"
    return with_remedy(Blocked(FAIR_SHARE, text, metadata=metadata))


def _called(holder: Holder, own: Mapping[str, str]) -> str:
    return holder.name.rpartition("/")[2] if holder.uid in own else "another project"
