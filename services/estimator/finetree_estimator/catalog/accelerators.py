# SPDX-License-Identifier: Apache-2.0
"""Accelerators of the catalog: read from the package's data files, found by any usual spelling of the name."""

import re
from dataclasses import dataclass
from functools import cache

from finetree_runtime.runspec.device_names import UNSUPPORTED, Named, by_name, canonical

from finetree_estimator import constants as c
from finetree_estimator.catalog.names import GIB, MIB, UnknownNameError, nearest_names, split, table

LINK_SHARE = 0.8
"""Of a link's rate that a copy between devices gets (github:stas00/ml-engineering network/README.md expects 80 % and
measured 88 % on NVLink 4)."""
BF16_CAPABILITY = (8, 0)
"""First compute capability that multiplies bfloat16 (CUDA C++ Programming Guide, arithmetic instructions)."""
INT8_CAPABILITY = (7, 2)
"""First compute capability whose tensor cores multiply 8-bit integers; the dp4a instruction of 6.1 is no tensor core
(CUDA C++ Programming Guide, warp matrix functions)."""


@dataclass(frozen=True, slots=True)
class AcceleratorEntry:
    """An accelerator; rates in FLOP/s (0 where unknown), memory in bytes except `marketed_gb`."""

    name: str
    display_name: str
    vendor: str
    architecture: str
    segment: str
    """Market segment: geforce, laptop, workstation, inference or low-power (servers, GDDR), hbm, pcie, sxm."""
    compute_capability: str
    marketed_gb: float
    """0 where memory is shared with the processor."""
    usable_bytes: int
    """Total memory that PyTorch reports; 0 for unsupported accelerators."""
    bandwidth: float
    cache_bytes: float
    """Size of the L2 cache; 0 where unknown."""
    dense_flops: float
    """Rate of 16-bit tensor cores, dense, with float32 accumulation; 0 without tensor cores."""
    fp32_flops: float
    training_flops: float
    """Rate of the matrix products of training: fitted on published runs, a share of a measured matrix product's rate,
    or the typical share of the peak of its class."""
    measured: bool
    """Whether the rate was fitted on training runs on this accelerator."""
    products_measured: bool
    """Whether the rate follows from matrix products measured on this accelerator."""
    link_bandwidth: float
    """Bytes per second between two devices of a machine, in one direction."""
    network_gbits: float
    """Gbit/s of the network of a usual machine with such links, in one direction; 0 where none is usual."""
    watts: float
    aliases: tuple[str, ...]
    source: str
    date: str

    @property
    def native_bf16(self) -> bool:
        """Whether it multiplies bfloat16."""
        return _capability(self.compute_capability) >= BF16_CAPABILITY

    @property
    def native_int8(self) -> bool:
        """Whether its tensor cores multiply 8-bit integers."""
        return self.dense_flops > 0 and _capability(self.compute_capability) >= INT8_CAPABILITY

    @property
    def grouped_products(self) -> bool:
        """Whether torch has a kernel for grouped products on it, rather than a loop."""
        return _capability(self.compute_capability)[0] in c.GROUPED_CAPABILITIES

    @property
    def unsupported(self) -> str:
        """Reason why it is not supported; empty where it is."""
        return UNSUPPORTED.get(self.vendor, "")


@cache
def accelerators() -> tuple[AcceleratorEntry, ...]:
    """All accelerators by name, unsupported ones included."""
    return tuple(sorted(map(_accelerator, table("accelerators.csv")), key=lambda entry: entry.name))


@cache
def supported() -> tuple[AcceleratorEntry, ...]:
    """Supported accelerators by name."""
    return tuple(entry for entry in accelerators() if not entry.unsupported)


def accelerator(name: str) -> AcceleratorEntry:
    """Look up an accelerator by a name as people, nvidia-smi or torch write it. Raises UnknownNameError.

    Where a GPU is sold with several memory sizes, the size may follow the name ("RTX 3060 8GB").
    """
    entry = find(name)
    if entry is None:
        raise UnknownNameError(name, nearest_names(name, (entry.name for entry in supported())))
    return entry


