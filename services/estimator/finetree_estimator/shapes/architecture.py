# SPDX-License-Identifier: Apache-2.0
"""Dimensions of a decoder-only transformer, its layers and their projections."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from finetree_estimator.shapes.mixers import FullAttention, LatentAttention, LinearAttention, ShortConvolution
from finetree_estimator.shapes.projections import (
    ATTENTION_ROLES,
    EXPERTS,
    GATED_MLP,
    LATENT_ROLES,
    LAYER_INPUTS,
    Layout,
    Modules,
    Role,
    layout,
)


@dataclass(frozen=True, slots=True)
class Linear:
    """A projection of one decoder layer from `d_in` to `d_out` features, with `copies` for experts.

    `name` is the module's path inside the layer; the projection of all experts is one stacked parameter.
    """

    name: str
    role: Role
    d_in: int
    d_out: int
    copies: int = 1
    routed: bool = False
    """Whether a router selects the copies that a token uses."""

    @property
    def weights(self) -> int:
        """Weights of all copies, without biases."""
        return self.d_in * self.d_out * self.copies


@dataclass(frozen=True)
class Shape:
    """Dimensions of a model as in config.json; unlike in the contract, `kv_heads` and `head_dim` are never zero."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool = False
    gated: bool = True
    max_positions: int = 0
    experts: int = 0
    active_experts: int = 0
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    norms_per_layer: int = 2
    norm_bias: bool = False
    head_norms: bool = False
    lm_head_bias: bool = False
    learned_positions: int = 0
    shared_expert: int = 0
    """Total width of the experts that every token uses."""
    dense_layers: int = 0
    """Number of first layers of a mixture that have a dense MLP."""
    dense_intermediate: int = 0
    """Width of that MLP; 0 means `intermediate`."""
    extra: int = 0
    """Parameters that no other field counts, spread evenly over the layers; the remainder lies outside of them."""
    window: int = 0
    """Tokens that a token attends to at most in layers with a sliding window, itself included; 0 where none has one."""
    full_attention_layers: int = 0
    """Layers that attend to the whole row although the others have a window."""
    full_attention: FullAttention | None = None
    """Dimensions of attention in these layers; None where they are those of the others."""
    kv_shared_layers: int = 0
    """Number of last layers without keys and values of their own, which take those of a layer below."""
    wide_shared_mlp: bool = False
    """Whether the MLP of those layers is twice as wide."""
    layer_inputs: int = 0
    """Features that each layer gets for each token beside the stream, from a second embedding table (Gemma 4)."""
    linear: LinearAttention | None = None
    """Linear attention of some layers; None where all have attention."""
    convolution: ShortConvolution | None = None
    """A convolution in place of attention in some layers; None where all have attention."""
    latent: LatentAttention | None = None
    """Dimensions of latent attention, which all layers have then; `kv_heads` and `head_dim` are its keys'."""
    attention_gate: bool = False
    """Whether the query projection gives a gate of attention's output, too."""
    vision: int = 0
    """Parameters of a vision tower and its projector, which are loaded but not trained; in no other number."""
    family: str = ""
    """model_type of config.json; empty where unknown."""
    guessed: bool = False
    """Whether the family is named but unknown; module names and traits are then those of Llama."""

    @property
    def q_width(self) -> int:
        """Features of all query heads."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Features of all key heads, equal to those of all value heads."""
        return self.kv_heads * self.head_dim

    @property
    def windowed_layers(self) -> int:
        """Layers with a sliding window."""
        return self.layers - self.full_attention_layers if self.window else 0

    @property
    def mixer(self) -> LinearAttention | ShortConvolution | None:
        """What some layers have in place of softmax attention."""
        return self.linear or self.convolution

    @property
    def mixer_layers(self) -> int:
        """Layers without softmax attention."""
        return self.mixer.layers if self.mixer else 0

    @cached_property
    def layer_kinds(self) -> "tuple[LayerKind, ...]":
        """Kinds of decoder layers in the order of their first ones.

        One, or two where the first layers of a mixture are dense, and twice as many where some have no attention,
        where those without a window attend in other dimensions, or where the last ones share keys and values.
        """
        dense = min(self.dense_layers, self.layers) if self.experts else self.layers
        shared = self.layers - self.kv_shared_layers
        others = self._differing()
        found: dict[_Traits, list[int]] = {}
        for layer in range(self.layers):
            traits = _Traits(mixture=layer >= dense, differs=layer in others, shares=layer >= shared)
            found.setdefault(traits, []).append(layer)
        return tuple(_kind(self, tuple(places), traits) for traits, places in found.items())

    def _differing(self) -> frozenset[int]:
        """Layers without softmax attention, or with attention to the whole row in dimensions of its own."""
        if self.mixer:
            return frozenset(range(self.layers)) - _spread(self.layers, self.layers - self.mixer_layers)
        return _spread(self.layers, self.full_attention_layers) if self.full_attention else frozenset()

    @cached_property
    def mean_q_width(self) -> float:
        """Features of all query heads, in the mean of the layers with softmax attention."""
        return self._mean(lambda kind: kind.q_width)

    @cached_property
    def mean_kv_width(self) -> float:
        """Features of all key heads that a layer makes itself, in the mean of the layers with softmax attention."""
        return self._mean(lambda kind: kind.kv_width)

    @cached_property
    def mean_mlp_width(self) -> float:
        """Features of the MLPs that a token goes through in a layer, in the mean of all layers."""
        return sum(kind.layers * kind.mlp_width for kind in self.layer_kinds) / self.layers

    @property
    def widest_mlp(self) -> int:
        """Width of the widest MLP, of an expert where there are experts."""
        return self.intermediate * (2 if self.wide_shared_mlp else 1)

    @property
    def uneven_keys(self) -> bool:
        """Whether layers have no keys and values, or none of one shape."""
        return bool(self.mixer or self.latent or self.full_attention or self.kv_shared_layers)

    @cached_property
    def max_mlp_width(self) -> int:
        """Features of the MLPs that a token goes through in the layer that has most."""
        return max(kind.mlp_width for kind in self.layer_kinds)

    def _mean(self, width: Callable[["LayerKind"], int]) -> float:
        attending = self.layers - self.mixer_layers
        return sum(kind.layers * width(kind) for kind in self.layer_kinds) / attending


