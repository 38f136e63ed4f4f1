# SPDX-License-Identifier: Apache-2.0
"""What a layer with linear attention keeps, against a traced layer of transformers."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from finetree_estimator.catalog.models import model
from finetree_estimator.memory.token_mixers import kept_per_token
from finetree_estimator.programs import FINETREE
from finetree_estimator.shapes.mixers import LinearAttention
from transformers import PretrainedConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

TOKENS = 512
HEADS = [(4, 128, 8, 128), (4, 128, 4, 128), (4, 64, 8, 128), (2, 64, 8, 64)]
"""Heads of keys, their width, heads of values, their width."""


def traced(config: PretrainedConfig, dtype: torch.dtype) -> float:
    """Bytes per token that autograd holds behind a layer with frozen weights."""
    layer = Qwen3_5GatedDeltaNet(config, 0).to(dtype).requires_grad_(requires_grad=False)
    given = torch.randn(1, TOKENS, config.hidden_size, dtype=dtype, requires_grad=True)
    there = {tensor.untyped_storage().data_ptr() for tensor in (*layer.parameters(), given)}
    kept: dict[int, torch.Tensor] = {}

    def hold(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in there:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        output = layer(given)
    assert output.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / TOKENS


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("compute_bytes", [2, 4])
def test_a_layer_keeps_what_a_traced_one_does(
    heads: tuple[int, int, int, int], compute_bytes: int, as_config: Callable[..., PretrainedConfig]
) -> None:
    names = ("key_heads", "key_head_dim", "value_heads", "value_head_dim")
    linear = LinearAttention(layers=3, **dict(zip(names, heads, strict=True)))
    shape = replace(model("qwen3.5-9b").shape, layers=4, hidden=512, linear=linear)
    run: Any = SimpleNamespace(shape=shape, compute_bytes=compute_bytes, program=FINETREE)
    expected = kept_per_token(run)
    dtype = torch.bfloat16 if compute_bytes == 2 else torch.float32
    assert expected == pytest.approx(traced(as_config(shape), dtype), rel=0.04)
