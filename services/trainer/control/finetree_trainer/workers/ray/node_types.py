# SPDX-License-Identifier: Apache-2.0
"""Reads the file of node types: what an autoscaler may bring to the cluster (docs/scale.md)."""

import re
from collections.abc import Mapping, Sequence

from finetree_runtime.config.settings import Size
from finetree_runtime.config.toml_table import TomlTable

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
    content = TomlTable.read("ray_node_types_file", file)
    if not content.values:
        raise content.invalid("", f"{file.name} has no type; a table for each is needed, [NAME]")
    for name in content.values:
        if not _NAME.fullmatch(name):
            raise content.invalid(repr(name[:80]), "a name has letters, digits, '.', '_' and '-', at most 63")
    types = [_type(name, table, settings, required) for name, table in content.tables()]
    for type_ in types:
        if other := _taken_for(type_, types):
            text = f"Ray may start a node of type {other.name} in place of one of it, with other GPUs"
            text = f"{text}; give it a resource of its own, here and in the autoscaler's configuration"
            raise content.invalid(type_.name, text)
    return tuple(types)


def _type(name: str, table: TomlTable, settings: Settings, required: Mapping[str, float]) -> NodeType:
    table.require_known(*_KEYS)
    if missing := [key for key in ("cpus", "memory", "maximum") if key not in table.values]:
        raise table.invalid(missing[0], "is needed")
    cpus, maximum = _count(table, "cpus", least=1), _count(table, "maximum", least=1)
    gpus = _count(table, "gpus") if "gpus" in table.values else 0
    for key in ("accelerator", "gpu_memory"):
        if (key in table.values) != bool(gpus):
            raise table.invalid(key, "goes with gpus, and they with it")
    custom = _resources(table.table("resources"))
    if not covers(custom, required):
        raise table.invalid("resources", "has not what --ray-resources asks of every node")
    cards = []
    if gpus:
        accelerator = _accelerator(table)
        cards = [Card(accelerator.lower(), accelerator, _bytes(table, "gpu_memory"))] * gpus
    devices = devices_of(name, cpus, _bytes(table, "memory"), cards, settings, cpu_name="")
    counted = {"CPU": float(cpus)} | ({"GPU": float(gpus)} if gpus else {}) | custom
    return NodeType(name, counted, tuple(sorted(devices, key=lambda device: device.id == CPU)), maximum)


def _taken_for(type_: NodeType, types: Sequence[NodeType]) -> NodeType | None:
    """Return a type of which Ray may start nodes in place of this one's, and which has other GPUs."""
    for other in types:
        kinds = [{device.kind for device in each.devices if device.id != CPU} for each in (type_, other)]
        if kinds[0] and kinds[0] != kinds[1] and covers(other.resources, type_.resources):
            return other
    return None


def _count(table: TomlTable, key: str, *, least: int = 0) -> int:
    value = table.values[key]
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MOST_NODES:
        raise table.invalid(key, f"is not a whole number from {least} to {MOST_NODES}")
    return value


def _resources(given: TomlTable) -> dict[str, float]:
    for resource, number in given.values.items():
        if resource in _OWN:
            raise given.invalid(resource, "is none of one's own; cpus, gpus and memory have keys of theirs")
        if not isinstance(number, int | float) or isinstance(number, bool) or not 0 < number < MOST_NODES:
            raise given.invalid(resource, "is not a number above 0")
    return {resource: float(number) for resource, number in given.values.items()}


def _bytes(table: TomlTable, key: str) -> int:
    found: int = table.value(key, Size, 0)
    if found <= 0:
        raise table.invalid(key, "is not above 0")
    return found


def _accelerator(table: TomlTable) -> str:
    found = table.values["accelerator"]
    if not isinstance(found, str) or not 0 < len(found) <= 63:
        raise table.invalid("accelerator", "is not the catalog's name of an accelerator, such as a100-80gb")
    return found
