# SPDX-License-Identifier: Apache-2.0
"""Measured matrix rates of a CPU that a job file names: those of the trainer that has it."""

from typing import TYPE_CHECKING

from finetree_cli.options.spec import RATE_WAIT_SECONDS

if TYPE_CHECKING:
    from finetree import Client
    from finetree_api.estimator.v1 import estimate_pb2
    from finetree_api.trainer.v1 import capacity_pb2
    from finetree_api.types.v1 import hardware_pb2

    from finetree_cli.output import Output


def may_be_measured(request: "estimate_pb2.EstimateRunRequest") -> bool:
    """Tell whether a run without rates names a CPU that a trainer may have measured.

    A CPU of which nothing is said may be any: its speed stays assumed, as the recommender assumes it.
    """
    hardware = request.spec.hardware
    return not request.HasField("matrix_rates") and hardware.HasField("cpu") and hardware.cpu.ByteSize() > 0


def add_measured_rates(request: "estimate_pb2.EstimateRunRequest", client: "Client", out: "Output") -> None:
    """Add the trainer's rates to a run on the trainer's own CPU, as `finetree recommend --this-machine` had them.

    Nothing is added for another CPU. A trainer that gives no answer is said on stderr and is no error: an estimate
    needs none.
    """
    from finetree import FinetreeError

    cpu = request.spec.hardware.cpu
    try:
        node = _node_with(cpu, client.capacity())
        if node is not None and not node.HasField("matrix_rates"):
            node = _node_with(cpu, client.capacity(wait_for_rate=RATE_WAIT_SECONDS))
    except FinetreeError as error:
        out.say(f"the CPU's speed is assumed: the trainer's measured rates cannot be read: {error.message}")
        return
    if node is not None and node.HasField("matrix_rates"):
        request.matrix_rates.CopyFrom(node.matrix_rates)
        out.say("the CPU is the trainer's: estimated with its measured rates")


def _node_with(
    cpu: "hardware_pb2.CpuDevice", capacity: "capacity_pb2.GetCapacityResponse"
) -> "capacity_pb2.Node | None":
    """Return the trainer's node whose CPU is exactly this one; None where it has none such."""
    devices = ((node, device.hardware) for node in capacity.nodes for device in node.devices)
    return next((node for node, hardware in devices if hardware.HasField("cpu") and hardware.cpu == cpu), None)
