# SPDX-License-Identifier: Apache-2.0
"""Ranks that divide all weights, gradients and optimizer states: torch's fully_shard (FSDP2).

Each decoder layer is gathered for its own forward and backward pass and divided again; what stands outside of the
layers (embeddings, head, norms) is the root's, gathered for the whole pass; a vision tower, which no training on text
runs, is never gathered. Ranks therefore make the same forward passes: one that has fewer micro-batches than another
computes one that weighs nothing.
"""

import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard

from finetree_worker.control import Signal
from finetree_worker.device_memory import trim_heap
from finetree_worker.models.families import text_modules
from finetree_worker.ranks.membership import Membership
from finetree_worker.ranks.messages import Messages
from finetree_worker.ranks.replicated import Replicated

Item = TypeVar("Item")
Result = TypeVar("Result")
_METHOD = "compute_gathered"
"""Name of the method by which a computation is run as a forward pass of the root."""


class Sharded(Replicated):
    """One of several ranks that each hold a share of every weight."""

    lockstep = True
    sharding = "full"

    def __init__(self, membership: Membership) -> None:
        super().__init__(membership)
        self._mesh = init_device_mesh(membership.device.type, (self.count,))
        self._sharded: list[tuple[nn.Module, type[nn.Module]]] = []
        self._messages = Messages()

    def loading_device(self, device: torch.device) -> torch.device:
        """Load in main memory: no device needs to hold the whole model. Layers move as they are divided."""
        del device
        return torch.device("cpu")

    def shard(self, model: nn.Module) -> None:
        """Divide the weights of each decoder layer, those of what reads no text, then those that are left."""
        for module in [*_layers(model), *_beside_text(model), model]:
            kind = type(module)
            divided = fully_shard(module, mesh=self._mesh)
            # Micro-batches are weighted by the targets of the whole batch: gradients are added, not averaged.
            divided.set_gradient_divide_factor(1.0)
            divided.set_force_sum_reduction_for_comms(enable=True)
            if self._times:
                self._messages.carry(divided)
            self._sharded.append((module, kind))
        setattr(model, _METHOD, types.MethodType(_compute, model))
        register_fsdp_forward_method(model, _METHOD)
        # Whole weights were loaded; freed by a thread that is not the first, they would stay with the process.
        trim_heap()

    def forward(self, model: nn.Module, compute: Callable[..., Result], *args: Any, **named: Any) -> Result:
        """Run a computation with the root's weights gathered."""
        result: Result = getattr(model, _METHOD)(compute, *args, **named)
        return result

    def inference(self) -> AbstractContextManager[object]:
        """Return the context without gradients; weights that are gathered in inference mode could not be trained."""
        return torch.no_grad()

    def sum(self, parameters: Sequence[nn.Parameter]) -> None:
        """Gradients were added as the backward passes divided them."""
        del parameters
        if self._times:
            self._judge()

    @property
    def message_seconds(self) -> float:
        """Seconds in messages since the start; 0 on a GPU."""
        return self._messages.seconds

    @property
    def _times(self) -> bool:
        """Whether this process sees how long its messages take."""
        return self.membership.device.type == "cpu"

    def number(self, tensor: Tensor) -> float:
        """Return the value of a scalar, which may be a sum that is still divided."""
        return float(tensor.full_tensor() if isinstance(tensor, DTensor) else tensor)

    def agree_midway(self, signal: Signal) -> Signal:
        """Return the speaker's request: whoever acts on it leaves the forward passes that the others wait in."""
        return self.agree(signal)[0]

    def compare(self, step: int, parameters: Iterable[nn.Parameter]) -> None:
        """No weight is on two ranks, so there is nothing to compare."""

    def part(self, work: Sequence[Item], size: Callable[[Item], int]) -> Sequence[Item]:
        """Return all: each rank's forward passes need all ranks, and equal work keeps them together."""
        del size
        return work

    def parts(self, found: Result) -> list[Result]:
        """Return what this rank has found, which is what the others have."""
        return [found]

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gather tensors one by one; the speaker keeps them in main memory."""
        found: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            gathered = self._gather(tensor)
            if self.speaks:
                found[name] = gathered
        return found

    def _gather(self, tensor: Tensor) -> Tensor:
        value = tensor.detach()
        return (value.full_tensor() if isinstance(value, DTensor) else value).cpu()

    def place(self, whole: Tensor, like: Tensor) -> Tensor:
        """Return this rank's part of a whole tensor; one of another shape, such as a count of steps, is not divided."""
        if not isinstance(like, DTensor) or whole.shape != like.shape:
            return whole
        (placement,) = like.placements
        axis = cast("Shard", placement).dim
        parts = torch.chunk(whole, self.count, dim=axis)
        own = parts[self.rank] if self.rank < len(parts) else whole.narrow(axis, 0, 0)
        local = own.to(device=self.membership.device, dtype=whole.dtype).clone().contiguous()
        return DTensor.from_local(
            local, self._mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )

    def unite(self, model: nn.Module, *, everything: bool) -> None:
        """Gather weights into the speaker's model, and make its modules what they were before they were divided."""
        owned, whole = list(_owned(model)), {}  # type: list[tuple[nn.Module, str, nn.Parameter]], dict[int, nn.Parameter]
        for _, _, parameter in owned:
            wanted = isinstance(parameter, DTensor) and (parameter.requires_grad or everything)
            if wanted and id(parameter) not in whole:
                gathered = self._gather(parameter)
                kept = nn.Parameter(gathered, requires_grad=parameter.requires_grad) if self.speaks else parameter
                whole[id(parameter)] = kept
        for owner, name, parameter in owned:
            if id(parameter) in whole:
                owner._parameters[name] = whole[id(parameter)]  # noqa: SLF001 - FSDP refuses a parameter by setattr
        for module, kind in self._sharded:
            module.__class__ = kind
        self._sharded.clear()


def _compute(_: nn.Module, compute: Callable[..., Result], *args: Any, **named: Any) -> Result:
    return compute(*args, **named)


def _owned(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Yield each place where a module holds a parameter; tied ones are held in two."""
    for module in model.modules():
        for name, parameter in module._parameters.items():  # noqa: SLF001 - named_parameters yields tied ones once
            if parameter is not None:
                yield module, name, parameter


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the decoder's layers: the modules of the model's longest list at its top."""
    found: Any = model
    decoder = found.get_decoder()
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList)]
    yield from max(lists, key=len, default=nn.ModuleList())


def _beside_text(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the largest modules with frozen weights outside of the text model: a vision tower, its projector."""
    text = text_modules(model)
    waiting = list(model.children())
    while waiting:
        module = waiting.pop()
        if module in text:
            continue
        if text.isdisjoint(module.modules()):
            weights = list(module.parameters())
            if weights and not any(weight.requires_grad for weight in weights):
                yield module
        else:
            waiting.extend(module.children())
