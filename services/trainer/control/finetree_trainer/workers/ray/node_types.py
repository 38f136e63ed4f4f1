# SPDX-License-Identifier: Apache-2.0
"""Reads the file of node types: what an autoscaler may bring to the cluster (docs/scale.md)."""

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from finetree_runtime.config.settings import SettingsError, Size
from finetree_runtime.config.values import convert

from finetree_trainer.scheduling.autoscaling.node_types import NodeType, covers
from finetree_trainer.scheduling.devices import CPU
from finetree_trainer.settings import Settings
from finetree_trainer.workers.ray.nodes import Card, devices_of

_KEYS = ("cpus", "memory", "gpus", "accelerator", "gpu_memory", "resources", "maximum")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_OWN = ("CPU", "GPU", "memory", "object_store_memory")
"""Resources of Ray that have keys of their own, or are nothing that jobs ask for."""
MOST_NODES = 10_000
"""Most nodes of a type: far more than Ray runs in one cluster (2,000 were tried by its makers)."""


def read_node_types(settings: Settings, required: Mapping[str, float]) -> tuple[NodeType, ...]:
    """Read the types; none where no file is named. `required`: the custom resources of `--ray-resources`.

    Raises SettingsError SETTING_INVALID, which names the key, or the line of what is no TOML.
    """
    file = settings.ray_node_types_file
    if file is None:
        return ()
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise _invalid(f"{file.name} cannot be read: {why}") from None
    if not content:
        raise _invalid(f"{file.name} has no type; a table for each is needed, [NAME]")
    types = [_type(name, table, settings, required) for name, table in content.items()]
    for type_ in types:
        _require_apart(type_, types)
    return tuple(types)


def _type(name: str, table: Any, settings: Settings, required: Mapping[str, float]) -> NodeType:
    if not isinstance(table, dict):
        raise _invalid(f"{name}: is not a table")
    if not _NAME.fullmatch(name):
        raise _invalid(f"{name[:80]!r}: a name has letters, digits, '.', '_' and '-', at most 63")
    if unknown := sorted(table.keys() - set(_KEYS)):
        raise _invalid(f"{name}.{unknown[0]}: is none of {', '.join(_KEYS)}")
    if missing := [key for key in ("cpus", "memory", "maximum") if key not in table]:
        raise _invalid(f"{name}.{missing[0]}: is needed")
    cpus, maximum = _count(table, name, "cpus", least=1), _count(table, name, "maximum", least=1)
    gpus = _count(table, name, "gpus") if "gpus" in table else 0
    for key in ("accelerator", "gpu_memory"):
        if (key in table) != bool(gpus):
            raise _invalid(f"{name}.{key}: goes with gpus, and they with it")
    custom = _resources(table.get("resources", {}), f"{name}.resources")
    if not covers(custom, required):
        raise _invalid(f"{name}.resources: has not what --ray-resources asks of every node")
    cards = []
    if gpus:
        accelerator = _text(table["accelerator"], f"{name}.accelerator")
        cards = [Card(accelerator.lower(), accelerator, _bytes(table["gpu_memory"], f"{name}.gpu_memory"))] * gpus
    memory = _bytes(table["memory"], f"{name}.memory")
    devices = devices_of(name, cpus, memory, cards, settings, cpu_name="")
    counted = {"CPU": float(cpus)} | ({"GPU": float(gpus)} if gpus else {}) | custom
    return NodeType(name, counted, tuple(sorted(devices, key=lambda device: device.id == CPU)), maximum)


def _require_apart(type_: NodeType, types: list[NodeType]) -> None:
    """Refuse a type in whose place Ray may start nodes that have other GPUs."""
    for other in types:
        kinds = [{device.kind for device in each.devices if device.id != CPU} for each in (type_, other)]
        if kinds[0] and kinds[0] != kinds[1] and covers(other.resources, type_.resources):
            text = f"{type_.name}: Ray may start a node of type {other.name} in place of one of it, with other GPUs"
            raise _invalid(f"{text}; give it a resource of its own, here and in the autoscaler's configuration")


def _count(table: Mapping[str, Any], name: str, key: str, *, least: int = 0) -> int:
    value = table[key]
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MOST_NODES:
        raise _invalid(f"{name}.{key}: is not a whole number from {least} to {MOST_NODES}")
    return value


def _resources(given: Any, key: str) -> dict[str, float]:
    if not isinstance(given, dict):
        raise _invalid(f"{key}: is not a table")
    for resource, number in given.items():
        if resource in _OWN:
            raise _invalid(f"{key}.{resource}: is none of one's own; cpus, gpus and memory have keys of theirs")
        if not isinstance(number, int | float) or isinstance(number, bool) or not 0 < number < MOST_NODES:
            raise _invalid(f"{key}.{resource}: is not a number above 0")
    return {resource: float(number) for resource, number in given.items()}


def _bytes(raw: Any, key: str) -> int:
    try:
        found: int = convert(Size, raw)
    except ValueError as error:
        raise _invalid(f"{key}: {error}") from None
    if found <= 0:
        raise _invalid(f"{key}: is not above 0")
    return found


def _text(raw: Any, key: str) -> str:
    if not isinstance(raw, str) or not 0 < len(raw) <= 63:
        raise _invalid(f"{key}: is not the catalog's name of an accelerator, such as a100-80gb")
    return raw


def _invalid(text: str) -> SettingsError:
    return SettingsError("SETTING_INVALID", f"ray_node_types_file: {text}")
