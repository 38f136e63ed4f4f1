# SPDX-License-Identifier: Apache-2.0
"""What it costs several devices to share a run: seconds in which weights are gathered and gradients are reduced."""

from finetree_estimator import constants as c
from finetree_estimator.methods import Full, trainable_parameters
from finetree_estimator.run import Run
from finetree_estimator.shapes import count


def micro_batch_seconds(run: Run) -> float:
    """Seconds that each micro-batch waits: sharded weights are gathered for both passes, and gradients reduced."""
    if run.devices == 1 or run.sharding != "full":
        return 0.0
    counted = count(run.shape)
    passes = c.GATHERS + (1 if isinstance(run.method, Full) else 0)
    moved = passes * counted.total * run.compute_bytes * _share(run) / _link(run)
    return c.GATHERS * run.shape.layers * run.program.gather_overhead + c.EXPOSED_TRAFFIC * moved


def step_seconds(run: Run) -> float:
    """Seconds that each optimizer step waits for the reduction of gradients that every device has whole."""
    if run.devices == 1 or run.sharding == "full":
        return 0.0
    sizes = trainable_parameters(run.method, run.shape) * run.master_bytes
    return c.EXPOSED_TRAFFIC * 2.0 * sizes * _share(run) / _link(run)


def _share(run: Run) -> float:
    """Share of the numbers that a device has to get from the others."""
    return 1.0 - 1.0 / run.devices


def _link(run: Run) -> float:
    """Bytes per second that a device gets from the others, in one direction."""
    inside = run.device.link_bandwidth or c.PLAIN_LINK
    # The devices of a machine share what connects it to the next.
    return inside if run.nodes == 1 else min(inside, c.NETWORK_LINK)
