# SPDX-License-Identifier: Apache-2.0
"""Models, GPUs and capacity as text."""

from collections.abc import Iterable

from finetree_api.estimator.v1 import estimator_pb2
from finetree_api.trainer.v1 import trainer_pb2

from finetree_cli.output import Output
from finetree_cli.render import units

NONE = "-"


def show_models(out: Output, models: Iterable[estimator_pb2.Model]) -> None:
    """Models as a table."""
    rows = [(item.name, units.count(item.parameters), item.family, item.license, item.hub_id) for item in models]
    out.table(["Model", ">Parameters", "Family", "Licence", "Hub id"], rows)


def show_accelerators(out: Output, found: Iterable[estimator_pb2.Accelerator]) -> None:
    """GPUs as a table; of those that cannot be trained on yet, that they cannot stands in place of what is usable."""
    rows = [
        (
            item.name,
            item.architecture,
            f"{item.marketed_memory_gb:g} GB" if item.marketed_memory_gb else NONE,
            "not supported yet" if item.unsupported else units.size(item.usable_bytes),
            units.rate(item.dense_flops_per_second) if item.dense_flops_per_second else NONE,
            NONE if item.unsupported else "yes" if item.native_bf16 else "no",
            units.money(item.typical_hourly_usd, "USD") if item.typical_hourly_usd else NONE,
        )
        for item in found
    ]
    out.table(["GPU", "Architecture", ">Memory", ">Usable", ">16 bits", "bf16", ">An hour"], rows)


def show_prices(out: Output, found: Iterable[estimator_pb2.Price]) -> None:
    """Quotes as a table."""
    rows = [
        (
            item.accelerator,
            item.provider,
            item.region or NONE,
            units.word(estimator_pb2.PriceTerm, item.term) if item.term else NONE,
            units.money(item.hourly_price, item.currency_code),
            str(item.min_count or 1),
            item.provenance.date,
            item.price_id,
        )
        for item in found
    ]
    out.table(["GPU", "Provider", "Region", "Term", ">An hour", ">From", "Date", "Price id"], rows)


def show_capacity(out: Output, found: trainer_pb2.GetCapacityResponse) -> None:
    """Devices, the queue and the host."""
    rows = [
        (
            item.id,
            item.display_name,
            f"{units.size(item.free_bytes)} of {units.size(item.total_bytes)}",
            f"{item.free_slots} of {item.slots}",
            ", ".join(name.rpartition("/")[2] for name in item.running_jobs),
        )
        for item in found.devices
    ]
    out.table(["Device", "Name", ">Free memory", ">Free slots", "Running"], rows)
    out.text(f"Queue: {found.queue_length}")
    out.text(f"Host: {host(found)}")


def host(found: trainer_pb2.GetCapacityResponse) -> str:
    """The processor and its measured matrix rates."""
    bf16, fp32 = found.host_bf16_flops_per_second, found.host_fp32_flops_per_second
    measured = f"bf16 {units.rate(bf16)}, fp32 {units.rate(fp32)}" if bf16 or fp32 else "matrix rate not measured yet"
    return f"{found.host_cpu_name or 'CPU'}, {measured}"
