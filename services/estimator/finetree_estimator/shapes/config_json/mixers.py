# SPDX-License-Identifier: Apache-2.0
"""What mixes tokens in which layers, as config.json says it.

Windows, linear attention, convolutions, latent attention, Gemma 4's two attentions.
"""

from dataclasses import replace
from typing import Any

from finetree_estimator.shapes.architecture import Shape
from finetree_estimator.shapes.config_json.settings import ConfigError, flag, number
from finetree_estimator.shapes.families import Family
from finetree_estimator.shapes.mixers import FullAttention, LatentAttention, LinearAttention, ShortConvolution


def with_window(config: dict[str, Any], family: Family, shape: Shape) -> Shape:
    """Add sliding windows to a shape: by the list of layer types, or by the family's rule."""
    rule = family.window
    if rule is None or (rule.switched and not flag(config, "use_sliding_window", default=False)):
        return shape
    if config.get("sliding_window", rule.default) in (None, 0):
        return shape
    window = number(config, family, "sliding_window", default=rule.default or None)
    listed, every = config.get("layer_types"), config.get("sliding_window_pattern") or rule.full_every
    if isinstance(listed, list) and len(listed) == shape.layers:
        full = sum(kind != "sliding_attention" for kind in listed)
    elif rule.switched:
        first = (
            0
            if config.get("max_window_layers") == 0
            else number(config, family, "max_window_layers", default=rule.first)
        )
        full = min(shape.layers, first)
    else:
        # A pattern is a number of layers, or spelled out ("LLLG").
        every = len(every) if isinstance(every, str) else every
        full = shape.layers // every if isinstance(every, int) and every > 0 else 0
    return replace(shape, window=window, full_attention_layers=full) if full < shape.layers else shape


def with_linear_attention(config: dict[str, Any], family: Family, shape: Shape) -> Shape:
    """Add linear attention to a shape: by the list of layer types, or in all but every so manieth layer."""
    listed = config.get("layer_types")
    if isinstance(listed, list) and len(listed) == shape.layers:
        layers = sum(kind == "linear_attention" for kind in listed)
    else:
        layers = shape.layers - shape.layers // number(config, family, "full_attention_interval")
    linear = LinearAttention(
        layers=layers,
        key_heads=number(config, family, "linear_num_key_heads"),
        key_head_dim=number(config, family, "linear_key_head_dim"),
        value_heads=number(config, family, "linear_num_value_heads"),
        value_head_dim=number(config, family, "linear_value_head_dim"),
        conv_kernel=number(config, family, "linear_conv_kernel_dim"),
    )
    return replace(shape, linear=linear if layers else None, attention_gate=True)


def with_convolution(config: dict[str, Any], family: Family, shape: Shape) -> Shape:
    """Add LFM2's convolutions to a shape, in the layers that do not attend, and the width that its MLP is given.

    Raises ConfigError.
    """
    listed, attending = config.get("layer_types"), config.get("full_attn_idxs")
    if isinstance(listed, list) and len(listed) == shape.layers:
        layers = sum(kind == "conv" for kind in listed)
    elif isinstance(attending, list):
        layers = shape.layers - len({place for place in attending if isinstance(place, int) and place < shape.layers})
    else:
        layers = 0
    kernel = number(config, family, "conv_L_cache", default=3)
    bias = flag(config, "conv_bias", default=False)
    convolution = ShortConvolution(layers, kernel, bias=bias) if layers else None
    return replace(shape, convolution=convolution, intermediate=_adjusted(config, shape))


