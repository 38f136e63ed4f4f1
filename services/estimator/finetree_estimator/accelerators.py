# SPDX-License-Identifier: Apache-2.0
"""The accelerators of the catalogue, from the package's data file, found by name."""

from dataclasses import dataclass
from functools import cache

from finetree_estimator.names import GIB, UnknownNameError, nearest_names, slug, split, table


@dataclass(frozen=True, slots=True)
class AcceleratorEntry:
    """An accelerator; rates in FLOP/s (0 when unknown), memory in bytes but for the class it is sold as."""

    name: str
    display_name: str
    architecture: str
    compute_capability: str
    marketed_gb: float
    usable_bytes: int
    bandwidth: float
    dense_flops: float
    fp32_flops: float
    native_bf16: bool
    training_flops: float
    """Rate seen in training, recomputation counted, or the typical share of the peak of its class."""
    measured: bool
    """Whether the rate was seen on this very accelerator."""
    watts: float
    aliases: tuple[str, ...]
    source: str
    date: str


@cache
def accelerators() -> tuple[AcceleratorEntry, ...]:
    """All accelerators in the order of their names."""
    return tuple(sorted(map(_accelerator, table("accelerators.csv")), key=lambda entry: entry.name))


def accelerator(name: str) -> AcceleratorEntry:
    """The accelerator with this name or alias; case, blanks and underscores do not matter. Raises UnknownNameError."""
    entry = _accelerator_index().get(slug(name))
    if entry is None:
        raise UnknownNameError(name, nearest_names(slug(name), (a.name for a in accelerators())))
    return entry


@cache
def _accelerator_index() -> dict[str, AcceleratorEntry]:
    index: dict[str, AcceleratorEntry] = {}
    for entry in accelerators():
        for name in (entry.name, entry.display_name, *entry.aliases):
            index.setdefault(slug(name), entry)
    return index


def _accelerator(row: dict[str, str]) -> AcceleratorEntry:
    peak = row["bf16_dense_tflops"] or row["fp16_dense_tflops"] or "0"
    return AcceleratorEntry(
        name=row["name"],
        display_name=row["display_name"],
        architecture=row["architecture"],
        compute_capability=row["compute_capability"],
        marketed_gb=float(row["marketed_memory_gb"]),
        usable_bytes=round(float(row["usable_gib"]) * GIB),
        bandwidth=float(row["bandwidth_gb_s"] or 0) * 1e9,
        dense_flops=float(peak) * 1e12,
        fp32_flops=float(row["fp32_tflops"] or 0) * 1e12,
        native_bf16=row["native_bf16"] == "1",
        training_flops=float(row["training_tflops"]) * 1e12,
        measured=row["training_evidence"] == "published",
        watts=float(row["watts"]),
        aliases=split(row["aliases"]),
        source=row["source"],
        date=row["date"],
    )
