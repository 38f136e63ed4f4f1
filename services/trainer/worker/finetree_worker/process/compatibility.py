# SPDX-License-Identifier: Apache-2.0
"""Whether peft, transformers or our own loader take an artifact: tried on the shape of the model, not its weights."""

import json
import warnings
from pathlib import Path
from typing import Any

from finetree_api.trainer.v1 import artifact_pb2


def check(folder: Path, base: Path) -> list[artifact_pb2.Compatibility]:
    """Load every tensor's name and shape into the architecture that the artifact's configuration describes."""
    if (folder / "adapter.safetensors").is_file():
        problem = _bottleneck_problem(folder, base)
        return [artifact_pb2.Compatibility(server="finetree", loads=not problem, reason=problem)]
    adapter = (folder / "adapter_config.json").is_file()
    problem = _adapter_problem(folder, base) if adapter else _model_problem(folder)
    return [artifact_pb2.Compatibility(server="peft" if adapter else "transformers", loads=not problem, reason=problem)]


def _adapter_problem(folder: Path, base: Path) -> str:
    import torch
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict

    with torch.device("meta"), warnings.catch_warnings():
        # The base has another name here than where the adapter goes.
        warnings.filterwarnings("ignore", message="The PEFT config's `base_model_name_or_path`", category=UserWarning)
        adapted = get_peft_model(_architecture(base), PeftConfig.from_pretrained(str(folder)))
    expected = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(adapted).items()}
    return _difference(expected, _shapes(folder / "adapter_model.safetensors"))


def _bottleneck_problem(folder: Path, base: Path) -> str:
    import torch

    from finetree_worker.errors import TaskError
    from finetree_worker.methods import adapter

    with torch.device("meta"):
        model = _architecture(base)
    try:
        expected = adapter.expected(model, folder)
    except TaskError as error:
        return error.message
    return _difference(expected, _shapes(folder / adapter.WEIGHTS))


def _model_problem(folder: Path) -> str:
    import torch

    with torch.device("meta"):
        model = _architecture(folder)
    model.tie_weights()
    tied = set(getattr(model, "all_tied_weights_keys", None) or getattr(model, "_tied_weights_keys", None) or ())
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found: dict[str, tuple[int, ...]] = {}
    for file in _weight_files(folder):
        found |= _shapes(file)
    return _difference({name: shape for name, shape in expected.items() if name not in tied or name in found}, found)


def _architecture(folder: Path) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    build: Any = AutoModelForCausalLM.from_config
    return build(AutoConfig.from_pretrained(folder, local_files_only=True))


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    return [folder / name for name in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))]


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 - no mapping


def _difference(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> str:
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} belongs to no layer"
        if expected[name] != found[name]:
            return f"{name} has the shape {found[name]} where {expected[name]} is needed"
    return ""
