# SPDX-License-Identifier: Apache-2.0
"""Slots: what is free of a group, who holds it, and what is kept of both while slots are held and released."""

import random

import pytest
from finetree_api.trainer.v1 import job_pb2
from finetree_api.types.v1 import hardware_pb2
from finetree_trainer.scheduling.devices import PREPARING, Device
from finetree_trainer.scheduling.fit import Holder
from finetree_trainer.scheduling.order.positions import Group
from finetree_trainer.scheduling.slots import Slots

GPU = hardware_pb2.Hardware(accelerator="h100", count=1)
CPU = hardware_pb2.Hardware(cpu=hardware_pb2.CpuDevice(cores=4), count=1)
DEVICES = [Device(node, f"gpu{index}", GPU, "H100", 80 << 30) for node in ("b", "a") for index in range(3)]
DEVICES += [Device(node, "cpu", CPU, "CPU", 8 << 30, slot_count=2) for node in ("b", "a")]
GPUS = Group("h100", frozenset(device.place for device in DEVICES if device.id != "cpu"), prepares=False)
CPUS = Group("cpu", frozenset({("a", "cpu"), ("b", "cpu")}), prepares=False)
PREPARES = Group("cpu", CPUS.candidates, prepares=True)
GROUPS = (GPUS, CPUS, PREPARES)


def holder(uid, project="p"):
    return Holder(uid, f"projects/{project}/jobs/{uid}", job_pb2.TASK_KIND_TRAIN)


def counted_anew(slots, group):
    """Free slots of a group, as a look at every slot finds them."""
    return [slot for slot, held_by in slots.holders.items() if held_by is None and group.takes(slot)]


@pytest.mark.parametrize("seed", range(5))
def test_what_is_remembered_is_what_a_look_at_every_slot_finds(seed):
    slots, chance = Slots(DEVICES), random.Random(seed)
    for step in range(200):
        slot = chance.choice(list(slots.holders))
        if slots.holders[slot] is None:
            slots.hold(slot, holder(f"job-{step // 2}"))
        else:
            slots.release(slot)
        for group in GROUPS:
            free = counted_anew(slots, group)
            assert list(slots.free_of(group)) == free
            assert len(slots.free_of(group)) == slots.occupancy(group).free == len(free)
            for node in ("a", "b"):
                assert list(slots.free_of(group).on(node)) == [each for each in free if each.node == node]
        for node in ("a", "b"):
            held = {each: job for each, job in slots.holders.items() if job is not None and each.node == node}
            assert dict(slots.held_on(node)) == held
        for device in DEVICES:
            on = [each for each, job in slots.holders.items() if job and (each.node, each.device) == device.place]
            assert list(slots.on(device)) == on


def test_an_occupancy_names_each_job_once_in_the_order_of_the_devices():
    slots = Slots(DEVICES)
    mine, theirs = holder("mine"), holder("theirs", "q")
    for device, job in ((1, theirs), (0, mine), (2, mine)):
        slots.hold(DEVICES[device].slots()[0], job)
    found = slots.occupancy(GPUS)
    assert list(found.held.items()) == [(mine, ["gpu0", "gpu2"]), (theirs, ["gpu1"])]
    assert found.by_project == {"p": {"mine": mine.name}, "q": {"theirs": theirs.name}}
    assert found.free == 3


def test_devices_that_have_gone_are_not_offered():
    there = list(DEVICES)
    slots = Slots(there)
    gone = DEVICES[0].slots()[0]
    slots.hold(gone, holder("one"))
    assert len(slots.free_of(GPUS)) == 5
    del there[0]
    slots.follow_devices()
    assert slots.holders[gone] == holder("one")
    rest = Group("h100", GPUS.candidates - {("b", "gpu0")}, prepares=False)
    slots.release(gone)
    assert [str(slot) for slot in slots.free_of(rest)] == ["b/gpu1/0", "b/gpu2/0", "a/gpu0/0", "a/gpu1/0", "a/gpu2/0"]
    assert slots.places_of(rest) == sorted(rest.candidates)


def test_the_slot_for_what_prepares_is_of_its_own_group():
    slots = Slots(DEVICES)
    assert [slot.index for slot in slots.free_of(PREPARES)] == [PREPARING, PREPARING]
    assert [slot.index for slot in slots.free_of(CPUS)] == [0, 1, 0, 1]
