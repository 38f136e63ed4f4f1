# SPDX-License-Identifier: Apache-2.0
"""Several sets of trained weights on one loaded base, each computed for its own rows of a batch.

The base's weights are never written, so that a removed target leaves nothing behind. A module that some row's target
changes has a forward hook, which knows which rows are whose and lets each target change its own. Where nobody asks a
target, the base has no hooks: hundreds of them cost a token some percent of its time.
"""

from collections.abc import Iterable, Iterator, Sequence
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

from finetree_worker.device_memory import free_memory_bytes
from finetree_worker.errors import MemoryExhaustedError, ModelError, PlanError
from finetree_worker.generate import bottleneck, lora, prefix
from finetree_worker.generate.target import Change, Target, wrong_base
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


class Adapters:
    """Targets by name. All methods but `read` belong to the thread that runs the model."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._targets: dict[str, Target] = {}
        self._hooks: dict[str, RemovableHandle] = {}
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
        wanted = {module for share in self._shares for module in share.target.changes}
        for module in self._hooks.keys() - wanted:
            self._hooks.pop(module).remove()
        for module in wanted - self._hooks.keys():
            self._hooks[module] = _hook(self, module, self._model.get_submodule(module))

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

    Raises ModelError: WRONG_BASE for a whole model and for weights of another base; WEIGHTS_UNREADABLE,
    WEIGHTS_CHANGED, MODEL_PICKLED; MemoryExhaustedError OUT_OF_MEMORY_PREFLIGHT before anything is read.
    """
    whole = weights.whole_model or (weights.spec is not None and weights.spec.HasField("full"))
    if whole or weights.kind == artifact_pb2.ARTIFACT_KIND_MODEL:
        raise wrong_base("These weights are a whole model: it is a base of its own, and cannot stand beside this one.")
    verify(weights)
    check_base(model, weights)
    with readable(weights), torch.no_grad():
        return _checkpoint(weights, model) if weights.checkpoint else _adapter(weights, model)


def _adapter(weights: Weights, model: PreTrainedModel) -> Target:
    found = adapter_files.read_adapter(weights.folder)
    _check_memory(found.weights.stat().st_size, model)
    tensors = load_file(found.weights)
    if found.method == "lora":
        return lora.read(tensors, lora.Settings.from_config(found.config), model)
    if found.method == "prefix":
        return prefix.read(tensors, model)
    return bottleneck.read(tensors, AdapterPlacement(found.config.get("placement", "")), model)


def _checkpoint(weights: Weights, model: PreTrainedModel) -> Target:
    file = weights.folder / checkpoint_files.WEIGHTS
    _check_memory(file.stat().st_size, model)
    tensors, spec = load_file(file), weights.spec
    if spec is None:
        raise ModelError("WEIGHTS_UNREADABLE", "The run of this checkpoint is not described.", field="weights")
    if spec.HasField("prefix"):
        return prefix.read(tensors, model)
    if spec.HasField("adapter"):
        return bottleneck.read(tensors, ADAPTER_PLACEMENTS[spec.adapter.placement], model)
    return lora.read(tensors, lora.Settings.from_spec(spec), model)


def _check_memory(size: int, model: PreTrainedModel) -> None:
    free = free_memory_bytes(model.device)
    # The file's tensors and those on the device are in memory together for a moment.
    if free and 2 * size > free:
        raise MemoryExhaustedError(
            "OUT_OF_MEMORY_PREFLIGHT",
            f"The target's weights have {size / 1e9:.2f} GB, and {free / 1e9:.2f} GB of the device's memory are free.",
            field="target",
            remedy="Unload another target, or serve with a lower max_parallel or max_context_tokens.",
        )
