# SPDX-License-Identifier: Apache-2.0
"""Dimensions of what mixes tokens in some layers of a model while the others have plain attention."""

from dataclasses import dataclass


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


@dataclass(frozen=True, slots=True)
class FullAttention:
    """Dimensions of attention in the layers that have no sliding window, where the others have other ones (Gemma 4)."""

    kv_heads: int
    head_dim: int
    keys_as_values: bool = False
    """Whether what the key projection gives are the values too (attention_k_eq_v)."""
