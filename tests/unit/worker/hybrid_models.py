# SPDX-License-Identifier: Apache-2.0
"""Tiny models of the classes whose layers mix tokens by a state or a convolution too, one of each kind.

By name: the class of the configuration, and its values beside the usual dimensions of a tiny model.
"""

from typing import Any

HYBRIDS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3.5": (
        "Qwen3_5TextConfig",
        {
            "head_dim": 16,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 16,
        },
    ),
    "lfm2": ("Lfm2Config", {"layer_types": ["conv", "full_attention"]}),
    "granite-4": (
        "GraniteMoeHybridConfig",
        {
            "num_local_experts": 0,
            "layer_types": ["mamba", "attention"],
            "shared_intermediate_size": 64,
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
        },
    ),
}
