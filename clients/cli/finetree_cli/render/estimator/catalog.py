# SPDX-License-Identifier: Apache-2.0
"""The estimator's catalog as text: models, GPUs and prices."""

from collections.abc import Iterable

from finetree_api.estimator.v1 import catalog_pb2

from finetree_cli.output import Output
from finetree_cli.render import units

NONE = "-"


def show_models(out: Output, models: Iterable[catalog_pb2.Model]) -> None:
    """Print models as a table."""
    rows = [(item.name, units.count(item.parameters), item.family, item.license, item.hub_id) for item in models]
    out.table(["Model", ">Parameters", "Family", "License", "Hub id"], rows)


def show_accelerators(out: Output, found: Iterable[catalog_pb2.Accelerator]) -> None:
    """Print GPUs as a table; unsupported ones are marked in place of their usable memory."""
    rows = [
        (
            item.name,
            item.architecture,
            f"{item.marketed_memory_gb:g} GB" if item.marketed_memory_gb else NONE,
            "not supported yet" if item.unsupported else units.size(item.usable_bytes),
            units.rate(item.dense_flops_per_second) if item.dense_flops_per_second else NONE,
            NONE if item.unsupported else "yes" if item.native_bf16 else "no",
            units.money(item.typical_hourly_price) if item.HasField("typical_hourly_price") else NONE,
        )
        for item in found
    ]
    out.table(["GPU", "Architecture", ">Memory", ">Usable", ">16-bit rate", "bf16", ">Per hour"], rows)


def show_prices(out: Output, found: Iterable[catalog_pb2.Price]) -> None:
    """Print prices as a table."""
    rows = [
        (
            item.accelerator,
            item.provider,
            item.region or NONE,
            units.word(catalog_pb2.PriceTerm, item.term) if item.term else NONE,
            units.money(item.hourly_price),
            str(item.min_count or 1),
            item.provenance.date,
            item.price_id,
        )
        for item in found
    ]
    out.table(
        ["GPU", "Provider", "Region", "Term", ">Per hour", ">Min. count", "Date", "Price id"], rows, none="no price"
    )