@dataclass(frozen=True, slots=True)
class _Traits:
    """What layers of a kind have in common."""

    mixture: bool
    differs: bool
    """Whether it has the model's other mixer: no softmax attention, or full attention of other dimensions."""
    shares: bool
    """Whether it takes keys and values of a layer below."""


@dataclass(frozen=True)
class LayerKind:
    """Equal decoder layers, by their numbers."""

    places: tuple[int, ...]
    linears: tuple[Linear, ...]
    q_width: int
    """Features of all query heads; 0 in a layer without softmax attention."""
    kv_width: int
    """Features of all key heads that the layer makes itself."""
    mlp_width: int
    """Features of the MLPs that a token goes through."""
    attention_biases: int
    """Parameters of attention beside its projections: biases, and of linear attention the convolution and gates."""
    mlp_biases: int
    router: int
    norms: int
    extra: int

    @property
    def first(self) -> int:
        """The lowest of the layers."""
        return self.places[0]

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.places)

    @cached_property
    def attention(self) -> int:
        """Parameters of one layer's attention, without norms."""
        return sum(part.weights for part in self.linears if part.role in ATTENTION_ROLES) + self.attention_biases

    @cached_property
    def mlp(self) -> int:
        """Parameters of one layer's MLP or experts, without the router."""
        return sum(part.weights for part in self.linears if part.role not in ATTENTION_ROLES) + self.mlp_biases

    @property
    def total(self) -> int:
        """Parameters of one layer."""
        return self.attention + self.mlp + self.router + self.norms + self.extra


@dataclass(frozen=True, slots=True)
class _Heads:
    """Features of attention's projections in a layer."""

    queries: int
    keys: int
    gated: bool = False
    """Whether the query projection gives a gate of the output too."""


def width(shape: Shape, role: Role, intermediate: int, heads: _Heads | None = None) -> tuple[int, int]:
    """Input and output features of a projection.

    `intermediate` is the width of its MLP; attention has the shape's heads where no other ones are given.
    """
    hidden = shape.hidden
    heads = heads or _Heads(shape.q_width, shape.kv_width, shape.attention_gate)
    return {
        Role.QUERY: (hidden, heads.queries * (2 if heads.gated else 1)),
        Role.KEY: (hidden, heads.keys),
        Role.VALUE: (hidden, heads.keys),
        Role.QKV: (hidden, heads.queries + 2 * heads.keys),
        Role.OUTPUT_GATE: (hidden, heads.queries),
        Role.OUTPUT: (heads.queries, hidden),
        Role.GATE: (hidden, intermediate),
        Role.UP: (hidden, intermediate),
        Role.GATE_UP: (hidden, intermediate * (2 if shape.gated else 1)),
        Role.DOWN: (intermediate, hidden),
        Role.INPUT_GATE: (hidden, shape.layer_inputs),
        Role.INPUT: (shape.layer_inputs, hidden),
    }[role]


