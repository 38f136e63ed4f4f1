# SPDX-License-Identifier: Apache-2.0
"""Number formats of exported weights: how a tensor is rounded to each, and what that rounding may change."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetree_worker.errors import PlanError


class WeightType(StrEnum):
    """Number format of the weights of an export."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"
    """Blocks of 32 whole numbers of 8 bits with a float16 scale each; GGUF files only."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of torch with the same numbers. Raises KeyError for Q8_0, which has none."""
        return {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[self.value]


FILE_TYPES = {
    WeightType.F32: gguf.LlamaFileType.ALL_F32,
    WeightType.F16: gguf.LlamaFileType.MOSTLY_F16,
    WeightType.BF16: gguf.LlamaFileType.MOSTLY_BF16,
    WeightType.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
}
"""What files call a model whose matrices are of a format (`general.file_type`)."""
_TENSOR_TYPES = {
    WeightType.F32: gguf.GGMLQuantizationType.F32,
    WeightType.F16: gguf.GGMLQuantizationType.F16,
    WeightType.BF16: gguf.GGMLQuantizationType.BF16,
    WeightType.Q8_0: gguf.GGMLQuantizationType.Q8_0,
}
BLOCK = 32
"""Weights that share a scale in Q8_0: a row that cannot be divided by it is stored as float16."""
ROUNDING = {WeightType.F32: 2.0**-24, WeightType.F16: 2.0**-11, WeightType.BF16: 2.0**-8, WeightType.Q8_0: 1 / 254}
"""Largest error of a weight by rounding, as a share of it; of Q8_0, of the largest weight of its block."""


def tensor_type(name: str, shape: tuple[int, ...], wanted: WeightType) -> gguf.GGMLQuantizationType:
    """Return the type that a tensor of a GGUF file is stored in: llama.cpp wants norms and biases in float32."""
    if len(shape) < 2 or name.endswith("_norm.weight"):
        return gguf.GGMLQuantizationType.F32
    if wanted is WeightType.Q8_0 and shape[-1] % BLOCK:
        return gguf.GGMLQuantizationType.F16
    return _TENSOR_TYPES[wanted]


def stored(values: Tensor, kind: gguf.GGMLQuantizationType, name: str) -> NDArray[Any]:
    """Round a tensor to a type of GGUF, once. Raises PlanError SETTING_NOT_SUPPORTED for weights beyond float16."""
    array: NDArray[Any] = values.detach().to(torch.float32).contiguous().cpu().numpy()
    limit = float(np.finfo(np.float16).max)
    if kind in (gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.Q8_0) and np.abs(array).max() > limit:
        raise beyond_float16(name)
    found: NDArray[Any] = gguf.quants.quantize(array, kind)
    return found


def beyond_float16(name: str) -> PlanError:
    """Return the error for a tensor with weights that float16 cannot hold."""
    return PlanError(
        "SETTING_NOT_SUPPORTED",
        f"Weights of {name[:80]!r} are larger than float16 can hold (65,504).",
        field="export.weight_type",
        remedy="Export in bf16 or f32.",
    )


def rounded(values: Tensor, kind: gguf.GGMLQuantizationType, name: str) -> Tensor:
    """Return a tensor as it is once it has been stored: rounded, in float32."""
    if kind is gguf.GGMLQuantizationType.F32:
        return values.to(torch.float32)
    return torch.from_numpy(gguf.quants.dequantize(stored(values, kind, name), kind)).reshape(values.shape)


def in_place(tensors: Mapping[str, Tensor], round_to: Callable[[str, Tensor], Tensor]) -> None:
    """Round tensors where they are; those that share their memory once."""
    done: set[int] = set()
    with torch.no_grad():
        for name, tensor in tensors.items():
            if tensor.data_ptr() not in done:
                done.add(tensor.data_ptr())
                tensor.copy_(round_to(name, tensor))
