# SPDX-License-Identifier: Apache-2.0
"""Checks that a program loads an artifact, by the names and shapes of its tensors, without its weights."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.types.v1 import serving_pb2
from peft import PeftConfig, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from transformers import AutoConfig

from finetree_worker.methods.lazy_bitsandbytes import without_bitsandbytes
from finetree_worker.methods.peft_format import quiet_peft
from finetree_worker.models import portable_files
from finetree_worker.models.auto_class import auto_class_of

Shapes = dict[str, tuple[int, ...]]


def with_peft(folder: Path, base: Path, *, needs: str = "") -> artifact_pb2.Compatibility:
    """Return whether transformers with peft loads the adapter in `folder` on the base model in `base`.

    `needs` names the versions that do, where not all do.
    """
    model = architecture(base)
    with torch.device("meta"), quiet_peft(), without_bitsandbytes(), warnings.catch_warnings():
        # The artifact names the base by its hub id, the check by its folder.
        warnings.filterwarnings("ignore", message="The PEFT config's `base_model_name_or_path`", category=UserWarning)
        adapted = get_peft_model(model, PeftConfig.from_pretrained(str(folder)))
    expected = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(adapted).items()}
    return verdict(
        serving_pb2.SERVING_TARGET_TRANSFORMERS,
        difference(expected, shapes(folder / "adapter_model.safetensors")),
        needs=needs,
    )


def with_transformers(folder: Path) -> artifact_pb2.Compatibility:
    """Return whether transformers loads the model in `folder`: it is asked to, without memory for the weights.

    Only it knows under which names it keeps what the files hold: it stacks the experts of a mixture, and renames the
    layers of older formats.
    """
    try:
        _, info = auto_class_of(folder).from_pretrained(
            folder,
            device_map={"": "meta"},
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # named in the verdict, not ignored
            dtype="auto",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except RuntimeError:
        # Which tensors it could not stack, transformers tells its log alone.
        return verdict(serving_pb2.SERVING_TARGET_TRANSFORMERS, "its tensors are not those of its config.json")
    needs = portable_files.newer_only(json.loads((folder / portable_files.CONFIG).read_text(encoding="utf-8")))
    return verdict(serving_pb2.SERVING_TARGET_TRANSFORMERS, _unmatched(info), needs=needs)


def verdict(
    server: serving_pb2.ServingTarget.ValueType, problem: str, *, needs: str = ""
) -> artifact_pb2.Compatibility:
    """Return a server's verdict: it loads the artifact, in the versions that `needs` names, or the problem."""
    return artifact_pb2.Compatibility(server=server, loads=not problem, reason=problem or needs)


def architecture(folder: Path) -> Any:
    """Return the model that the configuration in `folder` describes, without memory for its weights."""
    with torch.device("meta"):
        return auto_class_of(folder).from_config(AutoConfig.from_pretrained(folder, local_files_only=True))


def shapes(file: Path) -> Shapes:
    """Return the shapes of a safetensors file's tensors by name."""
    with safe_open(file, framework="pt") as opened:
        return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 - no mapping


def difference(expected: Shapes, found: Shapes) -> str:
    """Return the first tensor that is missing, unknown or of another shape, as a sentence; empty where all agree."""
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} does not belong to any layer"
        if expected[name] != found[name]:
            return f"{name} has the shape {found[name]} where {expected[name]} is needed"
    return ""


def _unmatched(info: dict[str, Any]) -> str:
    """Return the first tensor in transformers' loading info that is missing, unknown or of another shape."""
    if missing := sorted(info["missing_keys"]):
        return f"{missing[0]} is missing"
    if unknown := sorted(info["unexpected_keys"]):
        return f"{unknown[0]} does not belong to any layer"
    for name, found, needed in sorted(info["mismatched_keys"]):
        return f"{name} has the shape {tuple(found)} where {tuple(needed)} is needed"
    return ""
