# SPDX-License-Identifier: Apache-2.0
"""The shape of a model from its config.json, as transformers writes it, under a folder that the operator named."""

import json
from pathlib import Path
from typing import Any

from finetree_estimator.shapes import Shape

_BIASED = frozenset({"qwen2", "qwen2_moe"})
"""Families whose query, key and value projections have biases that config.json does not mention."""
_HEAD_NORMS = frozenset({"qwen3", "qwen3_moe", "gemma3", "gemma3_text"})
"""Families that normalise each head's queries and keys."""
_FOUR_NORMS = frozenset({"gemma2", "gemma3", "gemma3_text"})
"""Families with norms before and after attention and MLP."""
_PLAIN_MLP = frozenset({"phi", "gpt_neox", "gpt2", "opt", "falcon", "bloom", "starcoder2"})
"""Families whose MLP has no gate."""
_TIED_BY_DEFAULT = frozenset({"gemma", "gemma2", "gemma3", "gemma3_text", "gpt2"})
"""Families that tie embeddings when config.json is silent."""
MAX_CONFIG_BYTES = 1 << 20
"""Larger files are not model configurations."""


class ConfigError(ValueError):
    """A config.json that does not describe a decoder-only transformer; the text says what is missing."""


def find(root: Path, relative: str) -> Path | None:
    """The config.json that a path relative to `root` names (the file or its folder); None when there is none inside.

    Links that lead out of the root are not followed.
    """
    home = root.resolve()
    candidate = (home / relative).resolve()
    if not candidate.is_relative_to(home):
        return None
    file = candidate / "config.json" if candidate.is_dir() else candidate
    file = file.resolve()
    return file if file.name == "config.json" and file.is_file() and file.is_relative_to(home) else None


def read(file: Path) -> Shape:
    """The shape that a config.json describes. Raises ConfigError."""
    if file.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError("the file is too large for a config.json")
    try:
        config = json.loads(file.read_bytes())
    except ValueError as error:
        raise ConfigError("the file is not JSON") from error
    if not isinstance(config, dict):
        raise ConfigError("the file is not a JSON object")
    return parse({**config, **config.get("text_config", {})})


def parse(config: dict[str, Any]) -> Shape:
    """The shape in a configuration. Raises ConfigError."""
    family = str(config.get("model_type", ""))
    hidden = _number(config, "hidden_size", "n_embd", "d_model")
    heads = _number(config, "num_attention_heads", "n_head")
    experts = _number(config, "num_local_experts", "num_experts", default=0)
    return Shape(
        hidden=hidden,
        layers=_number(config, "num_hidden_layers", "n_layer"),
        intermediate=_number(config, "moe_intermediate_size", "intermediate_size", "n_inner", default=4 * hidden),
        heads=heads,
        kv_heads=_number(config, "num_key_value_heads", default=heads),
        head_dim=_number(config, "head_dim", default=max(1, hidden // heads)),
        vocab=_number(config, "vocab_size"),
        tied=bool(config.get("tie_word_embeddings", family in _TIED_BY_DEFAULT)),
        gated=family not in _PLAIN_MLP,
        max_positions=_number(config, "max_position_embeddings", "n_positions", default=0),
        experts=experts,
        active_experts=_number(config, "num_experts_per_tok", default=0) if experts else 0,
        qkv_bias=bool(config.get("attention_bias", family in _BIASED | _PLAIN_MLP)),
        output_bias=bool(config.get("attention_bias", family in _PLAIN_MLP)) and family not in _BIASED,
        mlp_bias=bool(config.get("mlp_bias", family in _PLAIN_MLP)),
        norms_per_layer=4 if family in _FOUR_NORMS else 2,
        norm_bias=family in _PLAIN_MLP,
        head_norms=family in _HEAD_NORMS,
    )


def _number(config: dict[str, Any], *names: str, default: int | None = None) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 1 << 30:
            return value
        # Dense variants of mixture families write 0 experts, some configurations null.
        if value is not None and not (value == 0 and default is not None):
            raise ConfigError(f"{name} is not a sensible number")
    if default is None:
        raise ConfigError(f"{names[0]} is missing")
    return default
