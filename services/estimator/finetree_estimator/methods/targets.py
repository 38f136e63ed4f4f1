# SPDX-License-Identifier: Apache-2.0
"""Target modules: which projections of a model carry an adapter, by preset or by name."""

import re
from collections.abc import Callable

from finetree_estimator.shapes.architecture import LayerKind, Linear, Shape, width
from finetree_estimator.shapes.projections import (
    ATTENTION_ROLES,
    LATENT_ROLES,
    LAYOUTS,
    LLAMA,
    MISREAD_MLPS,
    MLP_ROLES,
    Role,
    ends_with,
    roles_of,
)

PRESET_ROLES: dict[str, frozenset[Role]] = {
    "all-linear": ATTENTION_ROLES | MLP_ROLES,
    "attention": ATTENTION_ROLES,
    # A projection that holds queries and values together with keys cannot be adapted in part.
    "query-value": frozenset({Role.QUERY, Role.VALUE, Role.QKV}),
    "mlp": MLP_ROLES,
}
"""Projections of each target preset; routers, the output head and layers' own inputs are in none, experts only when
asked for."""
PRESETS: dict[str, tuple[str, ...]] = {
    preset: tuple(path.rpartition(".")[2] for path, role in LLAMA.attention + LLAMA.mlp if role in roles)
    for preset, roles in PRESET_ROLES.items()
}
"""Module names of each preset in a Llama."""
_OF_ONE_LAYER = re.compile(r"(?:.*\.)?(?:layers|h|blocks)\.(\d+)\.(.+)")
"""A module of one layer, by transformers' names of the list of decoder layers."""
SAME_INPUT = {
    Role.KEY: Role.QUERY,
    Role.VALUE: Role.QUERY,
    Role.QKV: Role.QUERY,
    Role.OUTPUT_GATE: Role.QUERY,
    Role.UP: Role.GATE,
    Role.GATE_UP: Role.GATE,
}
"""Projections that read what another one reads."""


class UnknownTargetError(ValueError):
    """A target module that the shape has no projection for; `name` is the module's."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def preset_targets(shape: Shape, preset: str, *, experts: bool = False) -> tuple[str, ...]:
    """Module names of a preset in this model, in forward order; the stacked experts' only where asked for.

    A name is as much of the path's end as tells roles apart ("attn.c_proj" and "mlp.c_proj"). Empty where the model has
    no such module: the MLPs of most mixtures are experts and nothing else, or have names that PEFT misreads.
    """
    parts = [part for kind in shape.layer_kinds for part in kind.linears]
    wanted = [part for part in parts if part.role in PRESET_ROLES[preset] and (experts or not part.routed)]
    if shape.family in MISREAD_MLPS:
        wanted = [part for part in wanted if part.routed or part.role not in MLP_ROLES]
    return tuple(dict.fromkeys(_shortest_name(part, parts) for part in wanted))


def target_linears(shape: Shape, targets: tuple[str, ...]) -> tuple[Linear, ...]:
    """Projections that carry an adapter in a layer of the most common kind that has any. Raises UnknownTargetError."""
    found = adapted(shape, targets)
    having = {first for first, *_ in found}
    kinds = [kind for kind in shape.layer_kinds if kind.first in having]
    common = max(kinds, key=lambda kind: kind.layers).first if kinds else -1
    return tuple(part for first, part, _ in found if first == common)


def mean_of_layers(shape: Shape, targets: tuple[str, ...], of: Callable[[tuple[Linear, ...]], float]) -> float:
    """Mean over all layers of what is said of the projections that carry an adapter in a layer.

    Raises UnknownTargetError.
    """
    found: dict[int, list[Linear]] = {}
    for first, part, _ in adapted(shape, targets):
        found.setdefault(first, []).append(part)
    layers = {kind.first: kind.layers for kind in shape.layer_kinds}
    return sum(layers[first] * of(tuple(parts)) for first, parts in found.items()) / shape.layers


def adapted(shape: Shape, targets: tuple[str, ...]) -> tuple[tuple[int, Linear, int], ...]:
    """Projections that carry an adapter: the first layer of their kind, themselves, and in how many layers of it.

    A target is a module's path or the end of one ("q_proj", "mlp.c_proj"), with a layer's number in front for that
    layer alone ("model.layers.0.self_attn.q_proj"). Raises UnknownTargetError.
    """
    chosen: dict[tuple[int, str, Role], tuple[Linear, set[int]]] = {}
    for target in targets:
        name, only = _split(target)
        found = False
        for kind in shape.layer_kinds:
            if only is not None and only not in kind.places:
                continue
            layers = kind.places if only is None else (only,)
            for part in _named(shape, kind, name):
                chosen.setdefault((kind.first, part.name, part.role), (part, set()))[1].update(layers)
                found = True
        if not found:
            raise UnknownTargetError(target)
    return tuple((first, part, len(layers)) for (first, *_), (part, layers) in chosen.items())


def used_copies(shape: Shape, linear: Linear) -> int:
    """Copies of a projection that a token goes through: the chosen experts, or one."""
    return max(1, shape.active_experts) if linear.routed else 1


def _split(target: str) -> tuple[str, int | None]:
    """A module's name and, where the target names one, its layer."""
    match = _OF_ONE_LAYER.fullmatch(target)
    return (match[2], int(match[1])) if match else (target, None)


def _named(shape: Shape, kind: LayerKind, name: str) -> list[Linear]:
    """Projections of a layer that a name means. Stacked experts are parameters, found only by more than a last name."""
    own = [part for part in kind.linears if ends_with(part.name, name) and ("." in name or not part.routed)]
    if own or shape.family in LAYOUTS:
        return own
    # The family is unknown: a name of any other family says what the module computes.
    known = roles_of(name)
    roles = [role for role in Role if role in known and _possible(role, shape)]
    return [Linear(name, role, *width(shape, role, shape.intermediate)) for role in roles]


def _possible(role: Role, shape: Shape) -> bool:
    """A mixture's MLP is stacked experts; a plain MLP has no gate, and few models have inputs of layers.

    Latents and convolutions have names of their own also where the family is unknown.
    """
    if role in LATENT_ROLES or role is Role.MIXED:
        return False
    if role in ATTENTION_ROLES:
        return True
    if role not in MLP_ROLES:
        return bool(shape.layer_inputs)
    return shape.experts == 0 and (shape.gated or role not in (Role.GATE, Role.GATE_UP))


def _shortest_name(part: Linear, every: list[Linear]) -> str:
    """As much of the end of a module's path as tells its role apart from the others'."""
    path = part.name.split(".")
    for length in range(2 if part.routed else 1, len(path)):
        name = ".".join(path[-length:])
        alike = [other for other in every if ends_with(other.name, name) and other.routed == part.routed]
        if all(other.role is part.role for other in alike):
            return name
    return part.name
