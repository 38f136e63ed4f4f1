# SPDX-License-Identifier: Apache-2.0
"""Weights in oneDNN's layout: the same weights, the same products but for rounding, and where it is left alone."""

import platform
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_worker.models import packed
from finetree_worker.models.load import load_model
from finetree_worker.models.packed import PackedLinear, pack
from torch import nn

pytestmark = pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="packed on x86 alone")


def base_of(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The base in a folder, loaded anew."""
    return load_model(folder, dtype, device=torch.device("cpu")).requires_grad_(requires_grad=False).eval()


def layers(model: Any) -> dict[str, nn.Linear]:
    """Linear layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


@pytest.mark.parametrize("rows", [(0,), (1,), (1, 1), (4, 1), (3, 7), (33,)])
def test_a_packed_layer_multiplies_as_the_layer_does(rows: tuple[int, ...]) -> None:
    for bias in (False, True):
        torch.manual_seed(3)
        layer = nn.Linear(24, 40, bias=bias).requires_grad_(requires_grad=False)
        inputs, weight = torch.randn(*rows, 24), layer.weight.clone()
        found = PackedLinear(layer)
        torch.testing.assert_close(found(inputs), layer(inputs), atol=1e-5, rtol=0)
        # A view whose rows are not one behind the other, as of a batch's last tokens.
        wide = torch.randn(*rows, 48)[..., ::2]
        torch.testing.assert_close(found(wide), layer(wide), atol=1e-5, rtol=0)
        assert torch.equal(found.weight, weight)


def test_a_packed_model_keeps_its_weights_in_one_layout_alone(base_folder: Path) -> None:
    whole, model = base_of(base_folder), base_of(base_folder)
    ids = torch.tensor([[7, 31, 99, 4], [250, 8, 3, 1]])
    assert pack(model) == len(layers(whole)) > 7
    assert pack(model) == 0
    with torch.inference_mode():
        torch.testing.assert_close(model(input_ids=ids).logits, whole(input_ids=ids).logits, atol=1e-5, rtol=0)
    assert model.dtype is torch.float32
    for name, layer in layers(whole).items():
        assert torch.equal(layers(model)[name].weight, layer.weight), name
        assert f"{name}.weight" not in dict(model.named_parameters())
    # The embeddings are looked up in, so they stay, also where the head has them too.
    assert torch.equal(model.get_input_embeddings().weight, whole.get_input_embeddings().weight)


def test_it_is_left_alone_where_memory_is_short_or_the_type_is_none_of_the_cpus(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pack(base_of(base_folder, torch.float16)) == 0
    model = base_of(base_folder)
    monkeypatch.setattr(packed, "free_memory_bytes", lambda _: 1000)
    assert pack(model) == 0
    assert all(type(layer) is nn.Linear for layer in layers(model).values())
