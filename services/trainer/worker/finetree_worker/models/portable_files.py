# SPDX-License-Identifier: Apache-2.0
"""Configurations and tokenizers that transformers 4.5x and 5 read alike.

transformers 5 moved the settings of rotary positions into `rope_parameters`, which 4.x ignores without a word: it takes
the architecture's default base frequency instead. It also names a tokenizer class that 4.x does not have. What is
written here has both spellings; servers and converters that read the older one find it too.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONFIG = "config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"

GENERIC_TOKENIZER = "PreTrainedTokenizerFast"
"""Tokenizer class that both versions have. It does what tokenizer.json says and nothing else; the classes of
architectures have settings of their own in 4.x, such as a BOS token, which would win over the file."""
_ABOUT_READING = ("is_local", "local_files_only", "backend")
"""How transformers 5 read the tokenizer on this machine; it writes this into the file."""
_BY_LAYER_TYPE = {"full_attention", "sliding_attention"}
"""Layer types with rotary positions of their own for which 4.x has names (Gemma 3)."""
_OLD_KINDS = {"default", "linear", "dynamic", "yarn", "longrope", "llama3"}
"""Kinds of rotary positions that 4.x has."""
_NEWER_TYPES = frozenset({"glm46v", "ministral3", "qwen3_vl_moe"})
"""Types that 4.57 does not know, or whose experts it stacks in another order."""
_RENAMED_TOWERS = frozenset({"clip_vision_model", "siglip_vision_model", "siglip2_vision_model"})
"""Vision towers that 4.57 reads under `vision_model`, which 5.24 does not write; it would start them at random."""
IMAGE_SETTINGS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""Files that say how images and videos become a model's input."""
_SETTINGS_BYTES = 1 << 20
_OLD_NAMES = {"gpt_neox": ("rotary_emb_base", "rotary_pct")}
"""Names in 4.x of the base frequency and the rotated share, where they are not the usual ones."""


def save_model(model: PreTrainedModel, folder: Path, *, dtype: torch.dtype, max_shard_size: str = "50GB") -> None:
    """Write config.json, generation settings, and safetensors in `dtype`, whatever the model computes in.

    Weights that layers share are written once. config.json has the type of the files: readers that go by it would
    otherwise take the memory of the type that the model was trained in, which transformers 5 writes there.
    """
    state = _converted(model.state_dict(), dtype)
    model.save_pretrained(folder, state_dict=state, safe_serialization=True, max_shard_size=max_shard_size)
    path = folder / CONFIG
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and "dtype" in part:
            part["dtype"] = str(dtype).removeprefix("torch.")
    _write(path, in_both_spellings(config))


def _converted(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Convert weights to a type; names that share a tensor share the converted one, too."""
    made: dict[tuple[int, torch.Size], Tensor] = {}
    found = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.shape)
        if place not in made:
            made[place] = tensor.to(dtype)
        found[name] = made[place]
    return found


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write tokenizer.json, its configuration and the chat template."""
    tokenizer.save_pretrained(folder)
    path = folder / TOKENIZER_CONFIG
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for name in _ABOUT_READING:
        settings.pop(name, None)
    settings["tokenizer_class"] = GENERIC_TOKENIZER
    # 4.x's generic class would add token_type_ids, which no decoder takes.
    settings["model_input_names"] = list(tokenizer.model_input_names)
    extra = settings.pop("extra_special_tokens", None)
    if extra:
        # 4.x expects a mapping under the new name.
        settings["additional_special_tokens"] = extra
    _write(path, settings)


def copy_image_settings(base: Path, folder: Path) -> None:
    """Write how images become input, which training on text leaves as it is in `base`; nothing where nobody says so."""
    for name in IMAGE_SETTINGS:
        file = base / name
        if file.is_file() and file.stat().st_size <= _SETTINGS_BYTES:
            (folder / name).write_bytes(file.read_bytes())


def in_both_spellings(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration of transformers 5 with the names of 4.x added; both versions read the same values."""
    found = dict(config)
    if isinstance(inner := config.get("text_config"), dict):
        found["text_config"] = in_both_spellings(inner)
    if config.get("dtype") is not None:
        found["torch_dtype"] = config["dtype"]
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or newer_only(config):
        return found
    if _nested(rope):
        found["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    theta, share = _OLD_NAMES.get(str(config.get("model_type")), ("rope_theta", "partial_rotary_factor"))
    for old, new in ((theta, "rope_theta"), (share, "partial_rotary_factor")):
        if rope.get(new) is not None:
            found[old] = rope[new]
    scaling = _scaling(rope)
    if scaling is not None:
        found["rope_scaling"] = scaling
    return found


def newer_only(config: dict[str, Any]) -> str:
    """Return why a configuration of transformers 5 cannot be read by 4.x, as a sentence; empty where it can."""
    text, vision = (config.get(part) or {} for part in ("text_config", "vision_config"))
    if unknown := {str(part.get("model_type")) for part in (config, text)} & _NEWER_TYPES:
        return f"needs transformers 5 or newer: 4.57 does not read {min(unknown)!r} as it is written"
    if vision.get("model_type") in _RENAMED_TOWERS:
        return "needs transformers 5 or newer: 4.57 has other names for the weights of its vision tower"
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and _nested(rope) and set(rope) != _BY_LAYER_TYPE:
        return "needs transformers 5 or newer: its rotary positions differ by layer type, which 4.x cannot be told"
    if isinstance(rope, dict):
        kinds = {str(part.get("rope_type", "default")) for part in (rope.values() if _nested(rope) else (rope,))}
        if kinds - _OLD_KINDS:
            return f"needs transformers 5 or newer: 4.x has no rotary positions of the kind {min(kinds - _OLD_KINDS)!r}"
    return ""


def _nested(rope: dict[str, Any]) -> bool:
    """Return whether rotary positions are given for each layer type."""
    return bool(rope) and all(isinstance(value, dict) for value in rope.values())


def _scaling(rope: dict[str, Any]) -> dict[str, Any] | None:
    """Return `rope_scaling` of 4.x; None for positions that are neither scaled nor divided among text and images."""
    kind = rope.get("rope_type", "default")
    if kind == "default":
        if "mrope_section" not in rope:
            return None
        return {name: rope[name] for name in ("rope_type", "mrope_section", "mrope_interleaved") if name in rope}
    if kind == "longrope" and {"short_factor", "long_factor"} <= rope.keys() and "factor" not in rope:
        # Phi 3 takes exactly these three; the original length is a field of its own there.
        return {"type": kind, "short_factor": rope["short_factor"], "long_factor": rope["long_factor"]}
    return {name: value for name, value in rope.items() if name not in ("rope_theta", "partial_rotary_factor")}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
