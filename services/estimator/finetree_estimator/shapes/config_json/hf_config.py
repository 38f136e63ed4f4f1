# SPDX-License-Identifier: Apache-2.0
"""Shape of a model from config.json as transformers writes it, in a folder that the operator configured."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetree_estimator.remarks import Remark
from finetree_estimator.shapes.architecture import Shape
from finetree_estimator.shapes.config_json.mixers import (
    with_convolution,
    with_latent_attention,
    with_linear_attention,
    with_two_attentions,
    with_window,
)
from finetree_estimator.shapes.config_json.settings import (
    SPELLINGS,
    ConfigError,
    expansion,
    flag,
    number,
    switch,
)
from finetree_estimator.shapes.config_json.vision import vision_parameters
from finetree_estimator.shapes.consistency import contradiction
from finetree_estimator.shapes.families import ALIASES, FAMILIES, Family

MAX_CONFIG_BYTES = 1 << 20
"""Largest config.json that is read, in bytes."""
_CONTRACT_NAMES = {
    "attention_heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "active_experts": "num_experts_per_tok",
    "dense_layers": "first_k_dense_replace",
    "linear_attention.layers": "layer_types",
    "full_attention_layers": "layer_types",
    "full_attention.kv_heads": "num_global_key_value_heads",
    "kv_shared_layers": "num_kv_shared_layers",
    "convolution.layers": "layer_types",
    "linear_attention.value_heads": "linear_num_value_heads",
}
"""Names in config.json of fields of the contract's ModelShape."""
_TWO_ATTENTIONS = frozenset({"gemma4_text", "gemma4_unified_text"})
"""Families whose layers without a window attend in dimensions of their own."""
_LINEAR = frozenset({"qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"})
_CONVOLUTIONS = frozenset({"lfm2", "lfm2_moe"})
_LATENT = frozenset({"deepseek_v2", "deepseek_v3", "glm4_moe_lite"})
_MIXERS = (
    (_LINEAR, with_linear_attention),
    (_CONVOLUTIONS, with_convolution),
    (_LATENT, with_latent_attention),
    (_TWO_ATTENTIONS, with_two_attentions),
)
"""Families whose layers have another mixer than attention of one kind, and what reads it."""
_OTHER_LAYERS: dict[str, tuple[str, frozenset[str]]] = {
    "kv_lora_rank": ("latent attention (MLA)", _LATENT),
    "linear_num_value_heads": ("linear attention", _LINEAR),
    "linear_attn_alpha_factor": ("linear attention", frozenset()),
    "mamba_d_state": ("a state-space layer", frozenset()),
    "conv_L_cache": ("a convolution layer", _CONVOLUTIONS),
    "laurel_rank": ("a low-rank residual layer", frozenset()),
    "hidden_size_per_layer_input": ("embeddings per layer", _TWO_ATTENTIONS),
}
"""Settings of kinds of layers that are supported in some families, and in which."""
_GATED_SHARED_EXPERTS = ("qwen2_moe", "qwen3_next", "qwen3_5_moe_text")
"""Families whose shared expert has a gate."""
_FORWARDS_TYING = frozenset({"glm4v", "glm4v_moe", "llava", "llava_onevision", "qwen2_vl", "qwen2_5_vl"})
"""Multimodal models whose embeddings are tied where either the whole or the text model says so."""
_VARIANTS = {"do_layer_norm_before": True, "no_bias": True, "qk_layernorm": False, "add_cross_attention": False}
"""Only supported values of settings whose other value adds layers that are not counted."""
_OTHER_HEADS = ("MaskedLM", "PreTraining", "SequenceClassification", "TokenClassification", "QuestionAnswering")
"""Suffixes of class names of models that do not generate text."""


@dataclass(frozen=True, slots=True)
class Described:
    """A model's shape, and remarks on assumptions about it."""

    shape: Shape
    remarks: tuple[Remark, ...] = ()


def find(root: Path, relative: str) -> Path | None:
    """Find config.json by a path relative to `root` that names the file or its folder; None where there is none.

    Links that lead out of the root are not followed.
    """
    try:
        home = root.resolve()
        candidate = (home / relative).resolve()
        if not candidate.is_relative_to(home):
            return None
        file = candidate / "config.json" if candidate.is_dir() else candidate
        file = file.resolve()
        return file if file.name == "config.json" and file.is_file() and file.is_relative_to(home) else None
    except (OSError, ValueError, RuntimeError):
        # A name too long for the file system, a null character, a loop of links.
        return None


def read(file: Path) -> Described:
    """Read the shape from a config.json. Raises ConfigError."""
    try:
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"the file is larger than {MAX_CONFIG_BYTES:,} bytes")
        config = json.loads(file.read_bytes())
    except OSError as error:
        raise ConfigError("the file cannot be read") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError("the file is not JSON") from error
    if not isinstance(config, dict):
        raise ConfigError("the file is not a JSON object")
    return parse(config)


