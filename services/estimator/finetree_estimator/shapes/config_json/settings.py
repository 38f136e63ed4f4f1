# SPDX-License-Identifier: Apache-2.0
"""Numbers and switches of config.json, by any of their names, within limits."""

from typing import Any

from finetree_estimator.shapes.families import Family, Switch

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
    "sliding_window": 1 << 30,
    "max_window_layers": 4096,
    "linear_num_key_heads": 8192,
    "linear_num_value_heads": 8192,
    "linear_key_head_dim": 1 << 16,
    "linear_value_head_dim": 1 << 16,
    "linear_conv_kernel_dim": 64,
    "full_attention_interval": 4096,
    "global_head_dim": 1 << 16,
    "conv_L_cache": 64,
    "q_lora_rank": 1 << 20,
    "kv_lora_rank": 1 << 20,
    "qk_nope_head_dim": 1 << 16,
    "qk_rope_head_dim": 1 << 16,
    "v_head_dim": 1 << 16,
    "num_global_key_value_heads": 8192,
    "num_kv_shared_layers": 4096,
    "hidden_size_per_layer_input": 1 << 16,
}
"""Largest accepted values, those of the contract's ModelShape."""
SPELLINGS = {
    "hidden_size": ("hidden_size", "n_embd", "n_embed", "d_model"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads"),
    "num_key_value_heads": ("num_key_value_heads", "num_kv_heads"),
    "intermediate_size": ("block_ff_dim", "intermediate_size", "ffn_hidden_size", "ffn_dim", "n_inner"),
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
    "num_experts": ("num_local_experts", "num_experts", "n_routed_experts"),
    "first_k_dense_replace": ("first_k_dense_replace", "num_dense_layers"),
    "num_experts_per_tok": ("num_experts_per_tok", "top_k_experts"),
}
"""Names of a dimension in config.json, the most common first."""


class ConfigError(ValueError):
    """A config.json that does not describe a supported decoder-only transformer."""


def expansion(config: dict[str, Any]) -> int:
    """Ratio of MLP width to hidden size where intermediate_size is absent (MPT). Raises ConfigError."""
    ratio = config.get("expansion_ratio", 4)
    if isinstance(ratio, bool) or not isinstance(ratio, int) or not 0 < ratio <= 64:
        raise ConfigError("expansion_ratio is not an integer from 1 to 64")
    return ratio


def switch(config: dict[str, Any], trait: Switch) -> bool:
    """Value of a family's trait, read from config.json where it is a setting. Raises ConfigError."""
    return trait if isinstance(trait, bool) else flag(config, trait.key, default=trait.default)


def flag(config: dict[str, Any], name: str, *, default: bool) -> bool:
    """Read a boolean; null means the default. Raises ConfigError."""
    value = config.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is not true or false")
    return value


def number(config: dict[str, Any], family: Family, name: str, *, default: int | None = None) -> int:
    """Read a dimension by any of its names; zero and null mean the default if there is one. Raises ConfigError."""
    fallback, most = family.defaults.get(name, default), _LIMITS.get(name, 1 << 22)
    for spelling in SPELLINGS.get(name, (name,)):
        value = config.get(spelling)
        if value is None or (value == 0 and fallback is not None and not isinstance(value, bool)):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
            text = f"{spelling} is {value!r:.40}, not an integer from 1 to {most:,}"
            raise ConfigError(text)
        return int(value)
    if fallback is None:
        raise ConfigError(f"{name} is missing")
    return fallback
