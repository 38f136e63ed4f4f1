# SPDX-License-Identifier: Apache-2.0
"""Number of parameters of a multimodal model's towers, their projectors to the text model included.

Training on text leaves them alone, but they are loaded and take memory. Read from the modules of transformers 5.24 (a
test builds every kind and compares). Defaults are those of its configuration classes.
"""

from collections.abc import Callable, Mapping
from typing import Any

from finetree_estimator.shapes.config_json import gemma4_towers
from finetree_estimator.shapes.config_json.tower_settings import Settings, UnreadableError, layer_norm, linear

MAX_PARAMETERS = 10**12
"""Largest accepted number of parameters, that of the contract's ModelShape."""
_LOADED_WITHOUT = frozenset({"qwen3_5", "qwen3_5_moe", "llama4"})
"""Models of which transformers' AutoModelForCausalLM builds the text model alone."""


def vision_parameters(config: Mapping[str, Any], hidden: int) -> int | None:
    """Number of parameters of vision tower and projector of a parsed config.json.

    0 where transformers loads the text model alone, None where it is not known how the tower is built. `hidden` is the
    text model's hidden size.
    """
    kind, tower = config.get("model_type"), config.get("vision_config")
    if isinstance(kind, str) and kind in _LOADED_WITHOUT:
        return 0
    if not isinstance(kind, str) or not (isinstance(tower, dict) or kind in gemma4_towers.COUNTED):
        return None
    try:
        if kind in gemma4_towers.COUNTED:
            found: int | None = gemma4_towers.COUNTED[kind](config, hidden)
        else:
            found = _count(kind, Settings(config), Settings(tower or {}), hidden)
    except UnreadableError:
        return None
    return found if found is not None and found <= MAX_PARAMETERS else None


def _count(kind: str, whole: Settings, tower: Settings, hidden: int) -> int | None:
    if kind in _MERGING:
        return _MERGING[kind](tower)
    built, projector = tower.values.get("model_type") or _TOWER_OF.get(kind), _PROJECTORS.get(kind)
    if not isinstance(built, str) or built not in _TOWERS or projector is None:
        return None
    return _TOWERS[built](tower) + projector(whole, _hidden_size(built, tower), hidden)


# ------------------------------------------------------------------------------------------------------------ modules


