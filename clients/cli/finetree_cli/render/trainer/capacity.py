# SPDX-License-Identifier: Apache-2.0
"""The trainer's capacity as text."""

from collections.abc import Iterable

from finetree_api.trainer.v1 import capacity_pb2

from finetree_cli.output import Output, short_name
from finetree_cli.render import units


def show_capacity(out: Output, found: capacity_pb2.GetCapacityResponse) -> None:
    """Print nodes with their devices, and the length of the queue."""
    rows = [
        (
            node.name,
            item.id,
            item.display_name,
            f"{units.size(item.free_bytes)} of {units.size(item.total_bytes)}",
            f"{item.free_slots} of {item.slots}",
            ", ".join(short_name(name) for name in item.running_jobs),
        )
        for node in found.nodes
        for item in node.devices
    ]
    out.table(["Node", "Device", "Name", ">Free memory", ">Free slots", "Running"], rows)
    out.text(f"Queue: {found.queue_length}")
    for lease in (lease for node in found.nodes for item in node.devices for lease in item.leases):
        until = lease.expire_time.ToJsonString()
        out.text(f"Serving: {short_name(lease.job)} until {until}, {lease.generations} being answered")
    for worker in (worker for node in found.nodes for item in node.devices for worker in item.resting_workers):
        until = worker.expire_time.ToJsonString()
        out.text(f"Held for the next job on the same base: {units.size(worker.memory_bytes)} until {until}")
    for node in found.nodes:
        out.text(f"{node.name}: {host(node)}")
    if found.confinement:
        out.text(confinement(found.confinement))


def confinement(measures: Iterable[capacity_pb2.ConfinementMeasure]) -> str:
    """Format how workers are confined: what holds on one line, and one line for each measure that does not."""
    states = {
        capacity_pb2.CONFINEMENT_STATE_PARTIAL: "in part",
        capacity_pb2.CONFINEMENT_STATE_UNAVAILABLE: "unavailable",
        capacity_pb2.CONFINEMENT_STATE_OFF: "off",
    }
    holds, others = [], []
    for measure in measures:
        name = measure.name.replace("_", " ")
        if measure.state == capacity_pb2.CONFINEMENT_STATE_HOLDS:
            holds.append(name)
        else:
            others.append(f"  {name}: {states.get(measure.state, 'unknown')}, {measure.why}")
    return "\n".join([f"Workers are confined by: {', '.join(holds) or 'nothing'}", *others])


def host(node: capacity_pb2.Node) -> str:
    """Format a node's processor and its measured matrix rates."""
    rates = node.matrix_rates
    parts = [
        f"{name} {units.rate(rate)}"
        for name, rate, measured in (
            ("bf16", rates.bf16_flops_per_second, rates.HasField("bf16_flops_per_second")),
            ("fp32", rates.fp32_flops_per_second, rates.HasField("fp32_flops_per_second")),
        )
        if measured
    ]
    return f"{node.cpu_name or 'CPU'}, {', '.join(parts) or 'matrix rate not measured yet'}"
