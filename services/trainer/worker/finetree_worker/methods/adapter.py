# SPDX-License-Identifier: Apache-2.0
"""Bottleneck adapters: down-projection, ReLU and up-projection, both with biases, added to a block's output.

After attention and after the MLP (Houlsby et al. 2019, arXiv:1902.00751), after the MLP alone (Pfeiffer et al. 2021,
arXiv:2005.00247), or beside the MLP (He et al. 2022, arXiv:2110.04366, with their scale of 4). They are hooks on whole
blocks, so they fit any decoder, one with quantized weights too. The up-projection starts at zero: a new adapter changes
nothing. `load` adds a saved one to a model; docs/adapter-format.md describes the files.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2, serving_pb2
from finetree_data.weights.adapter import BOTTLENECK_FORMAT, BOTTLENECK_WEIGHTS
from finetree_data.weights.fingerprint import fingerprint
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import linear, relu
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetree_worker.errors import ModelError, PlanError, TaskError
from finetree_worker.methods import compatibility
from finetree_worker.methods.peft_format import CONFIG
from finetree_worker.models import portable_files
from finetree_worker.plan import BaseModel, Method, Plan
from finetree_worker.portable import Portable, names_by_storage
from finetree_worker.spec_values import stated, value_of

WEIGHTS = BOTTLENECK_WEIGHTS
"""Name of the weights' file."""
FORMAT = BOTTLENECK_FORMAT
"""Name and version of the format."""
PARALLEL_SCALE = 4.0
"""Scale of an adapter beside the MLP (He et al. 2022, section 4)."""
_ATTENTION = ("self_attn", "attn", "attention", "linear_attn", "conv", "mamba")
"""Names of attention in a layer, or of what stands in its place in some layers of hybrid models."""
_MLP = ("mlp", "feed_forward", "block_sparse_moe", "ffn", "shared_mlp")


class AdapterPlacement(StrEnum):
    """Position of the adapters: after the MLP, after attention and the MLP, or beside the MLP."""

    PFEIFFER = "pfeiffer"
    HOULSBY = "houlsby"
    PARALLEL = "parallel"


ADAPTER_PLACEMENTS = {
    method_pb2.ADAPTER_PLACEMENT_UNSPECIFIED: AdapterPlacement.PFEIFFER,
    method_pb2.ADAPTER_PLACEMENT_PFEIFFER: AdapterPlacement.PFEIFFER,
    method_pb2.ADAPTER_PLACEMENT_HOULSBY: AdapterPlacement.HOULSBY,
    method_pb2.ADAPTER_PLACEMENT_PARALLEL: AdapterPlacement.PARALLEL,
}
_PLACES: dict[AdapterPlacement, dict[str, tuple[str, ...]]] = {
    AdapterPlacement.PFEIFFER: {"mlp": _MLP},
    AdapterPlacement.HOULSBY: {"attention": _ATTENTION, "mlp": _MLP},
    AdapterPlacement.PARALLEL: {"mlp": _MLP},
}


class Bottleneck(nn.Module):
    """up(relu(down(x))) * scale, in the type of x; its own weights are float32."""

    def __init__(self, features: int, size: int, scale: float) -> None:
        super().__init__()
        self.down = nn.Linear(features, size, dtype=torch.float32)
        self.up = nn.Linear(size, features, dtype=torch.float32)
        self.scale = scale
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the addition to the block's output, (..., features) like x."""
        down, up = self.down, self.up
        inner = relu(linear(x, down.weight.to(x.dtype), down.bias.to(x.dtype)))
        return linear(inner, up.weight.to(x.dtype), up.bias.to(x.dtype)) * self.scale


