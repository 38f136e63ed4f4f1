# SPDX-License-Identifier: Apache-2.0
"""Traits of model families beyond their dimensions: biases, norms, gates, and their settings in config.json.

Read from the configuration and model classes of transformers 5.24 (a test builds every family and compares).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Setting:
    """A boolean setting of config.json and its default."""

    key: str
    default: bool = False


Switch = bool | Setting
"""True, False, or a setting of config.json."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which layers of a family have a sliding window, where config.json does not list them (layer_types)."""

    default: int = 0
    """Default of sliding_window in tokens; 0 for none."""
    full_every: int = 0
    """Every so manieth layer attends to the whole row; 0 for none."""
    switched: bool = False
    """Whether use_sliding_window turns it on, for layers from max_window_layers on."""
    first: int = 28
    """Default of max_window_layers."""


@dataclass(frozen=True, slots=True)
class Family:
    """Traits of a family; the defaults are those of Llama, which are also assumed for unknown families."""

    qkv_bias: Switch = Setting("attention_bias")
    output_bias: Switch = Setting("attention_bias")
    mlp_bias: Switch = Setting("mlp_bias")
    lm_head_bias: Switch = False
    gated: bool = True
    tied: bool = False
    """Default of tie_word_embeddings."""
    norms: int = 2
    """Norms of a layer, without those of heads."""
    norm_bias: bool = False
    head_norms: Switch = False
    """Norms of each head's queries and keys."""
    wide_norms: Switch = False
    """Norms over all queries and all keys of a token, not per head."""
    position_offset: int | None = None
    """Learned position embeddings beyond max_position_embeddings; None without learned positions."""
    unlimited: bool = False
    """Whether positions are encoded as attention biases (ALiBi), which do not limit the sequence length."""
    defaults: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Default dimensions."""
    window: Window | None = None
    """Sliding windows; None where the family has none."""


_NO_BIAS = Family(qkv_bias=False, output_bias=False, mlp_bias=False, window=Window())
_MISTRAL = replace(_NO_BIAS, window=Window(4096))
_SWITCHED = Window(switched=True)
_USE_BIAS = Setting("use_bias")


def _gemma(norms: int, *, head_norms: bool = False, **defaults: int) -> Family:
    known = MappingProxyType({"head_dim": 256, **defaults})
    return Family(mlp_bias=False, tied=True, norms=norms, head_norms=head_norms, defaults=known)


_GEMMA4 = replace(
    _gemma(4, head_norms=True, hidden_size=2304, intermediate_size=9216, num_hidden_layers=30, num_attention_heads=8),
    qkv_bias=Setting("attention_bias"),
)

_LFM2 = replace(_NO_BIAS, window=None, tied=True, head_norms=True)
"""Liquid's: convolutions in most layers."""
_LATENT = {
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}


def _latent(**defaults: int) -> Family:
    """DeepSeek's and what came of it: keys and values of a narrow latent, a mixture with shared experts."""
    return Family(mlp_bias=False, defaults=MappingProxyType({**_LATENT, **defaults}))


_GPT2 = Family(
    qkv_bias=True, output_bias=True, mlp_bias=True, gated=False, tied=True, norm_bias=True, position_offset=0
)

_HYBRID = Family(
    mlp_bias=False,
    head_norms=True,
    defaults=MappingProxyType(
        {
            "head_dim": 256,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 32,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "linear_conv_kernel_dim": 4,
            "full_attention_interval": 4,
        }
    ),
)
"""Qwen3-Next and what came of it: linear attention, and attention whose query projection gives a gate too."""

FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": _MISTRAL,
    "ministral": _MISTRAL,
    "mixtral": _NO_BIAS,
    "qwen2": Family(qkv_bias=True, output_bias=False, mlp_bias=False, window=_SWITCHED),
    "qwen2_moe": Family(
        qkv_bias=Setting("qkv_bias", default=True), output_bias=False, mlp_bias=False, window=_SWITCHED
    ),
    "qwen3": Family(mlp_bias=False, head_norms=True, defaults=MappingProxyType({"head_dim": 128}), window=_SWITCHED),
    "qwen3_moe": Family(mlp_bias=False, head_norms=True, window=Window(switched=True, first=0)),
    "qwen3_next": _HYBRID,
    "qwen3_5_text": _HYBRID,
    "qwen3_5_moe_text": _HYBRID,
    "gemma": _gemma(2),
    "gemma2": replace(_gemma(4), window=Window(4096, full_every=2)),
    # config.json of the multimodal releases holds only values that differ from these.
    "gemma3_text": replace(
        _gemma(
            4, head_norms=True, num_attention_heads=8, num_key_value_heads=4, vocab_size=262208, num_hidden_layers=26
        ),
        window=Window(4096, full_every=6),
    ),
    "lfm2": _LFM2,
    "lfm2_moe": _LFM2,
    "deepseek_v2": replace(_latent(n_shared_experts=2), mlp_bias=Setting("mlp_bias")),
    "deepseek_v3": _latent(n_shared_experts=1, first_k_dense_replace=3),
    "glm4_moe_lite": _latent(
        n_shared_experts=1, first_k_dense_replace=1, q_lora_rank=768, qk_nope_head_dim=192, v_head_dim=256
    ),
    "gemma4_text": replace(_GEMMA4, window=Window(512, full_every=6)),
    "gemma4_unified_text": replace(_GEMMA4, window=Window(1024, full_every=6)),
    "phi": Family(
        qkv_bias=True, output_bias=True, mlp_bias=True, lm_head_bias=True, gated=False, norms=1, norm_bias=True
    ),
    "phi3": _NO_BIAS,
    "phimoe": Family(mlp_bias=False, norm_bias=True, lm_head_bias=Setting("lm_head_bias"), window=Window()),
    "smollm3": Family(tied=True, window=Window(switched=True, first=0)),
    "gpt_oss": Family(
        qkv_bias=Setting("attention_bias", default=True),
        output_bias=Setting("attention_bias", default=True),
        mlp_bias=True,
        defaults=MappingProxyType({"head_dim": 64}),
        window=Window(128, full_every=2),
    ),
    "olmo": Family(mlp_bias=False),
    "olmo2": Family(mlp_bias=False, wide_norms=True),
    "olmo3": Family(mlp_bias=False, wide_norms=True, window=Window(4096, full_every=4)),
    "olmoe": Family(mlp_bias=False, wide_norms=True),
    "falcon": Family(
        qkv_bias=Setting("bias"),
        output_bias=Setting("bias"),
        mlp_bias=Setting("bias"),
        gated=False,
        tied=True,
        norm_bias=True,
    ),
    "gpt2": _GPT2,
    "gpt_bigcode": _GPT2,
    "gpt_neox": Family(
        qkv_bias=Setting("attention_bias", default=True),
        output_bias=Setting("attention_bias", default=True),
        mlp_bias=True,
        gated=False,
        norm_bias=True,
    ),
    "gptj": Family(
        qkv_bias=False, output_bias=False, mlp_bias=True, lm_head_bias=True, gated=False, norms=1, norm_bias=True
    ),
    "stablelm": Family(qkv_bias=Setting("use_qkv_bias"), output_bias=False, mlp_bias=False, norm_bias=True),
    "granite": Family(),
    "granitemoe": Family(mlp_bias=False),
    "starcoder2": Family(
        qkv_bias=Setting("use_bias", default=True),
        output_bias=Setting("use_bias", default=True),
        mlp_bias=Setting("use_bias", default=True),
        gated=False,
        tied=True,
        norm_bias=True,
        window=Window(),
    ),
    "cohere": Family(mlp_bias=False, tied=True, norms=1, wide_norms=Setting("use_qk_norm")),
    "cohere2": Family(mlp_bias=False, tied=True, norms=1, window=Window(4096, full_every=4)),
    "opt": Family(
        qkv_bias=Setting("enable_bias", default=True),
        output_bias=Setting("enable_bias", default=True),
        mlp_bias=Setting("enable_bias", default=True),
        gated=False,
        tied=True,
        norm_bias=True,
        # Two rows before the first position, for padding.
        position_offset=2,
    ),
    "bloom": Family(
        qkv_bias=True, output_bias=True, mlp_bias=True, gated=False, tied=True, norm_bias=True, unlimited=True
    ),
    "mpt": Family(qkv_bias=False, output_bias=False, mlp_bias=False, gated=False, tied=True, unlimited=True),
    "internlm3": Family(),
    "glm": Family(qkv_bias=Setting("attention_bias", default=True), output_bias=False, mlp_bias=False),
    "glm4": Family(qkv_bias=Setting("attention_bias", default=True), output_bias=False, mlp_bias=False, norms=4),
    "glm4_moe": Family(output_bias=False, mlp_bias=False, head_norms=Setting("use_qk_norm")),
    "ernie4_5": Family(qkv_bias=_USE_BIAS, output_bias=_USE_BIAS, mlp_bias=_USE_BIAS, tied=True),
    "seed_oss": Family(qkv_bias=Setting("attention_bias", default=True), output_bias=Setting("attention_out_bias")),
    "exaone4": Family(
        qkv_bias=False, output_bias=False, mlp_bias=False, head_norms=True, window=Window(4096, full_every=4)
    ),
    "hunyuan_v1_dense": Family(mlp_bias=False, head_norms=True),
    "nemotron": Family(gated=False, norm_bias=True),
    "llama4_text": Family(mlp_bias=False),
}
"""Family by config.json's model_type."""
ALIASES = {
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "lfm2_vl": "lfm2",
    "gemma4_unified": "gemma4_unified_text",
    "llama4": "llama4_text",
    "mistral3": "mistral",
    "ministral3": "mistral",
    **dict.fromkeys(("qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text"), "qwen2"),
    **dict.fromkeys(("qwen3_vl", "qwen3_vl_text"), "qwen3"),
    **dict.fromkeys(("qwen3_vl_moe", "qwen3_vl_moe_text"), "qwen3_moe"),
    **dict.fromkeys(("glm4v", "glm4v_text", "glm46v"), "glm4"),
    **dict.fromkeys(("glm4v_moe", "glm4v_moe_text"), "glm4_moe"),
    **dict.fromkeys(("llava", "llava_next", "smolvlm", "idefics3"), "llama"),
    **dict.fromkeys(("internvl", "llava_onevision"), "qwen2"),
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "RefinedWebModel": "falcon",
    "RefinedWeb": "falcon",
}
"""Other names of model_type: of the wrapper that holds a text model, of a text model with the layers of another, or of
old files. A wrapper's name counts where config.json does not name its text model: that is its default then.
"""
