# SPDX-License-Identifier: Apache-2.0
"""Seconds that several devices wait for each other: weights are gathered and gradients are reduced."""

from finetree_estimator import constants as c
from finetree_estimator.run import Run


def micro_batch_seconds(run: Run) -> float:
    """Seconds that each micro-batch waits: sharded weights are gathered for both passes, and gradients reduced."""
    if not run.sharded:
        return 0.0
    return waiting_seconds(run) + c.EXPOSED_TRAFFIC * _gathered_bytes(run) / _link(run)


def waiting_seconds(run: Run) -> float:
    """Seconds of a micro-batch's waiting that do not go with the bytes: calls of the sharding library.

    Published runs tell two kinds of programs apart that no request does: under transformers' Trainer each gather waits
    whatever the micro-batch, in loops that fetch ahead (OLMo-core, fms-fsdp) next to nothing does.
    """
    return c.GATHERS * run.shape.layers * run.program.gather_overhead if run.sharded else 0.0


def delay_seconds(run: Run) -> float:
    """Seconds that each micro-batch may wait longer: devices without a link of their own share a board's few lanes.

    Sharded weights then come over the slot's bus and through the host's memory, and nothing of it is hidden.
    """
    if not run.sharded or _link(run) > c.PLAIN_LINK:
        return 0.0
    return _gathered_bytes(run) * (1.0 / c.NARROW_LINK - c.EXPOSED_TRAFFIC / _link(run))


def step_seconds(run: Run) -> float:
    """Seconds that each optimizer step waits for the reduction of gradients that every device has whole."""
    if run.devices == 1 or run.sharded:
        return 0.0
    sizes = run.method.trainable_parameters(run.shape) * run.master_bytes
    return c.EXPOSED_TRAFFIC * 2.0 * sizes * _share(run) / _link(run)


def _gathered_bytes(run: Run) -> float:
    """Bytes that a device gets for a micro-batch: weights for both passes, and gradients where all are trained."""
    times = c.GATHERS + (1 if run.method.trains_base else 0)
    return times * run.method.gathered_model(run) * _share(run)


def _share(run: Run) -> float:
    """Share of the numbers that a device has to get from the others."""
    return 1.0 - 1.0 / run.devices


def _link(run: Run) -> float:
    """Bytes per second that a device gets from the others, in one direction."""
    inside = run.device.link_bandwidth or c.PLAIN_LINK
    # The devices of a machine share what connects it to the next.
    return inside if run.nodes == 1 else min(inside, c.NETWORK_LINK)
