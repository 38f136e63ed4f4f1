# SPDX-License-Identifier: Apache-2.0
"""The trainer's capacity as text."""

from finetree_api.trainer.v1 import trainer_pb2

from finetree_cli.output import Output, short_name
from finetree_cli.render import units


def show_capacity(out: Output, found: trainer_pb2.GetCapacityResponse) -> None:
    """Print devices, the length of the queue and the host."""
    rows = [
        (
            item.id,
            item.display_name,
            f"{units.size(item.free_bytes)} of {units.size(item.total_bytes)}",
            f"{item.free_slots} of {item.slots}",
            ", ".join(short_name(name) for name in item.running_jobs),
        )
        for item in found.devices
    ]
    out.table(["Device", "Name", ">Free memory", ">Free slots", "Running"], rows)
    out.text(f"Queue: {found.queue_length}")
    out.text(f"Host: {host(found)}")


def host(found: trainer_pb2.GetCapacityResponse) -> str:
    """Format the processor and its measured matrix rates."""
    bf16, fp32 = found.host_bf16_flops_per_second, found.host_fp32_flops_per_second
    measured = f"bf16 {units.rate(bf16)}, fp32 {units.rate(fp32)}" if bf16 or fp32 else "matrix rate not measured yet"
    return f"{found.host_cpu_name or 'CPU'}, {measured}"
