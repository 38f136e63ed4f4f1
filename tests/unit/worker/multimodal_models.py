# SPDX-License-Identifier: Apache-2.0
"""Tiny models of the classes that read images beside text, one of each kind.

By name: the class of the configuration, the text model's values beside the usual dimensions of a tiny model, those of
the vision tower, and those of the whole. The parts of multimodal rotary positions add up to half of the dimensions of a
head that are rotated.
"""

from typing import Any

_TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
_DEEP: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 4,
    "patch_size": 14,
    "out_hidden_size": 32,
}
_DEEPSTACK = _DEEP | {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
_MIXTURE: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_GLM_MIXTURE: dict[str, Any] = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}


def _parts(*section: int, **more: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(section)} | more
    return {"rope_parameters": rope, "pad_token_id": 0}


_HEAD = {"head_dim": 16}
_GLM = {"num_attention_heads": 2} | _parts(2, 1, 1, partial_rotary_factor=0.5)
_QWEN3 = _HEAD | _parts(4, 2, 2)
_LLAMA: dict[str, Any] = {"model_type": "llama", "head_dim": 16}
_QWEN2: dict[str, Any] = {"model_type": "qwen2"}
MULTIMODAL: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "mistral3": (
        "Mistral3Config",
        {"model_type": "mistral", "head_dim": 16},
        _TOWER | {"model_type": "pixtral", "head_dim": 8},
        {"image_token_index": 5},
    ),
    "ministral3": (
        "Mistral3Config",
        {"model_type": "ministral3", "head_dim": 16},
        _TOWER | {"model_type": "pixtral", "head_dim": 8},
        {"image_token_index": 5},
    ),
    "qwen2-vl": (
        "Qwen2VLConfig",
        _parts(2, 1, 1),
        {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4},
        {},
    ),
    "qwen2.5-vl": ("Qwen2_5_VLConfig", _parts(2, 1, 1), _DEEP | {"fullatt_block_indexes": [1]}, {}),
    "qwen3-vl": ("Qwen3VLConfig", _QWEN3, _DEEPSTACK, {}),
    "qwen3-vl mixture": ("Qwen3VLMoeConfig", _QWEN3 | _MIXTURE, _DEEPSTACK, {}),
    "glm-4v": ("Glm4vConfig", _GLM, _DEEP | {"image_size": 28}, {}),
    "glm-4v mixture": ("Glm4vMoeConfig", _GLM | _HEAD | _GLM_MIXTURE, _DEEP | {"image_size": 28}, {}),
    "glm-4.6v": (
        "Glm46VConfig",
        _GLM | {"model_type": "glm4v_text"},
        _DEEP | {"image_size": 28, "model_type": "glm4v_vision"},
        {},
    ),
    "internvl": (
        "InternVLConfig",
        _QWEN2,
        _TOWER | {"image_size": [28, 28], "patch_size": [14, 14]},
        {"image_token_id": 5},
    ),
    "smolvlm": ("SmolVLMConfig", _LLAMA, _TOWER, {"image_token_id": 5, "pad_token_id": 0}),
    "idefics3": ("Idefics3Config", _LLAMA, _TOWER, {"image_token_id": 5, "pad_token_id": 0}),
    "llava": ("LlavaConfig", _LLAMA, _TOWER | {"model_type": "clip_vision_model"}, {"image_token_index": 5}),
    "llava-next": ("LlavaNextConfig", _LLAMA, _TOWER | {"model_type": "clip_vision_model"}, {"image_token_index": 5}),
    "llava-onevision": (
        "LlavaOnevisionConfig",
        _QWEN2,
        _TOWER | {"model_type": "siglip_vision_model"},
        {"image_token_index": 5, "video_token_index": 6},
    ),
    "lfm2-vl": (
        "Lfm2VlConfig",
        {"model_type": "lfm2", "layer_types": ["conv", "full_attention"]},
        _TOWER | {"model_type": "siglip2_vision_model", "num_patches": 4},
        {"image_token_id": 5, "projector_hidden_size": 32},
    ),
}


def multimodal_shape(name: str, text: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a configuration, its text model of the dimensions in `text`."""
    _, own, vision, whole = MULTIMODAL[name]
    return {"text_config": text | own, "vision_config": vision} | whole
