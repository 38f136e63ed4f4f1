# SPDX-License-Identifier: Apache-2.0
"""Dimensions of what mixes tokens in some layers of a model while the others have plain attention."""

from collections.abc import Mapping
from dataclasses import dataclass

from finetree_estimator.shapes.projections import Modules, Role, layout

Widths = Mapping[Role, tuple[int, int]]
"""Input and output features of projections by role."""


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

    @property
    def named_as(self) -> Modules:
        """Names of the projections where the family is unknown: those of Qwen3.5."""
        return layout("qwen3_5_text").mixer

    def widths(self, hidden: int, modules: Modules) -> Widths:
        """Input and output features of the projections that a layer has."""
        joint = all(role is not Role.OUTPUT_GATE for _, role in modules)
        return {
            Role.QKV: (hidden, self.mixed + (self.value_width if joint else 0)),
            Role.OUTPUT_GATE: (hidden, self.value_width),
            Role.OUTPUT: (self.value_width, hidden),
        }

    def other_parameters(self, hidden: int) -> int:
        """Parameters of a layer beside the large projections: convolution, decay, its and the update's gates, norm."""
        return self.mixed * self.conv_kernel + 2 * self.value_heads * (hidden + 1) + self.value_head_dim


@dataclass(frozen=True, slots=True)
class ShortConvolution:
    """A gated convolution over few tokens (LFM2), and how many layers have it in place of attention."""

    layers: int
    kernel: int = 3
    """Tokens that it sees."""
    bias: bool = False
    """Whether it and its projections have biases."""

    @property
    def named_as(self) -> Modules:
        """Names of the projections where the family is unknown: those of LFM2."""
        return layout("lfm2").mixer

    def widths(self, hidden: int, modules: Modules) -> Widths:  # noqa: ARG002 - as linear attention says it
        """Input and output features of the projections: two gates and what is gated, and the output."""
        return {Role.MIXED: (hidden, 3 * hidden), Role.OUTPUT: (hidden, hidden)}

    def other_parameters(self, hidden: int) -> int:
        """Parameters of a layer beside the projections' weights: the convolution, and biases."""
        return hidden * self.kernel + (5 * hidden if self.bias else 0)


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Dimensions of attention whose keys and values are made of a narrow latent (MLA, of DeepSeek V2)."""

    query_rank: int
    """Features of the queries' latent; 0 where queries are made of the stream."""
    key_value_rank: int
    """Features of the latent of keys and values."""
    plain_head_dim: int
    """Features of a head's queries and keys that no rotary embedding turns."""
    rotary_head_dim: int
    """Features of them that it turns; of the keys one for all heads."""
    value_head_dim: int
    """Features of a head's values."""

    @property
    def head_dim(self) -> int:
        """Features of a head's queries and keys."""
        return self.plain_head_dim + self.rotary_head_dim

    @property
    def compressed(self) -> int:
        """Features of a token's keys and values as a cache holds them."""
        return self.key_value_rank + self.rotary_head_dim

    def widths(self, hidden: int, heads: int) -> Widths:
        """Input and output features of the projections; of those of queries a model has one or two."""
        queries, values = heads * self.head_dim, heads * self.value_head_dim
        return {
            Role.QUERY: (hidden, queries),
            Role.LATENT_QUERY: (hidden, self.query_rank),
            Role.QUERY_OF_LATENT: (self.query_rank, queries),
            Role.LATENT_KEY: (hidden, self.compressed),
            Role.KEY_OF_LATENT: (self.key_value_rank, heads * self.plain_head_dim + values),
            Role.OUTPUT: (values, hidden),
        }

    def biases(self, hidden: int) -> int:
        """Parameters of the biases where the projections of latents and the output have them."""
        return self.query_rank + self.compressed + hidden


@dataclass(frozen=True, slots=True)
class FullAttention:
    """Dimensions of attention in the layers that have no sliding window, where the others have other ones (Gemma 4)."""

    kv_heads: int
    head_dim: int
    keys_as_values: bool = False
    """Whether what the key projection gives are the values too (attention_k_eq_v)."""
