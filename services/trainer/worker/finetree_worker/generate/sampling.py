# SPDX-License-Identifier: Apache-2.0
"""Choosing the next token: a function of the logits, the seed and the position, of nothing else.

The order is the usual one (transformers' too): divide by the temperature, keep the `top_k` most probable tokens, then
the smallest set of them whose probabilities reach `top_p` (nucleus sampling, Holtzman et al. 2020, arXiv:1904.09751).
One uniform number then selects a token by the inverse of the cumulative distribution.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from finetree_api.trainer.v1 import serving_pb2
from torch import Tensor

from finetree_worker.errors import TaskError
from finetree_worker.randomness import key
from finetree_worker.spec_values import stated

DEFAULT_NEW_TOKENS = 256
"""Longest answer in tokens where the request states none."""
_BITS = 53  # of a float64's fraction


@dataclass(frozen=True, slots=True)
class Sampling:
    """Choice of tokens. `temperature` 0 takes the most probable one; `top_k` 0 keeps all."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    max_new_tokens: int = DEFAULT_NEW_TOKENS
    stop: tuple[str, ...] = ()

    @classmethod
    def from_message(cls, sampling: serving_pb2.Sampling) -> Self:
        """Read the settings of a request; what is unset has the default."""
        given = stated(sampling, "temperature", "top_p", "top_k", "seed", "max_new_tokens")
        return cls(stop=tuple(sampling.stop), **given)


def choose(logits: Tensor, sampling: Sampling, position: int) -> int:
    """Return the token that follows, from the logits (vocabulary,) of one sequence.

    `position` counts the tokens of the answer from 0. Raises TaskError GENERATION_FAILED for logits that are no
    numbers: whatever was chosen from them would be noise.
    """
    if sampling.temperature == 0:
        best, token = logits.max(dim=-1)
        if not torch.isfinite(best):
            raise not_finite()
        return int(token)
    # In float64: with 100,000 tokens the rounding of float32 sums would show in the choice.
    scaled = logits.double() / sampling.temperature
    tokens: Tensor | None = None
    if 0 < sampling.top_k < scaled.shape[-1]:
        scaled, tokens = scaled.topk(sampling.top_k)
    elif sampling.top_p < 1:
        scaled, tokens = scaled.sort(descending=True, stable=True)
    cumulative = torch.softmax(scaled, dim=-1).cumsum(dim=-1)
    total = float(cumulative[-1])
    if math.isnan(total):
        raise not_finite()
    if sampling.top_p < 1:
        # The token that reaches top_p belongs to the set, so that it is never empty.
        kept = int((cumulative < sampling.top_p).sum())
        total = float(cumulative[min(kept, len(cumulative) - 1)])
    drawn = uniform(sampling.seed, position) * total
    index = min(int(torch.searchsorted(cumulative, drawn, right=True)), len(cumulative) - 1)
    return index if tokens is None else int(tokens[index])


def uniform(seed: int, position: int) -> float:
    """Return a number of [0, 1) that belongs to a seed and a position, equal on every machine."""
    return (key("generate", seed, position) & ((1 << _BITS) - 1)) / (1 << _BITS)


def not_finite() -> TaskError:
    """Return the error for logits that are infinite or not a number."""
    return TaskError(
        "GENERATION_FAILED",
        "The model computed numbers that are not finite.",
        remedy="Serve the base in PRECISION_FP32, or check how the target was trained.",
    )
