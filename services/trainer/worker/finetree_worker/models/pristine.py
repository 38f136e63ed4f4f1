# SPDX-License-Identifier: Apache-2.0
"""A base model as it was loaded, put back after a task and proven to be the same.

Methods change a base in many ways: peft exchanges layers and sets attributes, bottleneck layers add modules and hooks,
gradient checkpointing sets flags, bitsandbytes moves tensors between a weight and its module at the first product. Each
way would need an inverse of its own, and a new method one more. So none is inverted: what every module, parameter and
configuration held after loading is noted, by reference, and written back. Tensors are not copied; that nobody wrote
into them is proven by a checksum of each.
"""

import copy
import enum
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

_CONTAINERS = (dict, list, set)
_CONFIGS = (PreTrainedConfig, GenerationConfig)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)


class Pristine:
    """The state of a loaded model, which is kept by reference."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Note the model's state; reads every weight once."""
        self._model = model
        self._modules = [(module, type(module), _attributes(module)) for module in model.modules()]
        self._settings = [(held, _values(held)) for held in _held_settings(model)]
        self._tensors = [(tensor, tensor.data, tensor.requires_grad, dict(vars(tensor))) for tensor in _own(model)]
        self._description = describe(model)

    def restore(self) -> bool:
        """Put everything back; return whether the model is as it was loaded, to the last bit of its weights."""
        for module, kind, attributes in self._modules:
            if type(module) is not kind:
                return False
            vars(module).clear()
            vars(module).update({name: _copied(value) for name, value in attributes.items()})
        for held, values in self._settings:
            vars(held).clear()
            vars(held).update({name: _deep(value) for name, value in values.items()})
        for tensor, data, requires_grad, attributes in self._tensors:
            if tensor.data_ptr() != data.data_ptr() or tensor.dtype is not data.dtype:
                tensor.data = data
            tensor.grad = None
            tensor.requires_grad_(requires_grad)
            vars(tensor).clear()
            vars(tensor).update(attributes)
            if tensor._backward_hooks:  # noqa: SLF001 - torch has no other way to ask
                return False
        return describe(self._model) == self._description


def describe(model: PreTrainedModel) -> list[tuple[object, ...]]:
    """Return what makes a model: its modules, and name, type, shape and checksum of each of its tensors.

    The checksum is the sum of a tensor's bytes as integers. A changed weight changes it; it is no protection against
    somebody who means to deceive.
    """
    modules: list[tuple[object, ...]] = [
        (name, type(module).__qualname__, module.training, len(module._forward_hooks), len(module._forward_pre_hooks))  # noqa: SLF001 - torch has no getter
        for name, module in model.named_modules()
    ]
    found = list(_named_tensors(model))
    sums = [_checksum(tensor) for _, tensor in found]
    # One transfer from the device for all sums, not one each.
    values = torch.stack(sums).tolist() if sums else []
    return modules + [
        (name, tensor.dtype, tuple(tensor.shape), tensor.requires_grad, value)
        for (name, tensor), value in zip(found, values, strict=True)
    ]


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers, and the constants that bitsandbytes keeps beside quantized weights."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        yield name, tensor
        for attribute, value in sorted(vars(tensor).items()):
            yield from _inside(f"{name}.{attribute}", value)


def _inside(name: str, value: object) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif _of_bitsandbytes(value) and not isinstance(value, nn.Module):
        for attribute, inner in sorted(vars(value).items()):
            yield from _inside(f"{name}.{attribute}", inner)


def _own(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: _copied(value) for name, value in vars(module).items()}


def _copied(value: Any) -> Any:
    """Return a container's copy, whose entries are the same objects; anything else as it is."""
    return copy.copy(value) if isinstance(value, _CONTAINERS) else value


def _held_settings(model: nn.Module) -> list[Any]:
    """Return the configurations of all modules and the states of 8-bit layers, which are changed in place."""
    found: dict[int, Any] = {}
    waiting = [value for module in model.modules() for value in vars(module).values()]
    while waiting:
        value = waiting.pop()
        settings = isinstance(value, _CONFIGS)
        state = _of_bitsandbytes(value) and not isinstance(value, nn.Module | Tensor)
        if (settings or state) and id(value) not in found:
            found[id(value)] = value
            waiting.extend(vars(value).values() if settings else ())
    return list(found.values())


def _values(held: object) -> dict[str, Any]:
    return {name: _deep(value) for name, value in vars(held).items()}


def _deep(value: Any) -> Any:
    """Return a container with copies of what is in it; other objects, tensors and configurations, as they are."""
    return copy.deepcopy(value) if isinstance(value, _CONTAINERS) else value


def _of_bitsandbytes(value: object) -> bool:
    known = type(value).__module__.startswith("bitsandbytes.")
    return known and hasattr(value, "__dict__") and not isinstance(value, enum.Enum)


def _checksum(tensor: Tensor) -> Tensor:
    """Sum a tensor's bytes, as integers as wide as its size allows; modulo 2^64."""
    flat = tensor.detach().contiguous().view(-1)
    offset = flat.storage_offset() * flat.element_size()
    integers = next(kind for kind in _INTEGERS if (int(flat.nbytes) | int(offset)) % kind.itemsize == 0)
    return flat.view(integers).sum(dtype=torch.int64)
