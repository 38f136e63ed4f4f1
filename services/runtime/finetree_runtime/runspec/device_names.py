# SPDX-License-Identifier: Apache-2.0
"""Names of accelerators as people, nvidia-smi or torch write them: one reading for every service."""

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
"""Why another maker's accelerator cannot be trained on, by maker."""

_MAKERS = {
    "AMD": r"amd|radeon|firepro|instinct|rx ?(vega|\d{3,4})|vega|mi ?\d{2,3}[ax]?",
    "AWS": r"trainium ?\d?|inferentia ?\d?|(trn|inf) ?\d",
    "Apple": r"apple|mac ?book|imac|mac (mini|studio|pro)|m ?[1-9]( (pro|max|ultra))?|mps",
    "Google": r"tpu.*",
    "Huawei": r"huawei|ascend",
    "Intel": r"intel|arc|iris|gaudi ?\d?|max 1\d{3}",
}
"""Words that tell the maker of an accelerator whose name is not known; whole words, in lower case."""
_COUNTED = (
    re.compile(r"\s*(?P<count>\d{1,3})\s*[x\u00d7*]\s*(?P<name>\S.*)", re.IGNORECASE),
    re.compile(r"(?P<name>.*?\S)(?:\s+\(?|(?<=\d))[x\u00d7*]\s*(?P<count>\d{1,3})\)?\s*", re.IGNORECASE),
)
"""How many there are, before or behind a name: "4x4090", "2 x A100 80GB", "T4 x2", "L40S (x4)"."""
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
"""Words of a name that tell no two accelerators of the catalogue apart."""
_SAME = {"mobile": "laptop", "workstation": "", "gib": "gb"}


class Named(NamedTuple):
    """The names of an accelerator."""

    names: tuple[str, ...]
    """The catalogue's first."""
    marketed_gb: float
    """Memory that may follow a name; 0 where it is the machine's own."""


def canonical(name: str) -> str:
    """A name without maker, letter case, blanks and punctuation: "NVIDIA GeForce RTX4090" becomes "rtx-4090"."""
    words = [_SAME.get(word, word) for word in re.findall(r"[a-z]+|\d+", name.lower())]
    kept = [word for word in words if word and word not in _IGNORED]
    return re.sub(r"(\d)-gb\b", r"\1gb", "-".join(kept))


def by_name(entries: Iterable[tuple[Named, T]]) -> dict[str, T]:
    """Entries by canonical name, with their memory behind it or without; what is listed goes before what follows."""
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
    """How many of what a name tells of: "4x RTX 4090" is 4 of "RTX 4090"; 0 where it says no number."""
    found = next((match for pattern in _COUNTED if (match := pattern.fullmatch(name))), None)
    return (int(found["count"]), found["name"]) if found is not None else (0, name)


def unsupported(name: str) -> str:
    """Why an accelerator of an unknown name cannot be trained on, by its maker; empty where the name tells none."""
    words = " ".join(re.findall(r"[a-z]+|\d+", name.lower()))
    told = (maker for maker, pattern in _MAKERS.items() if re.search(rf"\b({pattern})(?= |$)", words))
    return next((UNSUPPORTED[maker] for maker in told), "")


def _variants(key: str, marketed_gb: float) -> Iterator[str]:
    """A name with its memory, with or without the unit, and without the word of the series."""
    memory = f"{marketed_gb:g}gb"
    keys = [key] if memory in key or not marketed_gb else [key, f"{key}-{memory}"]
    keys += [key.removesuffix("gb") for key in keys if key.endswith("gb")]  # "A100 40"
    for name in keys:
        yield name
        yield re.sub(r"^([gr]tx|rx)-(?=\d)", "", name)
