# SPDX-License-Identifier: Apache-2.0
"""Seconds that several devices wait for each other: weights are gathered and gradients are reduced.

Devices pass what they have around a ring (NCCL's all-gather and reduce-scatter), so that each link of it, those between
machines too, carries nearly all of the bytes. The ring is as slow as its slowest link. Inside a machine computing hides
most of it; a network is hidden for as long as the computing lasts, and what it takes beyond that is waited for.
Processes on one CPU have no link: the cores that compute copy the bytes, and nothing hides it.
"""

from finetree_estimator import constants as c
from finetree_estimator.run import Run


def micro_batch_seconds(run: Run, computing: float) -> float:
    """Seconds that each micro-batch waits beside `computing` seconds of its own.

    Sharded weights are gathered for both passes, and gradients reduced.
    """
    if not run.sharded:
        return 0.0
    if run.on_cpu:
        return _gathered_bytes(run) / c.CPU_GATHERED
    waiting = waiting_seconds(run)
    return waiting + _exposed(run, _gathered_bytes(run), computing + waiting)


def waiting_seconds(run: Run) -> float:
    """Seconds of a micro-batch's waiting that do not go with the bytes: calls of the sharding library.

    Published runs tell two kinds of programs apart that no request does: under transformers' Trainer each gather waits
    whatever the micro-batch, in loops that fetch ahead (OLMo-core, fms-fsdp) next to nothing does.
    """
    if run.on_cpu or not run.sharded:
        return 0.0
    return c.GATHERS * run.shape.layers * run.program.gather_overhead


def delay_seconds(run: Run, computing: float) -> float:
    """Seconds that each micro-batch may wait longer: devices and machines may share less than is taken.

    Devices without a link of their own may share a board's few lanes: sharded weights then come over the slot's bus and
    through the host's memory, and nothing of it is hidden. A network may pass a part of its rate.
    """
    if not run.sharded:
        return 0.0
    moved = _gathered_bytes(run)
    if run.on_cpu:
        # Beside the products of the others a copy takes up to twice its time.
        return moved / c.CPU_GATHERED
    if run.nodes > 1:
        computing += waiting_seconds(run)
        slower = c.NETWORK_REACHED if run.network_known else c.SLOWEST_NETWORK
        return max(0.0, moved / (run.network_bandwidth * slower) - computing - _exposed(run, moved, computing))
    if _link(run) > c.PLAIN_LINK:
        return 0.0
    return moved * (1.0 / c.NARROW_LINK - c.EXPOSED_TRAFFIC / _link(run))


def saved_seconds(run: Run, computing: float) -> float:
    """Seconds that each micro-batch may wait less: what is waited for a network that is only assumed."""
    if not run.sharded or run.nodes == 1 or run.network_known:
        return 0.0
    moved, computing = _gathered_bytes(run), computing + waiting_seconds(run)
    return _exposed(run, moved, computing) - c.EXPOSED_TRAFFIC * moved / _link(run)


def step_seconds(run: Run, computing: float) -> float:
    """Seconds that each optimizer step waits for the reduction of gradients that every device has whole.

    `computing` are the seconds of the last micro-batch's backward pass, in which they appear.
    """
    if run.devices == 1 or run.sharded:
        return 0.0
    moved = 2.0 * run.trained_size(run.master_bytes) * _share(run)
    return moved / c.CPU_REDUCED if run.on_cpu else _exposed(run, moved, computing)


def _exposed(run: Run, moved: float, computing: float) -> float:
    """Seconds that so many bytes are waited for."""
    seconds = moved / _link(run)
    beyond = seconds - computing if run.nodes > 1 else 0.0
    return max(c.EXPOSED_TRAFFIC * seconds, beyond)


def _gathered_bytes(run: Run) -> float:
    """Bytes that a device gets for a micro-batch: weights for both passes, and gradients where all are trained."""
    times = c.GATHERS + (1 if run.method.trains_base else 0)
    return times * run.method.gathered_model(run) * _share(run)


def _share(run: Run) -> float:
    """Share of the numbers that a device has to get from the others."""
    return 1.0 - 1.0 / run.devices


def _link(run: Run) -> float:
    """Bytes per second that the slowest link of the ring passes, in one direction."""
    inside = run.device.link_bandwidth or c.PLAIN_LINK
    # All adapters of a machine together stand between two neighbors of the ring.
    return inside if run.nodes == 1 else min(inside, run.network_bandwidth)