def parse(config: dict[str, Any]) -> Described:
    """Read the shape from a parsed config.json. Raises ConfigError."""
    text = config.get("text_config")
    if text is not None and not isinstance(text, dict):
        raise ConfigError("text_config is not an object")
    merged = {**config, **(text or {}), **_tying(config, text or {})}
    name = merged.get("model_type") or ""
    if not isinstance(name, str):
        raise ConfigError("model_type is not a string")
    name = ALIASES.get(name, name)
    _refuse_other_kinds(merged, name)
    shape = _shape(merged, name, FAMILIES.get(name, Family()))
    if (problem := contradiction(shape)) is not None:
        raise ConfigError(problem.in_words(_CONTRACT_NAMES))
    multimodal = "text_config" in config or "vision_config" in config
    vision = vision_parameters(config, shape.hidden) if multimodal else 0
    remarks = (*_remarks_on_family(name), *([_remark_on_towers(config, vision)] if multimodal else []))
    return Described(replace(shape, vision=vision or 0), remarks)


def _tying(config: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    """Setting of tied embeddings where the whole model has one: transformers reads it there, not in the text model."""
    whole = config.get("tie_word_embeddings")
    if not isinstance(whole, bool):
        return {}
    forwarded = str(config.get("model_type")) in _FORWARDS_TYING and text.get("tie_word_embeddings") is True
    return {"tie_word_embeddings": whole or forwarded}


def _remark_on_towers(config: dict[str, Any], parameters: int | None) -> Remark:
    towers = "vision and audio towers'" if config.get("audio_config") else "vision tower's"
    text = "only the language model of this multimodal model is trained and "
    if parameters is None:
        text += "counted: how its vision tower is built is not known"
    elif parameters:
        millions = f"{parameters / 1e6:,.0f} million" if parameters >= 1e6 else f"{parameters:,}"
        text = f"only the language model of this multimodal model is trained: its {towers} {millions} parameters"
        text += " take memory alone"
    else:
        text += "loaded, without the vision tower"
    return Remark("TEXT_MODEL_ONLY", text, "spec.model.path")


def _remarks_on_family(name: str) -> Iterator[Remark]:
    if name not in FAMILIES:
        called = f"model_type {name[:64]!r} is unknown" if name else "config.json has no model_type"
        text = f"{called}: biases, norms and module names are assumed to be those of Llama"
        yield Remark("MODEL_FAMILY_UNKNOWN", text, "spec.model.path")


def _refuse_other_kinds(config: dict[str, Any], name: str) -> None:
    """Raise ConfigError for models that the formulas do not describe."""
    for key, (kind, families) in _OTHER_LAYERS.items():
        if config.get(key) and name not in families:
            raise ConfigError(f"{key}: {kind} is not supported; give model.shape with the nearest dimensions")
    if config.get("per_layer_config") and name not in _TWO_ATTENTIONS:
        raise ConfigError("per_layer_config: layers of different dimensions are not supported; give model.shape")
    if config.get("is_encoder_decoder") is True:
        raise ConfigError("is_encoder_decoder: only decoder-only models are supported")
    _refuse_guesses(config, name)
    for key, value in _VARIANTS.items():
        if name in FAMILIES and isinstance(config.get(key), bool) and config[key] is not value:
            raise ConfigError(f"{key}: this variant of {name} is not supported; give model.shape")
    for key in ("decoder_sparse_step", "interleave_moe_layer_step"):
        if config.get(key) not in (None, 1):
            raise ConfigError(f"{key}: alternating layers with and without experts are not supported")
    if config.get("word_embed_proj_dim", config.get("hidden_size")) != config.get("hidden_size"):
        raise ConfigError("word_embed_proj_dim: embeddings of another width are not supported")


def _refuse_guesses(config: dict[str, Any], name: str) -> None:
    """Raise ConfigError where the assumptions about an unknown family would be far off."""
    if name in FAMILIES:
        return
    classes = config.get("architectures")
    if isinstance(classes, list) and classes and all(str(item).endswith(_OTHER_HEADS) for item in classes):
        raise ConfigError(f"architectures: {str(classes[0])[:64]} generates no text; only decoders are supported")
    if any(config.get(spelling) for spelling in SPELLINGS["num_experts"]):
        return
    for key, value in config.items():
        if "experts" in key and isinstance(value, int) and value > 1:
            raise ConfigError(f"{key[:64]}: this description of experts is unknown; give model.shape")


def _shape(config: dict[str, Any], name: str, family: Family) -> Shape:
    hidden = number(config, family, "hidden_size")
    layers = number(config, family, "num_hidden_layers")
    heads = number(config, family, "num_attention_heads")
    known_dim = "head_dim" in family.defaults or config.get("head_dim") or name in _LATENT
    if not known_dim and hidden % heads:
        raise ConfigError("head_dim is missing, and hidden_size is not a multiple of num_attention_heads")
    positions = 0 if family.unlimited else number(config, family, "max_position_embeddings", default=0)
    shape = Shape(
        hidden=hidden,
        layers=layers,
        intermediate=number(config, family, "intermediate_size", default=expansion(config) * hidden),
        heads=heads,
        kv_heads=number(config, family, "num_key_value_heads", default=heads),
        head_dim=number(config, family, "head_dim", default=hidden // heads),
        vocab=number(config, family, "vocab_size"),
        tied=flag(config, "tie_word_embeddings", default=flag(config, "tie_embedding", default=family.tied)),
        gated=family.gated,
        max_positions=positions,
        qkv_bias=switch(config, family.qkv_bias),
        output_bias=switch(config, family.output_bias),
        mlp_bias=switch(config, family.mlp_bias),
        norms_per_layer=family.norms,
        norm_bias=family.norm_bias,
        head_norms=switch(config, family.head_norms),
        lm_head_bias=switch(config, family.lm_head_bias),
        learned_positions=0 if family.position_offset is None else positions + family.position_offset,
        family=name if name in FAMILIES else "",
        guessed=name not in FAMILIES,
    )
    shape = _with_experts(config, family, shape)
    if name in ("falcon", "gpt_bigcode"):
        shape = _with_shared_keys(config, shape)
    shape = with_window(config, family, shape)
    for names, add in _MIXERS:
        if name in names:
            shape = add(config, family, shape)
    if flag(config, "use_parallel_residual", default=False) and name == "stablelm":
        shape = replace(shape, norms_per_layer=1)
    return replace(shape, extra=_extra(config, family, shape))


def _with_experts(config: dict[str, Any], family: Family, shape: Shape) -> Shape:
    """Add experts and dense layers to a shape."""
    beside_mlp = shape.family == "gemma4_text"
    if beside_mlp and not flag(config, "enable_moe_block", default=False):
        return shape
    experts = number(config, family, "num_experts", default=0)
    if not experts:
        return shape
    width = number(config, family, "moe_intermediate_size", default=shape.intermediate)
    dense = max(_first_dense(config, family), _plain_layers(config))
    return replace(
        shape,
        experts=experts,
        active_experts=number(config, family, "num_experts_per_tok", default=1),
        intermediate=width,
        shared_expert=shape.intermediate if beside_mlp else _shared_width(config, family, shape, expert_width=width),
        dense_layers=dense,
        dense_intermediate=shape.intermediate if dense else 0,
    )


def _first_dense(config: dict[str, Any], family: Family) -> int:
    """Dense layers before those with experts. Raises ConfigError."""
    listed = config.get("mlp_layer_types")
    if not isinstance(listed, list):
        # Zero says none, whatever the default.
        given = any(config.get(name) == 0 for name in SPELLINGS["first_k_dense_replace"])
        return 0 if given else number(config, family, "first_k_dense_replace", default=0)
    dense = sum(1 for kind in listed if kind == "dense")
    if any(kind != "dense" for kind in listed[:dense]):
        raise ConfigError("mlp_layer_types: dense layers after layers with experts are not supported")
    return dense


def _plain_layers(config: dict[str, Any]) -> int:
    plain = config.get("mlp_only_layers") or []
    if plain != list(range(len(plain) if isinstance(plain, list) else 0)):
        raise ConfigError("mlp_only_layers: dense layers after layers with experts are not supported")
    return len(plain)


def _shared_width(config: dict[str, Any], family: Family, shape: Shape, *, expert_width: int) -> int:
    if shape.family == "llama4_text":
        return expert_width
    shared = number(config, family, "n_shared_experts", default=0) * expert_width
    return number(config, family, "shared_expert_intermediate_size", default=shared)


def _with_shared_keys(config: dict[str, Any], shape: Shape) -> Shape:
    """Apply the settings of Falcon and GPT-BigCode for key heads, norms and positions."""
    newer = flag(config, "new_decoder_architecture", default=False)
    if not newer and flag(config, "multi_query", default=True):
        shape = replace(shape, kv_heads=1)
    if shape.family == "falcon" and not newer and flag(config, "parallel_attn", default=True):
        shape = replace(shape, norms_per_layer=1)
    if newer:
        shape = replace(shape, norms_per_layer=number(config, Family(), "num_ln_in_parallel_attn", default=2))
    return replace(shape, max_positions=0) if flag(config, "alibi", default=False) else shape


def _extra(config: dict[str, Any], family: Family, shape: Shape) -> int:
    """Parameters of all layers that do not follow from the dimensions."""
    extra = shape.layers * (shape.q_width + shape.kv_width) if switch(config, family.wide_norms) else 0
    mixtures = shape.layers - shape.dense_layers
    if shape.family == "gpt_oss":
        # A sink per head and a bias per expert in the router.
        extra += mixtures * (shape.heads + shape.experts)
    if shape.family == "gemma4_text" and shape.experts:
        # A scale for each expert's weight.
        extra += mixtures * shape.experts
    if shape.family in _GATED_SHARED_EXPERTS and shape.shared_expert:
        # The gate of the shared expert.
        extra += mixtures * shape.hidden
    return extra