def _patches(tower: Settings, image: int, patch: int) -> int:
    """Patches of a square image."""
    return (tower.size("image_size", image) // tower.size("patch_size", patch)) ** 2


def _patch_projection(tower: Settings, features: int, patch: int, *, bias: bool = True) -> int:
    """Parameters of the convolution that makes a patch of an image a vector of `features`."""
    return linear(tower.size("num_channels", 3) * tower.size("patch_size", patch) ** 2, features, bias=bias)


def _film_projection(tower: Settings, features: int, patch: int, *, bias: bool) -> int:
    """Parameters of the same over frames of a film."""
    frames = tower.size("in_channels", 3) * tower.size("temporal_patch_size", 2)
    return linear(frames * tower.size("patch_size", patch) ** 2, features, bias=bias)


def _encoder_layer(features: int, intermediate: int) -> int:
    """Parameters of a layer with biases everywhere: two norms, attention and an MLP of two projections."""
    mlp = linear(features, intermediate) + linear(intermediate, features)
    return 2 * layer_norm(features) + 4 * linear(features, features) + mlp


# ------------------------------------------------------------------------------------------------------------- towers


_HIDDEN = {
    "clip_vision_model": 768,
    "siglip_vision_model": 768,
    "siglip2_vision_model": 768,
    "idefics3_vision": 1152,
    "smolvlm_vision": 1152,
}
"""Default hidden sizes of towers that do not have 1024."""


def _hidden_size(built: str, tower: Settings) -> int:
    return tower.size("hidden_size", _HIDDEN.get(built, 1024))


def _clip(tower: Settings) -> int:
    features = _hidden_size("clip_vision_model", tower)
    layer = _encoder_layer(features, tower.size("intermediate_size", 3072))
    positions = (_patches(tower, 224, 32) + 1) * features
    outside = features + _patch_projection(tower, features, 32, bias=False) + positions + 2 * layer_norm(features)
    return tower.size("num_hidden_layers", 12) * layer + outside


def _siglip(tower: Settings) -> int:
    return _siglip_of(tower, _patches(tower, 224, 16))


def _siglip2(tower: Settings) -> int:
    # Images of any proportions: so many positions, from which others are interpolated.
    return _siglip_of(tower, tower.size("num_patches", 256))


def _siglip_of(tower: Settings, positions: int) -> int:
    features, intermediate = _hidden_size("siglip_vision_model", tower), tower.size("intermediate_size", 3072)
    layer = _encoder_layer(features, intermediate)
    # The pooling head is a layer without its first norm, and a learned query.
    head = layer - layer_norm(features) + features if tower.switch("vision_use_head", default=True) else 0
    outside = _patch_projection(tower, features, 16) + positions * features + layer_norm(features)
    return tower.size("num_hidden_layers", 12) * layer + outside + head


def _idefics(tower: Settings) -> int:
    features = _hidden_size("idefics3_vision", tower)
    layer = _encoder_layer(features, tower.size("intermediate_size", 3072))
    outside = _patch_projection(tower, features, 32) + _patches(tower, 224, 32) * features + layer_norm(features)
    return tower.size("num_hidden_layers", 12) * layer + outside


def _pixtral(tower: Settings) -> int:
    features = _hidden_size("pixtral", tower)
    layer = 2 * features + 4 * features**2 + 3 * features * tower.size("intermediate_size", 4096)
    return tower.size("num_hidden_layers", 24) * layer + _patch_projection(tower, features, 14, bias=False) + features


def _internvl(tower: Settings) -> int:
    features = _hidden_size("internvl_vision", tower)
    # Query, key and value have no bias unless asked; two scales of the residual stream a layer.
    unbiased = 0 if tower.switch("attention_bias", default=False) else 3 * features
    head_norms = 2 * features if tower.switch("use_qk_norm", default=False) else 0
    # RMS norms have no bias.
    norms = 0 if tower.values.get("norm_type", "layer_norm") == "layer_norm" else 2 * features
    layer = _encoder_layer(features, tower.size("intermediate_size", 4096)) - unbiased - norms + head_norms
    positions = 0
    if tower.switch("use_absolute_position_embeddings", default=True):
        positions = (_patches(tower, 448, 14) + 1) * features
    last_norm = 0 if tower.switch("use_mean_pooling", default=True) else layer_norm(features)
    mask = features if tower.switch("use_mask_token", default=False) else 0
    outside = features + mask + positions + _patch_projection(tower, features, 14) + last_norm
    return tower.size("num_hidden_layers", 24) * (layer + 2 * features) + outside


_TOWERS: Mapping[str, Callable[[Settings], int]] = {
    "clip_vision_model": _clip,
    "siglip_vision_model": _siglip,
    "siglip2_vision_model": _siglip2,
    **dict.fromkeys(("idefics3", "idefics3_vision", "smolvlm", "smolvlm_vision"), _idefics),
    "pixtral": _pixtral,
    "internvl_vision": _internvl,
}
_TOWER_OF = {
    "gemma3": "siglip_vision_model",
    "mistral3": "pixtral",
    "llava": "clip_vision_model",
    "llava_next": "clip_vision_model",
    "llava_onevision": "siglip_vision_model",
    "lfm2_vl": "siglip2_vision_model",
    "internvl": "internvl_vision",
    "idefics3": "idefics3_vision",
    "smolvlm": "smolvlm_vision",
}
"""Kind of the tower where vision_config does not name it."""


# --------------------------------------------------------------------------------------------------------- projectors


def _of_gemma3(_: Settings, seen: int, hidden: int) -> int:
    return linear(seen, hidden, bias=False) + seen


def _of_llava(whole: Settings, seen: int, hidden: int) -> int:
    bias, layers = whole.switch("multimodal_projector_bias", default=True), whole.length("vision_feature_layer", 1)
    return linear(seen * layers, hidden, bias=bias) + linear(hidden, hidden, bias=bias)


def _of_llava_next(whole: Settings, seen: int, hidden: int) -> int:
    # A vector between rows of an image, too.
    return _of_llava(whole, seen, hidden) + hidden


def _of_mistral3(whole: Settings, seen: int, hidden: int) -> int:
    bias, layers = whole.switch("multimodal_projector_bias", default=False), whole.length("vision_feature_layer", 1)
    merged = seen * whole.size("spatial_merge_size", 2) ** 2
    joined = linear(seen * layers, hidden, bias=bias) + linear(hidden, hidden, bias=bias)
    return seen + linear(merged, seen, bias=False) + joined


def _of_internvl(whole: Settings, seen: int, hidden: int) -> int:
    ratio = whole.values.get("downsample_ratio", 0.5)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 1:
        raise UnreadableError("downsample_ratio")
    merged = seen * int(1 / ratio) ** 2
    return layer_norm(merged) + linear(merged, hidden) + linear(hidden, hidden)


def _of_idefics(whole: Settings, seen: int, hidden: int) -> int:
    return linear(seen * whole.size("scale_factor", 2) ** 2, hidden, bias=False)


def _of_lfm2_vl(whole: Settings, seen: int, hidden: int) -> int:
    bias, between = whole.switch("projector_bias", default=True), whole.size("projector_hidden_size", 2560)
    merged = seen * whole.size("downsample_factor", 2) ** 2
    norm = layer_norm(merged) if whole.switch("projector_use_layernorm", default=True) else 0
    return norm + linear(merged, between, bias=bias) + linear(between, hidden, bias=bias)


_PROJECTORS: Mapping[str, Callable[[Settings, int, int], int]] = {
    "gemma3": _of_gemma3,
    "mistral3": _of_mistral3,
    "llava": _of_llava,
    "llava_next": _of_llava_next,
    "llava_onevision": _of_llava_next,
    "internvl": _of_internvl,
    "idefics3": _of_idefics,
    "smolvlm": _of_idefics,
    "lfm2_vl": _of_lfm2_vl,
}


# ------------------------------------------------------------------------- towers whose last module is the projector


def _merger(merged: int, out: int) -> int:
    """Parameters of the two projections that make one vector of the text model from neighbouring patches."""
    return linear(merged, merged) + linear(merged, out)


def _qwen2_vl(tower: Settings) -> int:
    features, out = tower.size("embed_dim", 1280), tower.size("hidden_size", 3584)
    layer = _encoder_layer(features, features * tower.size("mlp_ratio", 4))
    merger = layer_norm(features) + _merger(features * tower.size("spatial_merge_size", 2) ** 2, out)
    return tower.size("depth", 32) * layer + _film_projection(tower, features, 14, bias=False) + merger


def _qwen2_5_vl(tower: Settings) -> int:
    features, out = tower.size("hidden_size", 3584), tower.size("out_hidden_size", 3584)
    intermediate = tower.size("intermediate_size", 3420)
    mlp = 2 * linear(features, intermediate) + linear(intermediate, features)
    layer = 2 * features + 4 * linear(features, features) + mlp
    merger = features + _merger(features * tower.size("spatial_merge_size", 2) ** 2, out)
    return tower.size("depth", 32) * layer + _film_projection(tower, features, 14, bias=False) + merger


def _qwen3_vl(tower: Settings) -> int:
    features, out = tower.size("hidden_size", 1152), tower.size("out_hidden_size", 3584)
    layer = _encoder_layer(features, tower.size("intermediate_size", 4304))
    merged = features * tower.size("spatial_merge_size", 2) ** 2
    # One merger more for each lower layer whose features the text model sees; these have the norm behind the merging.
    lower = tower.length("deepstack_visual_indexes", 3) * (layer_norm(merged) + _merger(merged, out))
    mergers = layer_norm(features) + _merger(merged, out) + lower
    positions = tower.size("num_position_embeddings", 2304) * features
    return tower.size("depth", 27) * layer + _film_projection(tower, features, 16, bias=True) + positions + mergers


def _glm4v(tower: Settings) -> int:
    features, out = tower.size("hidden_size", 1536), tower.size("out_hidden_size", 4096)
    qkv = linear(features, 3 * features, bias=tower.switch("attention_bias", default=False))
    layer = 2 * features + qkv + features**2 + 3 * features * out
    down = linear(features * tower.size("spatial_merge_size", 2) ** 2, out)
    merger = out**2 + layer_norm(out) + 3 * out * tower.size("intermediate_size", 13696)
    positions = _patches(tower, 336, 14) * features
    outside = _film_projection(tower, features, 14, bias=True) + positions + 2 * features
    return tower.size("depth", 24) * layer + outside + down + merger


_MERGING: Mapping[str, Callable[[Settings], int]] = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "qwen3_vl_moe": _qwen3_vl,
    "glm4v": _glm4v,
    "glm4v_moe": _glm4v,
    "glm46v": _glm4v,
}
