# SPDX-License-Identifier: Apache-2.0
"""Bottleneck layers beside other weights on one base: the computation of methods/adapter.py, for their rows alone."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from finetree_api.types.v1 import method_pb2
from torch import Tensor
from torch.nn.functional import linear, relu
from transformers import PreTrainedModel

from finetree_worker.generate.targets.target import Change, Target, unreadable, wrong_base
from finetree_worker.methods.adapter import PARALLEL_SCALE, AdapterPlacement, blocks

_PARAMETER = re.compile(r"(?:^|\.)(?P<layer>\d+)\.bottleneck_(?P<place>\w+)\.(?P<part>(?:down|up)\.(?:weight|bias))$")
_PARTS = ("down.weight", "down.bias", "up.weight", "up.bias")


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """up(relu(down(x))) * scale, added to a block's output; x is that output, or the block's input if `parallel`."""

    down: tuple[Tensor, Tensor]
    up: tuple[Tensor, Tensor]
    scale: float
    parallel: bool

    def __call__(self, output: Tensor, inputs: Tensor) -> None:
        """Add it in place."""
        inner = relu(linear(inputs if self.parallel else output, *self.down))
        output.add_(linear(inner, *self.up) * self.scale)

    def tensors(self) -> Iterable[Tensor]:
        """Yield weights and biases."""
        return (*self.down, *self.up)


def read(tensors: Mapping[str, Tensor], placement: AdapterPlacement, model: PreTrainedModel) -> Target:
    """Return the bottleneck layers of these tensors, named as in the format or as parameters of a checkpoint.

    Raises ModelError: WRONG_BASE for another number of layers or another width, WEIGHTS_UNREADABLE for other tensors.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        place, _, part = _format_name(name).rpartition(".") if name else ("", "", "")
        place, _, half = place.rpartition(".")
        parts.setdefault(place, {})[f"{half}.{part}"] = tensor
    places = blocks(model, placement)
    if parts.keys() != places.keys():
        raise wrong_base(f"The adapter has layers at {len(parts)} blocks, this base needs them at {len(places)}.")
    parallel = placement is AdapterPlacement.PARALLEL
    width = int(model.config.get_text_config().hidden_size)
    changes: dict[str, Change] = {}
    for place, each in parts.items():
        if set(each) != set(_PARTS):
            raise unreadable(f"its layer at {place[:60]} is incomplete")
        down, up = each["down.weight"], each["up.weight"]
        if down.ndim != 2 or down.shape[1] != width or up.shape != down.shape[::-1]:
            raise wrong_base(f"The adapter's layers have the shape {tuple(down.shape)}; this base is {width} wide.")
        placed = [each[part].to(model.device, model.dtype) for part in _PARTS]
        changes[places[place]] = Bottleneck(
            (placed[0], placed[1]), (placed[2], placed[3]), PARALLEL_SCALE if parallel else 1.0, parallel=parallel
        )
    return Target(method_pb2.METHOD_ADAPTER, changes)


def _format_name(name: str) -> str:
    """Return the name in the format, "layers.0.mlp.down.weight", also of a parameter."""
    found = _PARAMETER.search(name)
    return name if found is None else f"layers.{found['layer']}.{found['place']}.{found['part']}"
