# SPDX-License-Identifier: Apache-2.0
"""Linear layers of a frozen base on a CPU, their weights laid out once for oneDNN's matrix kernels.

A weight as it is stored suits one row. For the few rows of a batch the kernels would lay it out anew in every product,
which costs more than the product does: decoding reads each weight once a token, and little else. So it is done once,
and the weight is kept in that layout alone. The numbers are the same; sums are formed in another order.
"""

import logging
import platform
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from finetree_worker.device_memory import GIB, free_memory_bytes

_ROWS = 32
"""Rows that the layout is for. oneDNN chooses one for 8 to 32 that suits a single row and a whole prompt as well."""
_MACHINES = frozenset({"x86_64", "AMD64"})
_log = logging.getLogger(__name__)


class PackedLinear(nn.Linear):
    """A linear layer whose weight is in oneDNN's layout; without gradients."""

    def __init__(self, layer: nn.Linear) -> None:
        """Take the weight over from a layer; raises RuntimeError where oneDNN has no layout for it."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        untyped: Any = torch.ops.mkldnn
        with torch.no_grad():
            packed: Tensor = untyped._reorder_linear_weight(layer.weight.detach(), _ROWS)  # noqa: SLF001 - inductor's
        # What torch.compile calls for such a layer.
        product, bias = untyped._linear_pointwise.default, layer.bias  # noqa: SLF001 - likewise

        def forward(inputs: Tensor) -> Tensor:
            output: Tensor = product(inputs, packed, bias, "none", [], "")
            return output

        # In the object's own dictionary: nn.Module looks slowly, and this runs hundreds of times for each token.
        self.__dict__.update(forward=forward, _packed=packed)
        self.bias = bias

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # a parameter there; unpacked here, each time
        """The weight as it was stored, (out, in)."""
        return self.packed.to_dense()

    @property
    def packed(self) -> Tensor:
        """The weight in oneDNN's layout, which is what takes memory."""
        packed: Tensor = self.__dict__["_packed"]
        return packed


def pack(model: PreTrainedModel) -> int:
    """Lay out all linear layers of a model whose weights do not change any more; return how many.

    0 on a GPU, on other machines than x86, in a type that this CPU does not compute in, and where the memory does not
    hold the weights twice: pages of a mapped file are not freed but only no longer needed.
    """
    if model.device.type != "cpu" or platform.machine() not in _MACHINES:
        return 0
    linear = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    layers = {name: layer for name, layer in linear.items() if _computes_in(layer.weight.dtype)}
    needed = sum(layer.weight.numel() * layer.weight.element_size() for layer in layers.values())
    free = free_memory_bytes(model.device)
    if free and needed > free:
        _log.info("weights stay as they are stored: %.2f GiB are free, %.2f GiB needed", free / GIB, needed / GIB)
        return 0
    for name, layer in layers.items():
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, PackedLinear(layer).train(mode=False))
    return len(layers)


def _computes_in(dtype: torch.dtype) -> bool:
    untyped: Any = torch
    if not untyped.backends.mkldnn.is_available():
        return False
    if dtype is torch.bfloat16:
        return bool(untyped.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 - inductor asks so too
    return dtype is torch.float32