@dataclass(frozen=True, slots=True)
class Adapter(Method):
    """Bottleneck adapters on a frozen base."""

    name: ClassVar[str] = "adapter"
    title: ClassVar[str] = "bottleneck adapters"
    library: ClassVar[str] = "finetree"
    load_notes: ClassVar[tuple[str, ...]] = (
        "Libraries do not know layers of this kind: the code that adds them is in the package finetree-worker.",
    )

    bottleneck_size: int = 64
    placement: AdapterPlacement = AdapterPlacement.PFEIFFER

    @classmethod
    def from_spec(cls, spec: run_spec_pb2.RunSpec) -> Self:
        """Read RunSpec.adapter. Raises PlanError SETTING_NOT_SUPPORTED."""
        placement = value_of(spec.adapter, "placement", ADAPTER_PLACEMENTS, parent="adapter.")
        return cls(placement=placement, **stated(spec.adapter, "bottleneck_size"))

    def apply(self, model: PreTrainedModel, plan: Plan) -> tuple[PreTrainedModel, PreTrainedModel]:
        """Freeze the model and add adapters, their down-projections random from the seed. Raises as `attach`."""
        attach(model, self, plan.optimization.seed)
        return model, model

    def blank(self, model: PreTrainedModel) -> PreTrainedModel:
        """Freeze the model and add adapters that change nothing. Raises as `attach`."""
        attach(model, self, seed=0)
        return model

    def save(
        self, trained: Any, folder: Path, *, base: BaseModel, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype
    ) -> None:
        """Write adapter.safetensors and adapter_config.json, and the tokenizer."""
        del dtype
        held = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors(trained).items()}
        save_file(held, folder / WEIGHTS, metadata={"format": "pt"})
        config = self._settings(trained, base)
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        portable_files.save_tokenizer(tokenizer, folder)

    def portable(self, trained: Any, base: BaseModel) -> Portable:
        """Return the names of the layers' weights in this suite's format, which `load` reads."""
        names = names_by_storage(trained.named_parameters(), tensors(trained))
        return Portable(names, WEIGHTS, CONFIG, self._settings(trained, base))

    def _settings(self, trained: PreTrainedModel, base: BaseModel) -> dict[str, Any]:
        named = {"hub_id": base.hub_id, "revision": base.revision, "fingerprint": base.fingerprint}
        return {
            "format": FORMAT,
            "placement": self.placement.value,
            "bottleneck_size": self.bottleneck_size,
            "activation": "relu",
            "scale": PARALLEL_SCALE if self.placement is AdapterPlacement.PARALLEL else 1.0,
            "base": {**named, **_shape(trained)},
        }

    def load_lines(self, base: str, auto_class: str) -> tuple[str, ...]:
        """Return the lines that add the layers to their base with this module."""
        return (
            "from finetree_worker.methods import adapter",
            f"from transformers import {auto_class}",
            f'model = adapter.load({base}, ".")',
        )

    def compatibility(self, folder: Path, base: Path) -> artifact_pb2.Compatibility:
        """Return whether `load` loads the artifact on the base."""
        try:
            needed = expected(compatibility.architecture(base), folder)
            problem = compatibility.difference(needed, compatibility.shapes(folder / WEIGHTS))
        except TaskError as error:
            problem = error.message
        return compatibility.verdict(serving_pb2.SERVING_TARGET_FINETREE, problem)


