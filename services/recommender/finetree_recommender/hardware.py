# SPDX-License-Identifier: Apache-2.0
"""What a request says it would train on: names in any spelling, and names whose memory is another than was told."""

import difflib
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from finetree_api.types.v1 import run_spec_pb2 as rs

from finetree_recommender.estimates import Accelerator, Catalogue
from finetree_recommender.pack import Pack
from finetree_recommender.rules import MemoryClass
from finetree_recommender.trace import Caution

_MAKERS = {"nvidia", "geforce", "tesla", "amd", "instinct", "radeon", "intel", "apple", "gpu", "graphics", "card"}
# What follows a name where one card is sold with several memories: "-ti", "-16gb", "-pcie".
_SIBLING = re.compile(r"(-ti)?(-super)?(-pcie)?(-\d+gb)?(-pcie)?")
_NEAREST = 3


@dataclass(frozen=True, slots=True)
class Device:
    """Hardware as it was understood. Memory in GB as marketed, of one device."""

    hardware: rs.Hardware
    """What the recipe runs on: the request's, with the accelerator that its name and memory mean."""
    gb: float | None = None
    gate_gb: float | None = None
    """Memory that the gate reads: of one device, or of all where everything is sharded among them."""
    entry: Accelerator | None = None
    """The catalogue's; None on a CPU and where only the memory is known."""
    cautions: tuple[Caution, ...] = ()


def read_device(hardware: rs.Hardware, pack: Pack, catalogue: Catalogue) -> Device:
    """Understand a request's hardware with the estimator's catalogue (empty when that cannot be asked)."""
    return _read(hardware.SerializeToString(deterministic=True), pack, catalogue)


@lru_cache(maxsize=4096)
def _read(raw: bytes, pack: Pack, catalogue: Catalogue) -> Device:
    """Kept by the message's bytes: few kinds of hardware are asked about, and each is looked for in the catalogue."""
    hardware = rs.Hardware.FromString(raw)
    kind = hardware.WhichOneof("device")
    if kind == "accelerator":
        found = _named(hardware, pack, catalogue)
    elif kind == "unknown_accelerator":
        found = _told(hardware, pack, catalogue)
    else:
        return Device(hardware)
    devices = max(1, hardware.count) if hardware.sharding == rs.SHARDING_FULL else 1
    gate_gb = found.gb * devices if found.gb is not None else None
    return Device(found.hardware, found.gb, gate_gb, found.entry, found.cautions)


def canonical(name: str) -> str:
    """A name without maker, letter case, blanks and punctuation: "NVIDIA GeForce RTX4090" becomes "rtx-4090"."""
    words = [word for word in re.findall(r"[a-z]+|\d+", name.casefold()) if word not in _MAKERS]
    return re.sub(r"(\d)-gb\b", r"\1gb", "-".join(words))


@lru_cache(maxsize=4096)
def memory_class(pack: Pack, gb: float) -> MemoryClass:
    """The playbook's class of a memory size in GB; up to five percent short of a class still counts."""
    tolerated = gb * (1 + pack.rules.gate.tolerance.value)
    return pack.rules.gate.classes[max(0, bisect_right(_lows(pack), tolerated) - 1)]


@lru_cache(maxsize=64)
def memory_classes(pack: Pack) -> Mapping[str, MemoryClass]:
    """The playbook's classes by what they are called in answers."""
    return {item.key: item for item in pack.rules.gate.classes}


@lru_cache(maxsize=64)
def _lows(pack: Pack) -> tuple[float, ...]:
    """Where the classes begin; a loaded pack's follow each other without a gap."""
    return tuple(item.low for item in pack.rules.gate.classes)


def _named(hardware: rs.Hardware, pack: Pack, catalogue: Catalogue) -> Device:
    entry = _find(hardware.accelerator, catalogue)
    if entry is None:
        known = (i for i in pack.rules.gate.accelerators if canonical(hardware.accelerator).startswith(i.prefix))
        return Device(hardware, next((item.gb for item in known), None))
    return Device(hardware, entry.marketed_gb, entry=entry, cautions=tuple(_other_readings(entry, pack, catalogue)))


def _other_readings(entry: Accelerator, pack: Pack, catalogue: Catalogue) -> Iterator[Caution]:
    """Cards of nearly the same name and another class of memory."""
    ours = memory_class(pack, entry.marketed_gb)
    others = [i for i in _siblings(entry.name, catalogue) if memory_class(pack, i.marketed_gb) is not ours]
    if others:
        words = " and ".join(_words(item) for item in others)
        text = f"{_words(entry)} is what the name means; near it are {words}: say how much memory there is if in doubt"
        yield Caution("HARDWARE_NAME_AMBIGUOUS", text, ours.id)


def _told(hardware: rs.Hardware, pack: Pack, catalogue: Catalogue) -> Device:
    """A memory, and perhaps a name: the memory is trusted."""
    gb, name = hardware.unknown_accelerator.marketed_memory_gb, hardware.unknown_accelerator.name
    if not name.strip() or not catalogue.accelerators:
        return Device(hardware, gb)
    entry = _find(name, catalogue)
    if entry is not None and _same(entry.marketed_gb, gb, pack):
        return _as(hardware, entry)
    rule_id = memory_class(pack, gb).id
    siblings = [item for item in _siblings(canonical(name), catalogue) if _same(item.marketed_gb, gb, pack)]
    if siblings:
        has = f"{_words(entry)} is the card of that name" if entry is not None else f"no card is named {name!r} alone"
        text = f"{has}; with {gb:g} GB it is the {siblings[0].display_name}, and was taken as that"
        return _as(hardware, siblings[0], Caution("HARDWARE_NAME_MISLEADING", text, rule_id))
    if entry is not None:
        text = f"the name means {_words(entry)}, {gb:g} GB were told: the memory was trusted over the name"
        return Device(hardware, gb, entry=entry, cautions=(Caution("HARDWARE_NAME_MISLEADING", text, rule_id),))
    near = difflib.get_close_matches(canonical(name), [i.name for i in catalogue.entries()], _NEAREST)
    pointer = f"; did you mean {', '.join(near)}?" if near else ""
    text = f"no accelerator {name!r} is known{pointer}: its {gb:g} GB count, and nothing else of it"
    return Device(hardware, gb, cautions=(Caution("HARDWARE_NAME_UNKNOWN", text, rule_id),))


def _as(hardware: rs.Hardware, entry: Accelerator, *cautions: Caution) -> Device:
    found = rs.Hardware()
    found.CopyFrom(hardware)
    found.accelerator = entry.name
    return Device(found, entry.marketed_gb, entry=entry, cautions=cautions)


def _find(name: str, catalogue: Catalogue) -> Accelerator | None:
    return catalogue.accelerators.get(name.casefold()) or catalogue.accelerators.get(canonical(name))


def _siblings(name: str, catalogue: Catalogue) -> list[Accelerator]:
    """Cards whose name goes on where this one ends, the shortest name first."""
    found = [
        item
        for item in catalogue.entries()
        if item.name.startswith(f"{name}-") and _SIBLING.fullmatch(item.name.removeprefix(name))
    ]
    return sorted(found, key=lambda item: (len(item.name), item.name))


def _same(ours: float, told: float, pack: Pack) -> bool:
    return abs(ours - told) <= pack.rules.gate.tolerance.value * ours


def _words(entry: Accelerator) -> str:
    return f"{entry.display_name} ({entry.marketed_gb:g} GB)"
