# SPDX-License-Identifier: Apache-2.0
"""Names of accelerators as people, nvidia-smi or torch write them, matched alike by every service."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

T = TypeVar("T")

UNSUPPORTED = {
    "AMD": "ROCm is not supported yet",
    "AWS": "Trainium and Inferentia are not supported yet",
    "Apple": "Apple's GPUs are not supported yet",
    "Google": "TPUs are not supported yet",
    "Huawei": "Ascend is not supported yet",
    "Intel": "Intel's GPUs and Gaudi are not supported yet",
}
"""Why an accelerator of another vendor cannot be used, by vendor."""

_VENDORS = {
    "AMD": r"amd|radeon|firepro|instinct|rx ?(vega|\d{3,4})|vega|mi ?\d{2,3}[ax]?",
    "AWS": r"trainium ?\d?|inferentia ?\d?|(trn|inf) ?\d",
    "Apple": r"apple|mac ?book|imac|mac (mini|studio|pro)|m ?[1-9]( (pro|max|ultra))?|mps",
    "Google": r"tpu.*",
    "Huawei": r"huawei|ascend",
    "Intel": r"intel|arc|iris|gaudi ?\d?|max 1\d{3}",
}
"""Patterns of whole words in lower case that name the vendor of an accelerator."""
_COUNTED = (
    re.compile(r"\s*(?P<count>\d{1,3})\s*[x\u00d7*]\s*(?P<name>\S.*)", re.IGNORECASE),
    re.compile(r"(?P<name>.*?\S)(?:\s+\(?|(?<=\d))[x\u00d7*]\s*(?P<count>\d{1,3})\)?\s*", re.IGNORECASE),
)
"""A count before or after a name: "4x4090", "2 x A100 80GB", "T4 x2", "L40S (x4)"."""
_SYSTEMS = {
    "a100": (8, "a100-80gb"),
    "a100-40gb": (8, "a100-40gb"),
    "h100": (8, "h100"),
    "h200": (8, "h200"),
    "b200": (8, "b200"),
    "b300": (8, "b300"),
    "station-a100": (4, "a100-80gb"),
}
"""Number and kind of the GPUs of NVIDIA's DGX and HGX systems, by the words after the series (their user guides)."""
_SYSTEM = re.compile(r"(dgx|hgx)-(?P<station>station-)?(?P<letter>[a-z])-(?P<number>\d{3})(?P<memory>-40gb)?(-|$)")
_IGNORED = {"nvidia", "geforce", "tesla", "quadro", "amd", "instinct", "radeon", "intel", "apple", "blackwell"} | {
    "generation",
    "graphics",
    "gpu",
    "card",
    "edition",
    "design",
    "with",
    "google",
    "cloud",
    "aws",
}
"""Words of a name that distinguish no two accelerators of the catalog."""
_SAME = {"mobile": "laptop", "workstation": "", "gib": "gb"}


class Named(NamedTuple):
    """Names of an accelerator, and the memory that may follow them."""

    names: tuple[str, ...]
    """All names, the catalog's first."""
    marketed_gb: float
    """Marketed memory in GB that may follow a name; 0 for memory shared with the CPU."""


def canonical(name: str) -> str:
    """Normalize a name, without vendor, letter case, blanks and punctuation: "NVIDIA GeForce RTX4090" → "rtx-4090"."""
    words = [_SAME.get(word, word) for word in re.findall(r"[a-z]+|\d+", name.lower())]
    kept = [word for word in words if word and word not in _IGNORED]
    return re.sub(r"(\d)-gb\b", r"\1gb", "-".join(kept))


def by_name(entries: Iterable[tuple[Named, T]]) -> dict[str, T]:
    """Index entries by canonical name, with and without their memory; a listed name comes before a derived one."""
    listed: dict[str, tuple[Named, T]] = {}
    for named, entry in entries:
        for name in named.names:
            listed.setdefault(canonical(name), (named, entry))
    index = {key: entry for key, (_, entry) in listed.items()}
    for key, (named, entry) in listed.items():
        for variant in _variants(key, named.marketed_gb):
            index.setdefault(variant, entry)
    return index


def counted(name: str) -> tuple[int, str]:
    """Split a count from a name: "4x RTX 4090" is (4, "RTX 4090"), "DGX A100" (8, "a100-80gb"); 0 without a count."""
    system = _SYSTEM.match(canonical(name))
    if system is not None:
        station, letter, number, memory = (system[part] or "" for part in ("station", "letter", "number", "memory"))
        if (known := _SYSTEMS.get(f"{station}{letter}{number}{memory}")) is not None:
            return known
    found = next((match for pattern in _COUNTED if (match := pattern.fullmatch(name))), None)
    return (int(found["count"]), found["name"]) if found is not None else (0, name)


def unsupported(name: str) -> str:
    """Say why an accelerator of an unknown name cannot be used, by its vendor; empty where the name shows none."""
    words = " ".join(re.findall(r"[a-z]+|\d+", name.lower()))
    vendors = (vendor for vendor, pattern in _VENDORS.items() if re.search(rf"\b({pattern})(?= |$)", words))
    return next((UNSUPPORTED[vendor] for vendor in vendors), "")


def _variants(key: str, marketed_gb: float) -> Iterator[str]:
    """Yield a name with and without its memory, the unit, and the word of the series."""
    memory = f"{marketed_gb:g}gb"
    keys = [key] if memory in key or not marketed_gb else [key, f"{key}-{memory}"]
    keys += [key.removesuffix("gb") for key in keys if key.endswith("gb")]  # "A100 40"
    for name in keys:
        yield name
        yield re.sub(r"^([gr]tx|rx)-(?=\d)", "", name)
