# SPDX-License-Identifier: Apache-2.0
"""What a sweep of retention removes: a pure function of what is stored, the limits and the time."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from finetree_api.trainer.v1 import retention_pb2

from finetree_trainer.jobs.retention.inventory import Item
from finetree_trainer.jobs.retention.policy import Kind, Policy

Cause: TypeAlias = retention_pb2.RemovalCause.ValueType


@dataclass(frozen=True, slots=True)
class Removal:
    """Something that goes, and why."""

    item: Item
    cause: Cause


def removals(items: Iterable[Item], policy: Policy, now: int) -> list[Removal]:
    """Choose what goes at a time (microseconds since 1970), oldest first; never what is kept for something.

    A kind that takes more bytes than its limit loses its oldest parts until it fits. What goes with its whole job is
    not named beside it.
    """
    groups: dict[tuple[str, Kind], list[Item]] = defaultdict(list)
    for item in items:
        groups[item.project, item.kind].append(item)
    found: list[Removal] = []
    for (project, kind), group in groups.items():
        found += _of_group(group, policy.limit(project, kind).age, policy.limit(project, kind).bytes, now)
    gone = {each.item.uid for each in found if each.item.kind == retention_pb2.STORAGE_KIND_JOBS}
    of_jobs = (retention_pb2.STORAGE_KIND_JOBS, retention_pb2.STORAGE_KIND_DATASETS)
    found = [each for each in found if each.item.kind in of_jobs or each.item.uid not in gone or not each.item.uid]
    return sorted(found, key=lambda each: (each.item.time, each.item.name))


def _of_group(group: list[Item], age: float, most: int, now: int) -> list[Removal]:
    found = []
    left = sum(item.size for item in group)
    for item in sorted(group, key=lambda item: item.time):
        if item.kept:
            continue
        if item.expire_time and item.expire_time <= now:
            cause = retention_pb2.REMOVAL_CAUSE_TIME_TO_LIVE
        elif age and item.time < now - int(age * 1e6):
            cause = retention_pb2.REMOVAL_CAUSE_AGE
        elif most and left > most:
            cause = retention_pb2.REMOVAL_CAUSE_BYTES
        else:
            continue
        found.append(Removal(item, cause))
        left -= item.size
    return found