def _adjusted(config: dict[str, Any], shape: Shape) -> int:
    """Width of LFM2's MLP: two thirds of what is given, rounded up to a multiple. Raises ConfigError."""
    if shape.family != "lfm2" or not flag(config, "block_auto_adjust_ff_dim", default=True):
        return shape.intermediate
    factor = config.get("block_ffn_dim_multiplier", 1.0)
    factor = 1.0 if factor is None else factor
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor <= 64:
        raise ConfigError("block_ffn_dim_multiplier is not a number from 0 to 64")
    multiple = number(config, Family(), "block_multiple_of", default=256)
    given = int(factor * int(2 * shape.intermediate / 3))
    return multiple * max(1, -(-given // multiple))


def with_latent_attention(config: dict[str, Any], family: Family, shape: Shape) -> Shape:
    """Add latent attention to a shape. Raises ConfigError."""
    # Null says that queries are made of the stream; only where nothing is said does the default hold.
    of_stream = config.get("q_lora_rank", 1) is None
    latent = LatentAttention(
        query_rank=0 if of_stream else number(config, family, "q_lora_rank"),
        key_value_rank=number(config, family, "kv_lora_rank"),
        plain_head_dim=number(config, family, "qk_nope_head_dim"),
        rotary_head_dim=number(config, family, "qk_rope_head_dim"),
        value_head_dim=number(config, family, "v_head_dim"),
    )
    return replace(shape, latent=latent, kv_heads=shape.heads, head_dim=latent.head_dim)


def with_two_attentions(config: dict[str, Any], family: Family, shape: Shape) -> Shape:
    """Add Gemma 4's attention of layers without a window, its layers without keys of their own, and layers' inputs.

    Raises ConfigError.
    """
    if not shape.window:
        raise ConfigError("layer_types: Gemma 4 without layers that have a sliding window is not supported")
    inputs = _layer_inputs(config, family, shape)
    full = _full_attention(config, family, shape)
    shared = number(config, family, "num_kv_shared_layers", default=0)
    listed = config.get("layer_types")
    # The last layer has no window, whatever the list or the pattern says.
    last_is_full = listed[-1] != "sliding_attention" if isinstance(listed, list) and listed else shape.layers % 6 == 0
    return replace(
        shape,
        full_attention_layers=shape.full_attention_layers + (0 if last_is_full else 1),
        full_attention=full,
        kv_shared_layers=shared,
        wide_shared_mlp=bool(shared) and flag(config, "use_double_wide_mlp", default=False),
        layer_inputs=inputs,
        # Of experts: three, and the router's, whose scale is a parameter of its own.
        norms_per_layer=shape.norms_per_layer + (1 if inputs else 0) + (4 if shape.experts else 0),
    )


def _full_attention(config: dict[str, Any], family: Family, shape: Shape) -> FullAttention:
    """Attention of the layers without a window: by names of its own, or layer by layer as transformers writes it."""
    alike = flag(config, "attention_k_eq_v", default=False)
    written = config.get("per_layer_config")
    if written is None:
        kv_heads = number(config, family, "num_global_key_value_heads", default=shape.kv_heads)
        head_dim = number(config, family, "global_head_dim", default=512)
        return FullAttention(kv_heads if alike else shape.kv_heads, head_dim, keys_as_values=alike)
    layers = list(written.values()) if isinstance(written, dict) else []
    if not all(isinstance(each, dict) and each == layers[0] for each in layers):
        raise ConfigError("per_layer_config: layers of more than two kinds are not supported")
    own = dict(layers[0]) if layers else {}
    if own.keys() - {"head_dim", "num_key_value_heads"}:
        raise ConfigError("per_layer_config: only head_dim and num_key_value_heads may differ between layers")
    plain = Family()
    kv_heads = number(own, plain, "num_key_value_heads", default=shape.kv_heads)
    return FullAttention(kv_heads, number(own, plain, "head_dim", default=shape.head_dim), keys_as_values=alike)


def _layer_inputs(config: dict[str, Any], family: Family, shape: Shape) -> int:
    """Features of each layer's own input; 0 says that there is none. Raises ConfigError."""
    if shape.family != "gemma4_text" or config.get("hidden_size_per_layer_input") == 0:
        return 0
    tokens = number(config, family, "vocab_size_per_layer_input", default=shape.vocab)
    if tokens != shape.vocab:
        raise ConfigError("vocab_size_per_layer_input: a table of other tokens than vocab_size has is not supported")
    return number(config, family, "hidden_size_per_layer_input", default=256)
