# SPDX-License-Identifier: Apache-2.0
"""Values of a config.json: numbers by any of their names, within what is sensible, and switches."""

from typing import Any

from finetree_estimator.catalog.families import Family, Switch

_LIMITS = {
    "hidden_size": 1 << 20,
    "num_hidden_layers": 4096,
    "intermediate_size": 1 << 22,
    "num_attention_heads": 8192,
    "num_key_value_heads": 8192,
    "head_dim": 1 << 16,
    "vocab_size": 1 << 24,
    "max_position_embeddings": 1 << 30,
    "num_experts": 1 << 16,
    "num_experts_per_tok": 1 << 16,
    "first_k_dense_replace": 4096,
    "num_ln_in_parallel_attn": 2,
}
"""Largest sensible values, those of the contract's ModelShape."""
SPELLINGS = {
    "hidden_size": ("hidden_size", "n_embd", "n_embed", "d_model"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads"),
    "num_key_value_heads": ("num_key_value_heads", "num_kv_heads"),
    "intermediate_size": ("intermediate_size", "ffn_hidden_size", "ffn_dim", "n_inner"),
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
    "num_experts": ("num_local_experts", "num_experts", "n_routed_experts"),
}
"""Spellings of a dimension, the most usual first."""


class ConfigError(ValueError):
    """A config.json that does not describe a decoder-only transformer; the text says what is missing."""


def expansion(config: dict[str, Any]) -> int:
    """How many times the hidden size an MLP is where no other setting says (MPT's). Raises ConfigError."""
    ratio = config.get("expansion_ratio", 4)
    if isinstance(ratio, bool) or not isinstance(ratio, int) or not 0 < ratio <= 64:
        raise ConfigError("expansion_ratio is not a sensible number")
    return ratio


def switch(config: dict[str, Any], told: Switch) -> bool:
    """What a family always has, or what a setting of it says. Raises ConfigError."""
    return told if isinstance(told, bool) else flag(config, told.key, default=told.default)


def flag(config: dict[str, Any], name: str, *, default: bool) -> bool:
    """True or false; null means the default. Raises ConfigError."""
    value = config.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is not true or false")
    return value


def number(config: dict[str, Any], family: Family, name: str, default: int | None = None) -> int:
    """A dimension by any of its names; zero and null mean the default where there is one. Raises ConfigError."""
    fallback, most = family.defaults.get(name, default), _LIMITS.get(name, 1 << 22)
    for spelling in SPELLINGS.get(name, (name,)):
        value = config.get(spelling)
        if value is None or (value == 0 and fallback is not None and not isinstance(value, bool)):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
            text = f"{spelling} is not a sensible number: {value!r:.40}, where 1 to {most:,} is meant"
            raise ConfigError(text)
        return int(value)
    if fallback is None:
        raise ConfigError(f"{name} is missing")
    return fallback
