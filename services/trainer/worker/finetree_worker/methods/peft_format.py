# SPDX-License-Identifier: Apache-2.0
"""Artifacts in peft's format, with the base's public identity instead of its folder."""

import json
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners import tuners_utils
from transformers import PreTrainedModel

from finetree_worker.plan import BaseModel
from finetree_worker.portable import ADAPTER_WEIGHTS, Portable, names_by_storage

CONFIG = "adapter_config.json"
"""Name of an adapter's configuration, in peft's format and in finetree's own."""


def write(model: PeftModel, folder: Path, base: BaseModel, **changes: Any) -> None:
    """Write adapter_model.safetensors and adapter_config.json, the base named by its hub id, never by a local path.

    `changes` replace values of the configuration.
    """
    model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= _named(base) | changes
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def portable(model: PeftModel, base: BaseModel, **changes: Any) -> Portable:
    """Return the names that peft gives the trained weights, and the configuration that `write` would write."""
    settings = model.peft_config["default"]
    config = {name: sorted(value) if isinstance(value, set) else value for name, value in settings.to_dict().items()}
    config |= {"inference_mode": True} | _named(base) | changes
    names = names_by_storage(model.named_parameters(), get_peft_model_state_dict(model, save_embedding_layers=False))
    return Portable(names, ADAPTER_WEIGHTS, CONFIG, config)


def _named(base: BaseModel) -> dict[str, str | None]:
    return {"base_model_name_or_path": base.hub_id or None, "revision": base.revision or None}


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Silence warnings about peft's use of names that are deprecated in transformers 5.24."""
    with warnings.catch_warnings():
        for name in ("is_gradient_checkpointing", "past_key_values"):
            warnings.filterwarnings("ignore", message=f".*{name}", category=FutureWarning)
        yield


def refused_by_peft(model: PreTrainedModel, name: str) -> str:
    """Return what peft takes a linear layer for, by its name, so that it adds no adapter there; "" where it adds one.

    Where transformers 5 stacked the experts of a mixture, peft reads their former names, such as "gate_proj", as the
    stacked parameters: also those of a shared expert or of dense layers, which are linear layers as before. In some
    hybrids it refuses the output of Mamba layers, which transformers may compute in one kernel with what precedes it.
    """
    short = name.rpartition(".")[2]
    if short in _former_experts(model):
        return "experts"
    check = getattr(tuners_utils, "_check_lora_target_modules_mamba", None)
    if check is None:
        return ""
    try:
        check(LoraConfig(), model, short)
    except ValueError:
        return "parts of Mamba layers"
    return ""


def _former_experts(model: PreTrainedModel) -> Collection[str]:
    """Return the names that the experts of this kind of mixture had before transformers stacked them."""
    try:
        conversion: Any = import_module("peft.utils.transformers_weight_conversion")
    except ImportError:  # peft before 0.19 converts nothing
        return ()
    pattern = conversion._MODEL_TO_CONVERSION_PATTERN.get(model.config.model_type, "")  # noqa: SLF001 - peft has no getter
    former: Collection[str] = conversion._MOE_TARGET_MODULE_MAPPING.get(pattern, {})  # noqa: SLF001 - likewise
    return former
