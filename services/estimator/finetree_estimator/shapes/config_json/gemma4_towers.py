# SPDX-License-Identifier: Apache-2.0
"""Number of parameters of Gemma 4's towers for images and audio, and of the projections that bring them to the text.

Gemma 4 12B has no tower: one layer makes vectors of an image's patches, and sound is projected as it is.
"""

from collections.abc import Callable, Mapping
from typing import Any

from finetree_estimator.shapes.config_json.tower_settings import Settings, UnreadableError, layer_norm, linear

AUDIO_MLP_RATIO = 4
"""Width of an MLP of the audio tower over the hidden size (Gemma4AudioFeedForward)."""


def _part(config: Mapping[str, Any], name: str) -> Settings | None:
    """A part of config.json; None where the model has none. Raises UnreadableError."""
    part = config.get(name)
    if part is not None and not isinstance(part, dict):
        raise UnreadableError(name)
    return None if part is None else Settings(part)


def _towers(config: Mapping[str, Any], hidden: int) -> int:
    """Parameters of both towers, of those that the model has. Raises UnreadableError."""
    vision, audio = _part(config, "vision_config"), _part(config, "audio_config")
    return (_vision(vision, hidden) if vision else 0) + (_audio(audio, hidden) if audio else 0)


def _vision(tower: Settings, hidden: int) -> int:
    features, intermediate = tower.size("hidden_size", 768), tower.size("intermediate_size", 3072)
    heads, head_dim = tower.size("num_attention_heads", 12), tower.size("head_dim", 64)
    keys = tower.size("num_key_value_heads", 12)
    attention = 2 * features * head_dim * (heads + keys) + 2 * head_dim
    layer = attention + 3 * features * intermediate + 4 * features
    patches = 3 * tower.size("patch_size", 16) ** 2 * features
    positions = 2 * tower.size("position_embedding_size", 10240) * features
    return tower.size("num_hidden_layers", 16) * layer + patches + positions + features * hidden


def _audio(tower: Settings, hidden: int) -> int:
    features = tower.size("hidden_size", 1024)
    head_dim = features // tower.size("num_attention_heads", 8)
    mlp = 2 * AUDIO_MLP_RATIO * features**2 + 2 * features
    attention = 5 * features**2 + head_dim
    convolution = 3 * features**2 + features * tower.size("conv_kernel_size", 5) + 2 * features
    layer = 2 * mlp + attention + convolution + 3 * features
    first, second = _channels(tower)
    sampling = 9 * first + first + 9 * first * second + second + first // 4 * second * features
    out = tower.size("output_proj_dims", 1536)
    return tower.size("num_hidden_layers", 12) * layer + sampling + linear(features, out) + out * hidden


def _channels(tower: Settings) -> tuple[int, int]:
    """Channels of both convolutions before the audio tower's layers. Raises UnreadableError."""
    given = tower.values.get("subsampling_conv_channels", [128, 32])
    if not isinstance(given, list) or len(given) != 2:
        raise UnreadableError("subsampling_conv_channels")
    first, second = (Settings({"channels": each}).size("channels", 0) for each in given)
    return first, second


def _without_towers(config: Mapping[str, Any], hidden: int) -> int:
    """Parameters of Gemma 4 12B's embedders of images and audio. Raises UnreadableError."""
    vision, audio = _part(config, "vision_config"), _part(config, "audio_config")
    sound = audio.size("audio_embed_dim", 640) * hidden if audio else 0
    return (_patch_embedder(vision, hidden) if vision else 0) + sound


def _patch_embedder(vision: Settings, hidden: int) -> int:
    side = vision.size("patch_size", 16) * vision.size("pooling_kernel_size", 3)
    pixels, features = 3 * side**2, vision.size("mm_embed_dim", 3840)
    positions = 2 * vision.size("mm_posemb_size", 1120) * features
    norms = layer_norm(pixels) + 2 * layer_norm(features)
    return norms + linear(pixels, features) + positions + vision.size("output_proj_dims", 3840) * hidden


COUNTED: Mapping[str, Callable[[Mapping[str, Any], int], int]] = {
    "gemma4": _towers,
    "gemma4_unified": _without_towers,
}
"""Count by config.json's model_type, of a parsed config.json and the text model's hidden size."""