def attach(model: PreTrainedModel, method: Adapter, seed: int) -> None:
    """Freeze the model and add adapters.

    Raises PlanError ADAPTER_NOT_SUPPORTED for a model without attention or MLP blocks of a known name.
    """
    model.requires_grad_(requires_grad=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _add_layers(model, method)


def _add_layers(model: PreTrainedModel, method: Adapter) -> None:
    features = int(model.config.get_text_config().hidden_size)
    parallel = method.placement is AdapterPlacement.PARALLEL
    scale = PARALLEL_SCALE if parallel else 1.0
    for layer in _layers(model):
        for place, names in _PLACES[method.placement].items():
            block = _child(layer, names)
            if block is None:
                raise _unsupported()
            # Made on the CPU: the same numbers whatever the device.
            adapter = Bottleneck(features, method.bottleneck_size, scale)
            adapter = adapter.to(next(layer.parameters()).device)
            layer.add_module(f"bottleneck_{place}", adapter)
            block.register_forward_hook(_beside(adapter) if parallel else _after(adapter), with_kwargs=True)


def _unsupported() -> PlanError:
    return PlanError(
        "ADAPTER_NOT_SUPPORTED",
        "This model's layers have no attention and MLP blocks of a known name, which adapters need.",
        field="adapter",
        remedy="Use lora for this model.",
    )


def _layers(model: PreTrainedModel) -> nn.ModuleList:
    count = int(model.config.get_text_config().num_hidden_layers)
    untyped: Any = model
    # Of the decoder alone: a vision tower may have as many layers.
    for module in untyped.get_decoder().modules():
        if isinstance(module, nn.ModuleList) and len(module) == count and _child(module[0], _MLP) is not None:
            return module
    raise _unsupported()


def _child(layer: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    return next((child for name in names if isinstance(child := getattr(layer, name, None), nn.Module)), None)


def _after(adapter: Bottleneck) -> Any:
    def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:  # noqa: ARG001 - torch's signature
        # Attention returns its weights too.
        first = output[0] if isinstance(output, tuple) else output
        changed = first + adapter(first)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook


def _beside(adapter: Bottleneck) -> Any:
    def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        added = adapter(args[0] if args else kwargs["hidden_states"])
        return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added

    return hook


def _adapters(model: PreTrainedModel) -> Iterator[tuple[str, Bottleneck]]:
    """Yield the adapters with their names in the format, such as "layers.0.mlp"."""
    for index, layer in enumerate(_layers(model)):
        for name, module in layer.named_children():
            if isinstance(module, Bottleneck):
                yield f"layers.{index}.{name.removeprefix('bottleneck_')}", module


def blocks(model: PreTrainedModel, placement: AdapterPlacement) -> dict[str, str]:
    """Return the names of the blocks that adapters of a placement follow or stand beside, by theirs in the format.

    For example {"layers.0.mlp": "model.layers.0.mlp"}. Raises PlanError ADAPTER_NOT_SUPPORTED.
    """
    names = {id(module): name for name, module in model.named_modules()}
    found: dict[str, str] = {}
    for index, layer in enumerate(_layers(model)):
        for place, known in _PLACES[placement].items():
            block = _child(layer, known)
            if block is None:
                raise _unsupported()
            found[f"layers.{index}.{place}"] = names[id(block)]
    return found


def tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the adapters' weights by their names in the format."""
    return {
        f"{place}.{name}": tensor
        for place, adapter in _adapters(model)
        for name, tensor in adapter.state_dict().items()
    }


def _shape(model: PreTrainedModel) -> dict[str, Any]:
    config = model.config.get_text_config()
    names = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers")
    return {name: getattr(config, name) for name in names}


def load(model: PreTrainedModel, folder: Path | str) -> PreTrainedModel:
    """Add the adapter in `folder` to its base model, which is changed in place and returned, frozen but the adapter.

    Raises ModelError: ADAPTER_UNREADABLE for a damaged or incomplete adapter, WRONG_BASE for a model of another shape
    or vocabulary, or, where the model was loaded from a folder, of another fingerprint.
    """
    folder = Path(folder)
    method = _checked(model, folder)
    try:
        stored = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise _unreadable("its weights cannot be read") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    if shapes != _shapes(model, method):
        raise _unreadable("its weights do not match its configuration")
    attach(model, method, seed=0)
    _copy(model, stored)
    return model


def restore(model: PreTrainedModel, folder: Path) -> str:
    """Copy the adapter in `folder` into those that the model has.

    Returns why it does not fit them, as a sentence's end; empty where it was copied. Raises SafetensorError.
    """
    stored = load_file(folder / WEIGHTS)
    found = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    problem = compatibility.difference({name: tuple(t.shape) for name, t in tensors(model).items()}, found)
    if not problem:
        _copy(model, stored)
    return problem


def _copy(model: PreTrainedModel, stored: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in tensors(model).items():
            tensor.copy_(stored[name])


def expected(model: PreTrainedModel, folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes that the adapter in `folder` must have for the model. Raises as `load`."""
    return _shapes(model, _checked(model, folder))


def _checked(model: PreTrainedModel, folder: Path) -> Adapter:
    config = _config(folder)
    _check_base(model, config["base"])
    return Adapter(int(config["bottleneck_size"]), AdapterPlacement(config["placement"]))


def _shapes(model: PreTrainedModel, method: Adapter) -> dict[str, tuple[int, ...]]:
    wide, narrow = int(model.config.get_text_config().hidden_size), method.bottleneck_size
    each = {
        "down.weight": (narrow, wide),
        "down.bias": (narrow,),
        "up.weight": (wide, narrow),
        "up.bias": (wide,),
    }
    return {
        f"layers.{layer}.{place}.{name}": shape
        for layer in range(len(_layers(model)))
        for place in _PLACES[method.placement]
        for name, shape in each.items()
    }


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        known = config["format"] == FORMAT and config["activation"] == "relu"
        _ = (int(config["bottleneck_size"]), AdapterPlacement(config["placement"]), dict(config["base"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(f"its {CONFIG} is missing or incomplete") from error
    if not known:
        raise _unreadable(f"its {CONFIG} is not of the format {FORMAT}")
    read: dict[str, Any] = config
    return read


def _unreadable(why: str) -> ModelError:
    text = f"The adapter cannot be loaded: {why}."
    return ModelError("ADAPTER_UNREADABLE", text, field="adapter", remedy="Fetch the artifact again, whole.")


def _check_base(model: PreTrainedModel, base: dict[str, Any]) -> None:
    name = base.get("hub_id") or "another model"
    for key, found in _shape(model).items():
        if base.get(key) != found:
            text = f"The adapter was trained on {name} with {key} {base.get(key)}; this model has {found}."
            raise ModelError("WRONG_BASE", text, field="adapter", remedy="Load the base that it was trained on.")
    folder = Path(str(model.config._name_or_path))  # noqa: SLF001 - where transformers keeps what it loaded
    known = base.get("fingerprint")
    if known and (folder / "config.json").is_file() and fingerprint(folder) != known:
        text = f"The adapter was trained on {name}, whose fingerprint differs from this model's."
        raise ModelError("WRONG_BASE", text, field="adapter", remedy="Load the base that it was trained on.")


METHOD = Adapter
