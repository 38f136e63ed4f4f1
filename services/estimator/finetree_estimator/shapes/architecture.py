# SPDX-License-Identifier: Apache-2.0
"""Dimensions of a decoder-only transformer, its layers and projections, and checks of the dimensions."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from finetree_estimator.shapes.projections import ATTENTION_ROLES, EXPERTS, GATED_MLP, Layout, Modules, Role, layout


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


@dataclass(frozen=True, slots=True)
class LinearAttention:
    """Dimensions of gated linear attention (Gated DeltaNet), and how many layers have it in place of attention."""

    layers: int
    key_heads: int
    key_head_dim: int
    value_heads: int
    value_head_dim: int
    conv_kernel: int = 4
    """Tokens that the convolution of queries, keys and values sees."""

    @property
    def key_width(self) -> int:
        """Features of all keys of a token, equal to those of all queries."""
        return self.key_heads * self.key_head_dim

    @property
    def value_width(self) -> int:
        """Features of all values of a token, equal to those of the output and of its gate."""
        return self.value_heads * self.value_head_dim

    @property
    def mixed(self) -> int:
        """Features that the convolution goes over: queries, keys and values."""
        return 2 * self.key_width + self.value_width

    def other_parameters(self, hidden: int) -> int:
        """Parameters of a layer beside the large projections: convolution, decay, its and the update's gates, norm."""
        return self.mixed * self.conv_kernel + 2 * self.value_heads * (hidden + 1) + self.value_head_dim


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
    linear: LinearAttention | None = None
    """Linear attention of some layers; None where all have attention."""
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
    def linear_layers(self) -> int:
        """Layers with linear attention."""
        return self.linear.layers if self.linear else 0

    @cached_property
    def layer_kinds(self) -> "tuple[LayerKind, ...]":
        """Kinds of decoder layers in the order of their first ones.

        One, or two where the first layers of a mixture are dense, and twice as many where some have linear attention.
        """
        dense = min(self.dense_layers, self.layers) if self.experts else self.layers
        attending = _attending(self.layers, self.linear_layers)
        found: dict[tuple[bool, bool], list[int]] = {}
        for layer in range(self.layers):
            found.setdefault((layer >= dense, layer not in attending), []).append(layer)
        return tuple(
            _kind(self, tuple(places), mixture=mixture, linear=linear) for (mixture, linear), places in found.items()
        )


@dataclass(frozen=True)
class LayerKind:
    """Equal decoder layers, by their numbers."""

    places: tuple[int, ...]
    linears: tuple[Linear, ...]
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


def width(shape: Shape, role: Role, intermediate: int) -> tuple[int, int]:
    """Input and output features of a projection; `intermediate` is the width of its MLP."""
    hidden = shape.hidden
    return {
        Role.QUERY: (hidden, shape.q_width * (2 if shape.attention_gate else 1)),
        Role.KEY: (hidden, shape.kv_width),
        Role.VALUE: (hidden, shape.kv_width),
        Role.QKV: (hidden, shape.q_width + 2 * shape.kv_width),
        Role.OUTPUT_GATE: (hidden, shape.q_width),
        Role.OUTPUT: (shape.q_width, hidden),
        Role.GATE: (hidden, intermediate),
        Role.UP: (hidden, intermediate),
        Role.GATE_UP: (hidden, intermediate * (2 if shape.gated else 1)),
        Role.DOWN: (intermediate, hidden),
    }[role]