def find(name: str) -> AcceleratorEntry | None:
    """Look up an accelerator by any spelling of its name; None where there is none."""
    # Most names are written as the catalog does, and need no reading.
    return _own_names().get(name) or _index().get(canonical(name))


def other_memories(name: str) -> tuple[AcceleratorEntry, ...]:
    """Other memory sizes that a name without a size may mean ("A100"), smallest first. Raises UnknownNameError.

    Empty for a name exactly as in the catalog.
    """
    entry = accelerator(name)
    if name == entry.name:
        return ()
    words = canonical(name)
    stated = {f"{entry.marketed_gb:g}", f"{entry.marketed_gb:g}gb", "laptop"} & set(words.split("-"))
    if stated or words == canonical(entry.name):
        return ()
    alike = [other for other in supported() if _series(other) == _series(entry)]
    # Prefers the variant for the same slot.
    alike.sort(key=lambda other: other.name.endswith("pcie") == entry.name.endswith("pcie"))
    found = {other.marketed_gb: other for other in alike if other.marketed_gb != entry.marketed_gb}
    return tuple(found[size] for size in sorted(found))


def _series(entry: AcceleratorEntry) -> str:
    """Name of an accelerator without memory size and slot."""
    return re.sub(r"-(\d+gb|pcie)\b", "", entry.name)


@cache
def _own_names() -> dict[str, AcceleratorEntry]:
    """Entries by the catalog's own name and by the maker's."""
    return {name: entry for entry in accelerators() for name in (entry.display_name, entry.name)}


@cache
def _index() -> dict[str, AcceleratorEntry]:
    """Entries by canonical name."""
    named = (
        (Named((entry.name, entry.display_name, *entry.aliases), entry.marketed_gb), entry) for entry in accelerators()
    )
    return by_name(named)


def _accelerator(row: dict[str, str]) -> AcceleratorEntry:
    vendor = row["vendor"]
    tensor, fp32 = float(row["tensor_tflops"] or 0), float(row["fp32_tflops"] or 0)
    training = row["training_tflops"]
    if not training:
        share = 0.0 if vendor in UNSUPPORTED else _share(row["architecture"], row["segment"])
        training = str(share * (tensor or fp32))
    return AcceleratorEntry(
        name=row["name"],
        display_name=row["display_name"],
        vendor=vendor,
        architecture=row["architecture"],
        segment=row["segment"],
        compute_capability=row["compute_capability"],
        marketed_gb=float(row["marketed_memory_gb"]),
        usable_bytes=round(float(row["usable_gib"] or 0) * GIB),
        bandwidth=float(row["bandwidth_gb_s"] or 0) * 1e9,
        cache_bytes=float(row["l2_mb"] or 0) * MIB,
        dense_flops=tensor * 1e12,
        fp32_flops=fp32 * 1e12,
        training_flops=float(training) * 1e12,
        measured=row["training_evidence"] == "published",
        products_measured=row["training_evidence"] == "products",
        link_bandwidth=LINK_SHARE * _links()[row["link"]] if row["link"] else 0.0,
        network_gbits=_networks().get(row["link"], 0.0),
        watts=float(row["watts"] or 0),
        aliases=split(row["aliases"]),
        source=row["source"],
        date=row["date"],
    )


@cache
def _links() -> dict[str, float]:
    """Bytes per second in one direction, by link name."""
    return {row["name"]: float(row["gb_s"]) * 1e9 for row in table("links.csv")}


@cache
def _networks() -> dict[str, float]:
    """Gbit/s of a usual machine's network, by the name of the links inside."""
    return {row["name"]: float(row["machine_gbit_s"] or 0) for row in table("links.csv")}


@cache
def _rate_classes() -> dict[tuple[str, str], float]:
    return {(row["architecture"], row["segment"]): float(row["share"]) for row in table("rate_classes.csv")}


def _share(architecture: str, segment: str) -> float:
    """Typical share of the peak rate that training reaches in a class; segment `*` means all others."""
    classes = _rate_classes()
    return classes.get((architecture, segment)) or classes[architecture, "*"]


def _capability(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")) if text else (0,)
