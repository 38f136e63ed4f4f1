# SPDX-License-Identifier: Apache-2.0
"""Several sets of trained weights on one loaded base, each computed for its own rows of a batch.

The base's weights are never written, so that a removed target leaves nothing behind. A module that some row's target
changes has a forward hook, which knows which rows are whose and lets each target change its own. Where nobody asks a
target, the base has no hooks: hundreds of them cost a token some percent of its time. Where all rows are a whole
model's, its modules compute in place of the base's, whose output nobody would see.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from finetree_api.trainer.v1 import artifact_pb2
from finetree_data.weights import adapter as adapter_files
from finetree_data.weights import checkpoint as checkpoint_files
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from finetree_worker.device_memory import GIB, free_memory_bytes
from finetree_worker.errors import MemoryExhaustedError, ModelError, PlanError
from finetree_worker.generate.targets import bottleneck, lora, prefix, whole
from finetree_worker.generate.targets.target import Change, Target
from finetree_worker.generate.targets.whole import Replaced
from finetree_worker.methods.adapter import ADAPTER_PLACEMENTS, AdapterPlacement
from finetree_worker.methods.weights import Weights, check_base, readable, verify

BASE = "base"
"""Name of the base model among the targets."""
MAX_TARGETS = 16
"""Targets that may be loaded at once."""


@dataclass(frozen=True, slots=True)
class _Share:
    """The rows of one target in a pass: all (None), consecutive ones, or their numbers on the device."""

    rows: slice | Tensor | None
    target: Target


class _InPlace:
    """A module's forward pass while another one stands in its place; what it was is put back by `remove`."""

    def __init__(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self._module, self._before = module, module.__dict__.get("forward")
        module.__dict__["forward"] = forward

    def remove(self) -> None:
        """Let the module compute itself again."""
        if self._before is None:
            del self._module.__dict__["forward"]
        else:
            self._module.__dict__["forward"] = self._before


class Adapters:
    """Targets by name. All methods but `read` belong to the thread that runs the model."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._targets: dict[str, Target] = {}
        self._hooks: dict[str, tuple[Replaced | None, RemovableHandle | _InPlace]] = {}
        self._shares: Sequence[_Share] = ()
        self._rows = 0
        self._known: tuple[tuple[str, ...], Sequence[_Share]] = ((), ())

    @property
    def names(self) -> list[str]:
        """Names of the targets in the order of their loading."""
        return list(self._targets)

    def __contains__(self, name: str) -> bool:
        return name == BASE or name in self._targets

    def __getitem__(self, name: str) -> Target:
        """Return a target by name."""
        return self._targets[name]

    def add(self, name: str, target: Target) -> None:
        """Make a target available.

        Raises PlanError: TARGET_EXISTS for a name that is taken, TARGET_LIMIT where there are as many as may be.
        """
        self.check_name(name)
        self._targets[name] = target

    def check_name(self, name: str, waiting: Iterable[str] = ()) -> None:
        """Check that a target can have this name beside those that are loaded and `waiting`. Raises as `add`."""
        taken = {BASE, *self._targets, *waiting}
        if name in taken:
            raise PlanError(
                "TARGET_EXISTS",
                f"A target named {name!r} is loaded already.",
                field="target.name",
                remedy="Take another name, or unload the target first.",
            )
        if len(taken) > MAX_TARGETS:
            text = f"{MAX_TARGETS} targets are loaded, which is the most that a base may have."
            raise PlanError("TARGET_LIMIT", text, field="target", remedy="Unload one first.")

    def remove(self, name: str) -> None:
        """Remove a target and free its memory."""
        del self._targets[name]
        self._known, self._shares = ((), ()), ()
        self._place_hooks()

    @contextmanager
    def routed(self, rows: Sequence[str]) -> Iterator[None]:
        """Compute each row of the passes inside the block with the target of this name."""
        if self._known[0] != tuple(rows):
            self._known = (tuple(rows), self._split(rows))
            self._shares = self._known[1]
            self._place_hooks()
        self._shares, self._rows = self._known[1], len(rows)
        try:
            yield
        finally:
            self._shares = ()

    def _place_hooks(self) -> None:
        """Have hooks on the modules that the current shares change, and on no others."""
        wanted: dict[str, Replaced | None] = {}
        for share in self._shares:
            for module, change in share.target.changes.items():
                wanted[module] = change if share.rows is None and isinstance(change, Replaced) else None
        for module in [name for name, (own, _) in self._hooks.items() if wanted.get(name, self) is not own]:
            self._hooks.pop(module)[1].remove()
        for module in wanted.keys() - self._hooks.keys():
            own, found = wanted[module], self._model.get_submodule(module)
            placed = _hook(self, module, found) if own is None else _InPlace(found, own.module.forward)
            self._hooks[module] = own, placed

    def _split(self, rows: Sequence[str]) -> list[_Share]:
        shares = []
        for name in dict.fromkeys(rows):
            if name == BASE or not self._targets[name].changes:
                continue
            own = [row for row, named in enumerate(rows) if named == name]
            chosen: slice | Tensor | None = None
            if own[-1] - own[0] + 1 != len(own):
                chosen = torch.tensor(own, device=self._model.device)
            elif len(own) < len(rows):
                chosen = slice(own[0], own[-1] + 1)
            shares.append(_Share(chosen, self._targets[name]))
        return shares

    def change(self, module: str, output: Tensor, inputs: Tensor) -> None:
        """Let the targets of the current pass change a module's output in place."""
        if output.shape[0] != self._rows:
            # Some blocks take all tokens in one dimension: the rows are still one behind the other.
            output = output.view(self._rows, -1, output.shape[-1])
            inputs = inputs.reshape(self._rows, -1, inputs.shape[-1])
        for share in self._shares:
            found: Change | None = share.target.changes.get(module)
            if found is None:
                continue
            if share.rows is None:
                found(output, inputs)
            elif isinstance(share.rows, slice):
                found(output[share.rows], inputs[share.rows])
            else:
                own = output.index_select(0, share.rows)
                found(own, inputs.index_select(0, share.rows))
                output.index_copy_(0, share.rows, own)


def _hook(adapters: Adapters, name: str, module: nn.Module) -> RemovableHandle:
    """Let the adapters change what a module returns."""
    if isinstance(module, nn.Linear | Conv1D):

        def linear(_: nn.Module, args: Any, output: Any) -> None:
            adapters.change(name, output, args[0])

        return module.register_forward_hook(linear)

    def block(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        # Attention returns its weights too.
        first = output[0] if isinstance(output, tuple) else output
        adapters.change(name, first, args[0] if args else kwargs["hidden_states"])

    return module.register_forward_hook(block, with_kwargs=True)


def read(weights: Weights, model: PreTrainedModel) -> Target:
    """Read trained weights for a base; may run in another thread than the model.

    Raises ModelError: WRONG_BASE for weights of another base; WEIGHTS_UNREADABLE, WEIGHTS_CHANGED, MODEL_PICKLED;
    MemoryExhaustedError OUT_OF_MEMORY_PREFLIGHT before anything is read.
    """
    verify(weights)
    check_base(model, weights)
    if weights.kind == artifact_pb2.ARTIFACT_KIND_MODEL:
        # Read from a mapped file, layer by layer: it is in memory once.
        _check_memory(whole.held_bytes(model), model)
        with torch.no_grad():
            return whole.read(weights, model)
    with readable(weights), torch.no_grad():
        return _checkpoint(weights, model) if weights.checkpoint else _adapter(weights, model)


def _adapter(weights: Weights, model: PreTrainedModel) -> Target:
    found = adapter_files.read_adapter(weights.folder)
    _check_memory(2 * found.weights.stat().st_size, model)
    tensors = load_file(found.weights)
    if found.method == "lora":
        return lora.read(tensors, lora.Settings.from_config(found.config), model)
    if found.method == "prefix":
        return prefix.read(tensors, model)
    return bottleneck.read(tensors, AdapterPlacement(found.config.get("placement", "")), model)


def _checkpoint(weights: Weights, model: PreTrainedModel) -> Target:
    file = weights.folder / checkpoint_files.WEIGHTS
    _check_memory(2 * file.stat().st_size, model)
    tensors, spec = load_file(file), weights.spec
    if spec is None:
        raise ModelError("WEIGHTS_UNREADABLE", "The run of this checkpoint is not described.", field="weights")
    if spec.HasField("prefix"):
        return prefix.read(tensors, model)
    if spec.HasField("adapter"):
        return bottleneck.read(tensors, ADAPTER_PLACEMENTS[spec.adapter.placement], model)
    return lora.read(tensors, lora.Settings.from_spec(spec), model)


def _check_memory(needed: int, model: PreTrainedModel) -> None:
    """Of an adapter the file's tensors and those on the device are in memory together for a moment."""
    free = free_memory_bytes(model.device)
    if free and needed > free:
        raise no_memory(model, needed)


def no_memory(model: PreTrainedModel, needed: int = 0) -> MemoryExhaustedError:
    """Return the error for weights that the memory does not hold; `needed` is in bytes, 0 where it is not known."""
    wanted = f"The target's weights need {needed / GIB:.2f} GiB" if needed else "The target's weights do not fit"
    return MemoryExhaustedError(
        "OUT_OF_MEMORY_PREFLIGHT",
        f"{wanted}, and {free_memory_bytes(model.device) / GIB:.2f} GiB of the device's memory are free.",
        field="target",
        remedy="Unload another target, or serve with a lower max_parallel or max_context_tokens.",
    )