def _spread(layers: int, some: int) -> frozenset[int]:
    """Numbers of `some` among so many layers, each behind an equal share of the others."""
    return frozenset((number + 1) * layers // some - 1 for number in range(some))


def _kind(shape: Shape, places: tuple[int, ...], traits: _Traits) -> LayerKind:
    modules = layout(shape.family)
    mixer = shape.mixer if traits.differs else None
    full = shape.full_attention if traits.differs else None
    kv_heads, head_dim = (full.kv_heads, full.head_dim) if full else (shape.kv_heads, shape.head_dim)
    own_keys = 0 if traits.shares else kv_heads * head_dim
    heads = _Heads(shape.heads * head_dim, own_keys, shape.attention_gate)
    if mixer:
        parts = _mixer_parts(shape, mixer, modules.mixer)
    elif shape.latent:
        parts = _latent_parts(shape, shape.latent, modules.attention)
    else:
        left_out = {Role.KEY, Role.VALUE} if traits.shares else {Role.VALUE} if full and full.keys_as_values else set()
        parts = [
            Linear(path, role, *width(shape, role, 0, heads))
            for path, role in modules.attention
            if role not in left_out
        ]
    # Only in a mixture can dense layers have another width.
    dense = (shape.dense_intermediate if shape.experts else 0) or shape.intermediate
    dense *= 2 if traits.shares and shape.wide_shared_mlp else 1
    mlp = _expert_parts(shape, modules) if traits.mixture else _parts(shape, modules.mlp, dense)
    inputs = [Linear(path, role, *width(shape, role, 0)) for path, role in LAYER_INPUTS] if shape.layer_inputs else []
    biased = shape.intermediate if traits.mixture else dense
    normed = 0 if mixer or not shape.head_norms else head_dim if traits.shares else 2 * head_dim
    if shape.latent and not mixer:
        normed += shape.latent.query_rank + shape.latent.key_value_rank
    return LayerKind(
        places,
        (*parts, *mlp, *inputs),
        q_width=0 if mixer else heads.queries,
        kv_width=0 if mixer else own_keys,
        mlp_width=shape.intermediate * max(1, shape.active_experts) + shape.shared_expert if traits.mixture else dense,
        attention_biases=mixer.other_parameters(shape.hidden) if mixer else _attention_biases(shape, heads),
        mlp_biases=_mlp_biases(shape, biased) * (shape.experts if traits.mixture else 1),
        router=shape.hidden * shape.experts if traits.mixture else 0,
        norms=shape.norms_per_layer * norm_parameters(shape) + normed,
        extra=shape.extra // shape.layers,
    )


def _mixer_parts(shape: Shape, mixer: LinearAttention | ShortConvolution, modules: Modules) -> list[Linear]:
    """Projections of what stands in place of attention."""
    known = modules or mixer.named_as
    widths = mixer.widths(shape.hidden, known)
    return [Linear(path, role, *widths[role]) for path, role in known]


def _latent_parts(shape: Shape, latent: LatentAttention, modules: Modules) -> list[Linear]:
    """Projections of latent attention; of an unknown family, with the names of DeepSeek."""
    named = modules if any(role in LATENT_ROLES for _, role in modules) else layout("deepseek_v3").attention
    none = {Role.QUERY} if latent.query_rank else {Role.LATENT_QUERY, Role.QUERY_OF_LATENT}
    widths = latent.widths(shape.hidden, shape.heads)
    return [Linear(path, role, *widths[role]) for path, role in named if role not in none]


def _parts(shape: Shape, modules: Modules, intermediate: int) -> list[Linear]:
    """Projections of an MLP; gates only where the model has them."""
    return [
        Linear(path, role, *width(shape, role, intermediate))
        for path, role in modules
        if shape.gated or role is not Role.GATE
    ]


def _expert_parts(shape: Shape, places: Layout) -> list[Linear]:
    sizes = [(path, role, *width(shape, role, shape.intermediate)) for path, role in EXPERTS]
    routed = [
        Linear(f"{places.experts}.{path}", role, d_in=d_in, d_out=d_out, copies=shape.experts, routed=True)
        for path, role, d_in, d_out in sizes
    ]
    if not shape.shared_expert:
        return routed
    shared = tuple((f"{places.shared}.{path}", role) for path, role in GATED_MLP)
    return routed + _parts(shape, shared, shape.shared_expert)


def norm_parameters(shape: Shape) -> int:
    """Parameters of one norm."""
    scales = shape.hidden if layout(shape.family).scaled_norms else 0
    return scales * (2 if shape.norm_bias else 1)


def _attention_biases(shape: Shape, heads: _Heads) -> int:
    if shape.latent:
        return shape.latent.biases(shape.hidden) if shape.qkv_bias else 0
    qkv = heads.queries + 2 * heads.keys if shape.qkv_bias else 0
    return qkv + (shape.hidden if shape.output_bias else 0)


def _mlp_biases(shape: Shape, intermediate: int) -> int:
    """Bias parameters of one MLP or expert."""
    if not shape.mlp_bias:
        return 0
    return intermediate * (2 if shape.gated else 1) + shape.hidden
