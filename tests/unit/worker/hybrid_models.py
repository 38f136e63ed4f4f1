# SPDX-License-Identifier: Apache-2.0
"""Tiny models of the classes whose layers mix tokens by a state or a convolution too, one of each kind.

By name: the class of the configuration, and its values beside the usual dimensions of a tiny model.
"""

from typing import Any

_LINEAR: dict[str, Any] = {
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 16,
}
_MAMBA: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}

HYBRIDS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3.5": ("Qwen3_5TextConfig", _LINEAR),
    "qwen3-next": (
        "Qwen3NextConfig",
        _LINEAR
        | {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
        },
    ),
    "lfm2": ("Lfm2Config", {"layer_types": ["conv", "full_attention"]}),
    "granite-4": (
        "GraniteMoeHybridConfig",
        _MAMBA | {"num_local_experts": 0, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 64},
    ),
    # Both in every layer: attention and a state.
    "falcon-h1": ("FalconH1Config", _MAMBA | {"mamba_d_ssm": 64}),
    "bamba": ("BambaConfig", _MAMBA | {"attn_layer_indices": [1]}),
}
