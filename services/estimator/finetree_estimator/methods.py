# SPDX-License-Identifier: Apache-2.0
"""The five methods: what each trains, to the parameter, and what it leaves frozen.

Counts are those of PEFT for the same settings (reference: Llama-3.2-3B rank 32 on q and v = 9,175,040).
"""

from dataclasses import dataclass
from functools import lru_cache

from finetree_estimator.shapes import ATTENTION_LINEARS, MLP_LINEARS, SYNONYMS, Linear, Shape, count, linears

PRESETS: dict[str, tuple[str, ...]] = {
    "all-linear": ATTENTION_LINEARS + MLP_LINEARS,
    "attention": ATTENTION_LINEARS,
    "query-value": ("q_proj", "v_proj"),
    "mlp": MLP_LINEARS,
}
"""Projections of each target preset; routers and the output head are in none."""
FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "query_key_value": ("q_proj", "k_proj", "v_proj"),
    "c_attn": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
"""Fused projections and the parts that the shape counts them as."""


class UnknownTargetError(ValueError):
    """A target module that the shape has no projection for; `name` is the module's."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True, slots=True)
class Full:
    """All weights, but for the lowest layers if asked (with them the embeddings below)."""

    frozen_layers: int = 0


@dataclass(frozen=True, slots=True)
class LoraAdapters:
    """Low-rank adapters of the named projections (Hu et al. 2021)."""

    rank: int
    targets: tuple[str, ...]
    dropout: float = 0.0
    weight_decomposed: bool = False


@dataclass(frozen=True, slots=True)
class QuantizedLora:
    """Low-rank adapters on a base of `bits` 4 or 8 (Dettmers et al. 2023)."""

    lora: LoraAdapters
    bits: int = 4
    double: bool = True


@dataclass(frozen=True, slots=True)
class Prefix:
    """Trained keys and values of virtual tokens, without a projection (Li and Liang 2021, as PEFT stores them)."""

    virtual_tokens: int


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """Bottleneck layers: down, non-linearity, up, with both biases; `places` of them in a decoder layer."""

    size: int
    places: int = 1


Method = Full | LoraAdapters | QuantizedLora | Prefix | Bottleneck


def preset_targets(shape: Shape, preset: str) -> tuple[str, ...]:
    """Projections of a preset that the shape has: a plain MLP has no gate."""
    return tuple(linear.name for linear in linears(shape) if linear.name in PRESETS[preset])


@lru_cache(maxsize=1024)
def target_linears(shape: Shape, targets: tuple[str, ...]) -> tuple[Linear, ...]:
    """Projections of a layer that carry an adapter. Raises UnknownTargetError."""
    known = {linear.name: linear for linear in linears(shape)}
    wanted: dict[str, None] = {}
    for target in targets:
        short = target.rpartition(".")[2]
        names = FUSED.get(short, (SYNONYMS.get(short, short),))
        if not set(names) <= known.keys():
            raise UnknownTargetError(target)
        wanted |= dict.fromkeys(names)
    return tuple(known[name] for name in wanted)


@lru_cache(maxsize=1024)
def trainable_parameters(method: Method, shape: Shape) -> int:
    """Parameters that get a gradient."""
    if isinstance(method, Full):
        return count(shape).total - _frozen(method, shape)
    if isinstance(method, QuantizedLora):
        return trainable_parameters(method.lora, shape)
    if isinstance(method, LoraAdapters):
        return shape.layers * sum(_lora(method, linear) for linear in target_linears(shape, method.targets))
    if isinstance(method, Prefix):
        return method.virtual_tokens * 2 * shape.layers * shape.kv_width
    return shape.layers * method.places * (2 * shape.hidden * method.size + method.size + shape.hidden)


def _lora(method: LoraAdapters, linear: Linear) -> int:
    magnitude = linear.d_out if method.weight_decomposed else 0
    return (method.rank * (linear.d_in + linear.d_out) + magnitude) * linear.copies


def _frozen(method: Full, shape: Shape) -> int:
    if method.frozen_layers == 0:
        return 0
    counted = count(shape)
    # The final norm is the one norm outside the layers.
    final = shape.hidden * (2 if shape.norm_bias else 1)
    in_layers = counted.attention + counted.mlp + counted.router + counted.norms - final
    return in_layers * method.frozen_layers // shape.layers + counted.embeddings
