# SPDX-License-Identifier: Apache-2.0
"""Hardware of a request: names in any spelling, and names whose memory differs from the stated one."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from finetree_api.types.v1 import hardware_pb2
from finetree_runtime.runspec import device_names
from finetree_runtime.runspec.device_names import canonical

from finetree_recommender.estimator.values import Accelerator, Catalog
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.rule_pack.schema.rules import MemoryClass
from finetree_recommender.trace import Caution

# Suffixes of a name where one card, or one series, is sold with several memories: "-ti", "-16gb", "-pcie", "-ada".
_SIBLING = re.compile(r"(-ti)?(-super)?(-ada)?(-pcie)?(-\d+gb)?(-pcie)?")
_NEAREST = 3
NOT_SUPPORTED = "ACCELERATOR_NOT_SUPPORTED"
"""Code of the caution that the answer is for a supported GPU with the accelerator's memory."""


@dataclass(frozen=True, slots=True)
class Device:
    """Hardware as it was understood. Memory in GB as marketed, of one device."""

    hardware: hardware_pb2.Hardware
    """Hardware of the recipe: the request's, with the accelerator that its name and memory mean."""
    gb: float | None = None
    gate_gb: float | None = None
    """Memory that the gate reads: of one device, or of all where the model is sharded across them."""
    entry: Accelerator | None = None
    """Entry of the catalog; None on a CPU and where only the memory is known."""
    cautions: tuple[Caution, ...] = ()
    unsupported: str = ""
    """Name of an accelerator that is not supported; empty where it is. The other fields are of its memory then."""

    @property
    def capability(self) -> float | None:
        """CUDA compute capability; None where it is unknown or there is none."""
        return self.entry.capability if self.entry is not None else None


def read_device(hardware: hardware_pb2.Hardware, pack: Pack, catalog: Catalog) -> Device:
    """Understand a request's hardware with the estimator's catalog (empty when that cannot be asked)."""
    kind = hardware.WhichOneof("device")
    if kind == "accelerator":
        found = _named(hardware, pack, catalog)
    elif kind == "unknown_accelerator":
        found = _told(hardware, pack, catalog)
    else:
        return Device(hardware)
    devices = max(1, hardware.count) if hardware.sharding == hardware_pb2.SHARDING_FULL else 1
    gate_gb = found.gb * devices if found.gb is not None else None
    return replace(found, gate_gb=gate_gb)


def memory_class(pack: Pack, gb: float) -> MemoryClass:
    """The pack's class of a memory size in GB; up to five percent short of a class still counts."""
    tolerated = gb * (1 + pack.rules.gate.tolerance.value)
    # A loaded pack's classes follow each other without a gap, the smallest first.
    return [item for item in pack.rules.gate.classes if item.low <= tolerated or item.low == 0][-1]


def _named(hardware: hardware_pb2.Hardware, pack: Pack, catalog: Catalog) -> Device:
    name = hardware.accelerator
    entry, count, plain = _looked_up(name, catalog)
    if unsupported := _unsupported(name, entry):
        return _foreign(hardware, entry.marketed_gb if entry is not None else 0.0, unsupported, pack=pack)
    if entry is None:
        return Device(hardware, _by_the_pack(canonical(plain), pack))
    return _as(
        hardware,
        entry,
        count,
        *_counts(hardware, count, pack),
        *_other_readings(plain, entry, pack, catalog=catalog),
    )


def _by_the_pack(name: str, pack: Pack) -> float | None:
    """Memory of a card by the pack's own list, which has no cards of laptops; None where it is not listed."""
    known = (item for item in pack.rules.gate.accelerators if name.startswith(canonical(item.prefix)))
    return next((item.gb for item in known if "laptop" not in name), None)


def _looked_up(name: str, catalog: Catalog) -> tuple[Accelerator | None, int, str]:
    """Look up a name: its entry, the count that it states (0 where none), and the name without the count."""
    entry = _find(name, catalog)
    count, plain = device_names.counted(name) if entry is None else (0, name)
    return (_find(plain, catalog), count, plain) if count else (entry, 0, name)


def _unsupported(name: str, entry: Accelerator | None) -> str:
    """Name of an accelerator and why it is not supported; empty where it is, or where that is unknown."""
    if entry is not None:
        return f"{entry.display_name}: {entry.unsupported}" if entry.unsupported else ""
    reason = device_names.unsupported(name)
    return f"{name}: {reason}" if reason else ""


