# SPDX-License-Identifier: Apache-2.0
"""A whole model beside its base: modules of its own in place of the base's, for its rows alone.

Full fine-tuning changes every weight, so there is nothing small to add to the base. What computes is the same: each
module of the trained model takes the input of the base's module of the same name. Modules that training left as they
were (frozen layers) are the base's own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from finetree_api.types.v1 import method_pb2
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from finetree_worker.generate.targets.target import Change, Target, unreadable, wrong_base
from finetree_worker.methods import weights as trained_weights
from finetree_worker.methods.weights import Weights
from finetree_worker.models.load import load_model
from finetree_worker.models.packed import PackedLinear, pack


@dataclass(frozen=True, slots=True)
class Replaced:
    """A module of the trained model, computed in place of the base's."""

    module: nn.Module

    def __call__(self, output: Tensor, inputs: Tensor) -> None:
        """Write what the trained module makes of the input over what the base's has made of it."""
        output.copy_(self.module(inputs))

    def tensors(self) -> Iterable[Tensor]:
        """Yield its weights as they are held."""
        return _held(self.module).values()


def read(weights: Weights, base: PreTrainedModel) -> Target:
    """Load a whole model, or the checkpoint of one, for rows beside the base's.

    Raises ModelError: WRONG_BASE for a model of other modules or shapes; WEIGHTS_UNREADABLE for a mixture of experts,
    and what `methods.weights.load` raises.
    """
    loaded: PreTrainedModel = base
    if weights.checkpoint:
        # It has what was trained: the rest is the base's, which is loaded anew since the trained weights overwrite it.
        folder = Path(str(base.config._name_or_path))  # noqa: SLF001 - where transformers keeps what it loaded
        quantization: Any = getattr(base.config, "quantization_config", None)
        loaded = load_model(folder, base.dtype, device=base.device, quantization=quantization)
    whole: Any = trained_weights.load(loaded, weights)
    whole.train(mode=False)
    if any(type(module) is PackedLinear for module in base.modules()):
        pack(whole)
    ours, theirs = (_with_weights(model) for model in (base, whole))
    if _shapes(ours) != _shapes(theirs):
        raise wrong_base("These weights are a whole model of another shape than this base.")
    changes: dict[str, Change] = {}
    for name, module in theirs.items():
        if _equal(ours[name], module):
            continue
        if not _takes_one_tensor(module):
            raise unreadable(f"{name[:100]} mixes the tokens of all rows, so that it can't stand beside a base's")
        changes[name] = Replaced(module)
    return Target(method_pb2.METHOD_FULL, changes)


def held_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights as they are held, tied ones once: what another model of its shape takes too."""
    held = {id(each): each for module in _with_weights(model).values() for each in _held(module).values()}
    return sum(each.numel() * each.element_size() for each in held.values())


def _with_weights(model: nn.Module) -> dict[str, nn.Module]:
    """Modules that hold weights themselves, by name."""
    return {name: module for name, module in model.named_modules() if _held(module)}


def _held(module: nn.Module) -> dict[str, Tensor]:
    own: dict[str, Tensor] = dict(module.named_parameters(recurse=False))
    return own | {"weight": module.packed} if isinstance(module, PackedLinear) else own


def _shapes(modules: dict[str, nn.Module]) -> dict[str, dict[str, torch.Size]]:
    return {name: {key: each.shape for key, each in _held(module).items()} for name, module in modules.items()}


def _equal(ours: nn.Module, theirs: nn.Module) -> bool:
    """Whether both hold the same weights; quantized ones count as different, since their scales are no parameters."""
    pairs = zip(_held(ours).values(), _held(theirs).values(), strict=True)
    return all(
        type(own) is type(other) and type(own) in {nn.Parameter, Tensor} and torch.equal(_plain(own), _plain(other))
        for own, other in pairs
    )


def _plain(tensor: Tensor) -> Tensor:
    return tensor.to_dense() if tensor.is_mkldnn else tensor


def _takes_one_tensor(module: nn.Module) -> bool:
    """Whether a module maps each token by itself, as its one input; transformers' norms have no class in common."""
    return isinstance(module, nn.Linear | Conv1D | nn.Embedding) or "Norm" in type(module).__name__