def _attending(layers: int, linear: int) -> frozenset[int]:
    """Layers with softmax attention among `linear` ones without: each behind an equal share of those."""
    attending = layers - linear
    return frozenset((number + 1) * layers // attending - 1 for number in range(attending))


def _kind(shape: Shape, places: tuple[int, ...], *, mixture: bool, linear: bool) -> LayerKind:
    modules = layout(shape.family)
    parts = _linear_parts(shape, modules.linear_attention) if linear else list(_parts(shape, modules.attention, 0))
    if mixture:
        parts += _expert_parts(shape, modules)
        biased = shape.intermediate
    else:
        # Only in a mixture can dense layers have another width.
        biased = (shape.dense_intermediate if shape.experts else 0) or shape.intermediate
        parts += _parts(shape, modules.mlp, biased)
    of_linear = shape.linear.other_parameters(shape.hidden) if linear and shape.linear else 0
    head_norms = 2 * shape.head_dim if shape.head_norms and not linear else 0
    return LayerKind(
        places,
        tuple(parts),
        attention_biases=of_linear if linear else _attention_biases(shape),
        mlp_biases=_mlp_biases(shape, biased) * (shape.experts if mixture else 1),
        router=shape.hidden * shape.experts if mixture else 0,
        norms=shape.norms_per_layer * norm_parameters(shape) + head_norms,
        extra=shape.extra // shape.layers,
    )


def _linear_parts(shape: Shape, modules: Modules) -> list[Linear]:
    """Projections of linear attention; of an unknown family, with the names of Qwen3.5."""
    linear = shape.linear
    if linear is None:
        return []
    known = modules or layout("qwen3_5_text").linear_attention
    joint = all(role is not Role.OUTPUT_GATE for _, role in known)
    widths = {
        Role.QKV: (shape.hidden, linear.mixed + (linear.value_width if joint else 0)),
        Role.OUTPUT_GATE: (shape.hidden, linear.value_width),
        Role.OUTPUT: (linear.value_width, shape.hidden),
    }
    return [Linear(path, role, *widths[role]) for path, role in known]


def _parts(shape: Shape, modules: Modules, intermediate: int) -> list[Linear]:
    """Projections of attention or of an MLP; gates only where the model has them."""
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


def _attention_biases(shape: Shape) -> int:
    qkv = shape.q_width + 2 * shape.kv_width if shape.qkv_bias else 0
    return qkv + (shape.hidden if shape.output_bias else 0)


def _mlp_biases(shape: Shape, intermediate: int) -> int:
    """Bias parameters of one MLP or expert."""
    if not shape.mlp_bias:
        return 0
    return intermediate * (2 if shape.gated else 1) + shape.hidden


SHORTEST_ROW = 8
"""Least sequence_length of the contract in tokens; models with fewer positions are refused."""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """An inconsistent field of the contract's ModelShape."""

    field: str
    text: str

    def in_words(self, names: Mapping[str, str]) -> str:
        """Format as a sentence, with another name for the field."""
        return f"{names.get(self.field, self.field)} {self.text}"


def contradiction(shape: Shape) -> Contradiction | None:
    """First inconsistency of a shape; None where there is none."""
    if shape.heads > shape.hidden:
        return Contradiction("attention_heads", f"is more than the hidden size of {shape.hidden}")
    if shape.kv_heads > shape.heads or shape.heads % shape.kv_heads:
        return Contradiction("kv_heads", f"does not divide {shape.heads} attention heads")
    if 0 < shape.max_positions < SHORTEST_ROW:
        return Contradiction("max_position_embeddings", f"is less than the {SHORTEST_ROW} tokens of the shortest row")
    if shape.linear is not None and (found := _of_linear(shape, shape.linear)) is not None:
        return found
    return _of_experts(shape) if shape.experts else _of_dense(shape)


def _of_linear(shape: Shape, linear: LinearAttention) -> Contradiction | None:
    if linear.layers >= shape.layers:
        text = f"must be less than the {shape.layers} layers: one at least has softmax attention"
        return Contradiction("linear_attention.layers", text)
    if linear.value_heads % linear.key_heads:
        return Contradiction("linear_attention.value_heads", f"is not a multiple of {linear.key_heads} key_heads")
    if shape.window:
        return Contradiction("linear_attention", "cannot be together with sliding_window")
    return None


def _of_experts(shape: Shape) -> Contradiction | None:
    if shape.active_experts > shape.experts:
        return Contradiction("active_experts", f"exceeds the {shape.experts} experts of a layer")
    if shape.active_experts < 1:
        return Contradiction(
            "active_experts", f"is required: the number of the {shape.experts} experts that a token uses"
        )
    if shape.dense_layers >= shape.layers:
        return Contradiction("dense_layers", f"must be less than the {shape.layers} layers: one at least has experts")
    if shape.dense_intermediate and not shape.dense_layers:
        return Contradiction("dense_intermediate_size", "needs dense_layers, whose width it is")
    return None


def _of_dense(shape: Shape) -> Contradiction | None:
    if shape.full_attention_layers > shape.layers:
        return Contradiction("full_attention_layers", f"is more than the {shape.layers} layers")
    if shape.full_attention_layers and not shape.window:
        return Contradiction("full_attention_layers", "needs sliding_window; without one all layers attend to all")
    for name, value in (
        ("active_experts", shape.active_experts),
        ("shared_expert_size", shape.shared_expert),
        ("dense_layers", shape.dense_layers),
        ("dense_intermediate_size", shape.dense_intermediate),
    ):
        if value:
            return Contradiction(name, "needs experts; a dense model has none")
    return None