def _foreign(hardware: hardware_pb2.Hardware, gb: float, unsupported: str, *, pack: Pack) -> Device:
    """Read an accelerator that is not supported: the answer is for a supported GPU with its memory."""
    name, _, _ = unsupported.partition(":")
    found = hardware_pb2.Hardware()
    found.CopyFrom(hardware)
    found.ClearField("accelerator")
    found.ClearField("unknown_accelerator")
    text = f"{unsupported}; this suite trains on NVIDIA GPUs and on CPUs"
    if not gb:
        text += ". State the memory (hardware.unknown_accelerator) for an answer for a GPU of that size"
        return Device(found, cautions=(Caution(NOT_SUPPORTED, text, pack.rules.gate.unknown.id),), unsupported=name)
    text += f". The answer and its hours are for an NVIDIA GPU with {gb:g} GB"
    found.unknown_accelerator.CopyFrom(hardware_pb2.UnknownAccelerator(marketed_memory_gb=gb, name=name))
    return Device(found, gb, cautions=(Caution(NOT_SUPPORTED, text, memory_class(pack, gb).id),), unsupported=name)


def _counts(hardware: hardware_pb2.Hardware, count: int, pack: Pack) -> Iterator[Caution]:
    """Whether the name states another number of devices than the request."""
    if count and hardware.count and count != hardware.count:
        text = f"the name {hardware.accelerator!r} says {count} devices; hardware.count, {hardware.count}, is used"
        yield Caution("INPUTS_DISAGREE", text, pack.rules.gate.sharded.id)


def _other_readings(name: str, entry: Accelerator, pack: Pack, *, catalog: Catalog) -> Iterator[Caution]:
    """Cards of similar names that have another class of memory or other number formats."""
    ours = memory_class(pack, entry.marketed_gb)
    if "quadro" in name.casefold():  # which tells those of 2018 from those of later series
        return
    near = {item.name: item for start in (entry.name, name) for item in _siblings(start, catalog)}
    others = [
        item
        for item in near.values()
        if memory_class(pack, item.marketed_gb) is not ours or item.native_bf16 is not entry.native_bf16
    ]
    if others:
        words = " and ".join(_words(item) for item in others[:_NEAREST])
        text = f"the name means {_words(entry)}; similar names are {words}: state the memory if in doubt"
        yield Caution("HARDWARE_NAME_AMBIGUOUS", text, ours.id)


def _told(hardware: hardware_pb2.Hardware, pack: Pack, catalog: Catalog) -> Device:
    """Read a memory and perhaps a name; where they differ the memory is used."""
    gb, name = hardware.unknown_accelerator.marketed_memory_gb, hardware.unknown_accelerator.name.strip()
    entry, count, plain = _looked_up(name, catalog)
    if unsupported := _unsupported(name, entry):
        return _foreign(hardware, gb, unsupported, pack=pack)
    if not name or not catalog.accelerators:
        return Device(hardware, gb)
    if entry is not None and _same(entry.marketed_gb, gb, pack):
        return _as(hardware, entry, count)
    rule_id = memory_class(pack, gb).id
    siblings = [item for item in _siblings(plain, catalog) if _same(item.marketed_gb, gb, pack)]
    if siblings:
        has = f"{_words(entry)} is the card of that name" if entry is not None else f"no card is named {name!r} alone"
        text = f"{has}; with {gb:g} GB it is the {siblings[0].display_name}, which is used"
        return _as(hardware, siblings[0], count, Caution("HARDWARE_NAME_MISLEADING", text, rule_id))
    if entry is not None:
        text = f"the name means {_words(entry)}, but {gb:g} GB were given: the memory is used, not the name"
        return Device(hardware, gb, entry=entry, cautions=(Caution("HARDWARE_NAME_MISLEADING", text, rule_id),))
    near = difflib.get_close_matches(canonical(plain), [i.name for i in catalog.entries], _NEAREST)
    pointer = f"; did you mean {', '.join(near)}?" if near else ""
    text = f"no accelerator {name!r} is known{pointer}: only its {gb:g} GB are used"
    return Device(hardware, gb, cautions=(Caution("HARDWARE_NAME_UNKNOWN", text, rule_id),))


def _as(hardware: hardware_pb2.Hardware, entry: Accelerator, count: int, *cautions: Caution) -> Device:
    """Read an accelerator of the catalog, under its canonical name."""
    found = hardware_pb2.Hardware()
    found.CopyFrom(hardware)
    found.accelerator = entry.name or hardware.accelerator
    if count and not hardware.HasField("count"):
        found.count = count
    return Device(found, entry.marketed_gb, entry=entry, cautions=cautions)


def _find(name: str, catalog: Catalog) -> Accelerator | None:
    return catalog.accelerators.get(name.casefold()) or catalog.accelerators.get(canonical(name))


def _siblings(name: str, catalog: Catalog) -> list[Accelerator]:
    """Cards whose name continues this one, the shortest name first."""
    start = canonical(name)
    found = [
        item
        for spelling, item in catalog.trainable
        if spelling.startswith(f"{start}-") and _SIBLING.fullmatch(spelling.removeprefix(start))
    ]
    return sorted(found, key=lambda item: (len(item.name), item.name))


def _same(ours: float, told: float, pack: Pack) -> bool:
    return abs(ours - told) <= pack.rules.gate.tolerance.value * ours


def _words(entry: Accelerator) -> str:
    return f"{entry.display_name} ({entry.marketed_gb:g} GB)"
