# SPDX-License-Identifier: Apache-2.0
"""LoRA layers that read one input, computed together; the backward pass by hand.

Query, key and value, and gate and up, read the same tensor. Their dropped input is made once, the products with their A
matrices are one product of all ranks, and the backward pass adds each layer's part of the input's gradient inside the
product, where autograd makes a tensor of each part and then sums them. Each base product has a matrix of its own: these
run at the matrix rate already, and joining the weights would cost copies of the outputs' gradients. On a CPU a 4-bit
base is unpacked for each product, as bitsandbytes does it, and no unpacked weight is kept for the backward pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard, cast

import torch
from peft.utils.integrations import get_bnb_param_type
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from finetree_worker.methods.lora import ADAPTER, LoraLinear
from finetree_worker.methods.qlora import weight_of
from finetree_worker.models.families import is_known
from finetree_worker.randomness import CounterDropout

GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
"""Names of a module's layers that are called one after another on one tensor."""


@contextmanager
def joined(model: nn.Module) -> Iterator[None]:
    """Compute the model's LoRA layers in groups inside the block; a model of another family keeps its own way."""
    found = []
    for module in filter(is_known, model.modules()):
        for names in GROUPS:
            members = [layer for name in names if _is_plain(layer := getattr(module, name, None))]
            group = LoraGroup(members)
            for layer in members:
                layer.sharing = group
            found += members
    try:
        yield
    finally:
        for layer in found:
            del layer.sharing


def _is_plain(layer: object) -> TypeGuard[LoraLinear]:
    """Return whether a layer is a frozen linear one with one adapter of A and B alone."""
    if type(layer) is not LoraLinear or layer.use_dora.get(ADAPTER) or layer.fan_in_fan_out:
        return False
    base: Any = layer.base_layer
    kind = type(base) is nn.Linear or get_bnb_param_type(base.weight) == "4bit"
    return kind and not base.weight.requires_grad and list(layer.lora_A) == [ADAPTER]


def _computes(base: Any, x: Tensor) -> bool:
    """Return whether a base layer multiplies in x's own type; one in 4 bits on a CPU alone."""
    if get_bnb_param_type(base.weight) == "4bit":
        return x.device.type == "cpu" and base.compute_dtype is base.weight.quant_state.dtype is x.dtype
    return base.weight.dtype is x.dtype


class LoraGroup:
    """Layers in the order in which they are called on one tensor: the first call computes all."""

    def __init__(self, layers: Sequence[LoraLinear]) -> None:
        self._layers = tuple(layers)
        self._input: Tensor | None = None
        self._ready: dict[LoraLinear, Tensor] = {}

    def output(self, layer: LoraLinear, x: Tensor) -> Tensor | None:
        """Return what the layer makes of x (1, tokens, in); None where it computes that alone."""
        if torch.is_autocast_enabled(x.device.type):
            return None
        if layer is not self._layers[0]:
            found = self._ready.pop(layer, None) if self._input is x else None
        else:
            if not all(_computes(each.base_layer, x) for each in self._layers):
                return None
            found, *others = _outputs(self._layers, x)
            self._input, self._ready = x, dict(zip(self._layers[1:], others, strict=True))
        if not self._ready:
            self._input = None
        return found


def _outputs(layers: Sequence[LoraLinear], x: Tensor) -> list[Tensor]:
    """Return base(x) + scale * B(A(dropout(x))) of each layer; x (1, tokens, in), each (1, tokens, out)."""
    flat = x.flatten(0, -2)
    # torch types a child module as Tensor | Module.
    dropout = cast("CounterDropout", cast("Any", layers[0].lora_dropout)[ADAPTER])
    keep = None
    if dropout.training and dropout.masks is not None:
        keep = dropout.masks.keep(dropout.index, flat.shape[-1], drop=dropout.drop, dtype=flat.dtype)
    parts: Any = [(each.base_layer, each.lora_A[ADAPTER], each.lora_B[ADAPTER]) for each in layers]
    down = torch.cat([a.weight.to(x.dtype) for _, a, _ in parts])
    ups = [b.weight.to(x.dtype) for *_, b in parts]
    scales = tuple(each.scaling[ADAPTER] * dropout.scale for each in layers)
    frozen = tuple(base for base, *_ in parts)
    made: tuple[Tensor, ...] = _LoraGroup.apply(flat, keep, down, frozen, scales, *ups)  # type: ignore[no-untyped-call]  # torch types no Function
    return [each.view(*x.shape[:-1], -1) for each in made]


class _LoraGroup(torch.autograd.Function):
    """x (tokens, in), `keep` like it or None, `down` (all ranks, in), `frozen` base layers, `ups` (out, rank) each."""

    @staticmethod
    def forward(  # noqa: PLR0917 - torch passes them by position
        ctx: Any,
        x: Tensor,
        keep: Tensor | None,
        down: Tensor,
        frozen: tuple[Any, ...],
        scales: tuple[float, ...],
        *ups: Tensor,
    ) -> tuple[Tensor, ...]:
        dropped = x if keep is None else x * keep
        narrow = linear(dropped, down)
        made = []
        for base, up, scale, part in zip(frozen, ups, scales, _parts(narrow, ups), strict=True):
            bias = None if base.bias is None else base.bias.to(x.dtype)
            made.append(linear(x, weight_of(base), bias).addmm_(part, up.t(), alpha=scale))
        # The first layer's input is the embedding of tokens, which nobody trains.
        for_input = (keep, down) if ctx.needs_input_grad[0] else ()
        ctx.save_for_backward(dropped, narrow, *ups, *for_input)
        ctx.scales, ctx.frozen = scales, frozen
        return tuple(made)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dropped, narrow, *rest = ctx.saved_tensors
        ups, for_input = rest[: len(grads)], rest[len(grads) :]
        grad_narrow, grad_x = torch.empty_like(narrow), None
        grad_ups = []
        for grad, up, scale, part, out in zip(
            grads, ups, ctx.scales, _parts(narrow, ups), _parts(grad_narrow, ups), strict=True
        ):
            grad_ups.append((grad.t() @ part).mul_(scale))
            out.copy_(grad @ up).mul_(scale)
        if ctx.needs_input_grad[0]:
            keep, down = for_input
            grad_x = grads[0] @ weight_of(ctx.frozen[0])
            for grad, base in zip(grads[1:], ctx.frozen[1:], strict=True):
                grad_x.addmm_(grad, weight_of(base))
            if keep is None:
                grad_x.addmm_(grad_narrow, down)
            else:
                grad_x.addcmul_(grad_narrow @ down, keep)
        return grad_x, None, grad_narrow.t() @ dropped, None, None, *grad_ups


def _parts(narrow: Tensor, ups: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Split the columns of (tokens, all ranks) by the layers' ranks."""
    return torch.split(narrow, [up.shape[1] for up in ups], dim=1)
