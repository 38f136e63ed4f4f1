# SPDX-License-Identifier: Apache-2.0
"""Models of the catalog: shapes from the package's data file, found by name, and reasons for unknown names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from finetree_runtime.runspec import model_names

from finetree_estimator.catalog.names import UnknownNameError, split, table
from finetree_estimator.shapes.architecture import Shape
from finetree_estimator.shapes.mixers import FullAttention, LatentAttention, LinearAttention, ShortConvolution


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model of the catalog."""

    name: str
    hub_id: str
    family: str
    license: str
    shape: Shape
    published: str
    """Number of parameters as the source prints it: "7241732096" or "7.24B"."""
    stored_besides: int
    """Numbers that this total counts in addition: buffers, a tied matrix twice."""
    aliases: tuple[str, ...]
    source: str
    date: str


_NUMBERS = {
    "hidden_size": "hidden",
    "layers": "layers",
    "intermediate_size": "intermediate",
    "attention_heads": "heads",
    "kv_heads": "kv_heads",
    "head_dim": "head_dim",
    "vocab_size": "vocab",
    "max_position_embeddings": "max_positions",
    "norms_per_layer": "norms_per_layer",
    "learned_positions": "learned_positions",
    "experts": "experts",
    "active_experts": "active_experts",
    "shared_expert_size": "shared_expert",
    "dense_layers": "dense_layers",
    "dense_intermediate_size": "dense_intermediate",
    "extra_parameters": "extra",
    "sliding_window": "window",
    "full_attention_layers": "full_attention_layers",
    "vision_parameters": "vision",
    "kv_shared_layers": "kv_shared_layers",
    "layer_input_size": "layer_inputs",
}
"""Numeric columns of the data file (empty means 0), with the fields of Shape."""
_SWITCHES = {
    "tied_embeddings": "tied",
    "gated_mlp": "gated",
    "qkv_bias": "qkv_bias",
    "output_bias": "output_bias",
    "mlp_bias": "mlp_bias",
    "norm_bias": "norm_bias",
    "head_norms": "head_norms",
    "lm_head_bias": "lm_head_bias",
    "attention_gate": "attention_gate",
    "wide_shared_mlp": "wide_shared_mlp",
}
"""Boolean columns of the data file (1 means true), with the fields of Shape."""


_LINEAR = {
    "linear_layers": "layers",
    "linear_key_heads": "key_heads",
    "linear_key_head_dim": "key_head_dim",
    "linear_value_heads": "value_heads",
    "linear_value_head_dim": "value_head_dim",
    "linear_conv_kernel": "conv_kernel",
}
"""Columns of linear attention, with the fields of LinearAttention; 0 where the model has none."""


_CONVOLUTION = {"conv_layers": "layers", "conv_kernel": "kernel", "conv_bias": "bias"}
"""Columns of a convolution in place of attention, with the fields of ShortConvolution; 0 where the model has none."""
_LATENT = {
    "latent_query_rank": "query_rank",
    "latent_key_value_rank": "key_value_rank",
    "latent_plain_head_dim": "plain_head_dim",
    "latent_rotary_head_dim": "rotary_head_dim",
    "latent_value_head_dim": "value_head_dim",
}
"""Columns of latent attention, with the fields of LatentAttention; 0 where the model has none."""
_FULL_ATTENTION = {
    "full_kv_heads": "kv_heads",
    "full_head_dim": "head_dim",
    "keys_as_values": "keys_as_values",
}
"""Columns of full attention in dimensions of its own, with the fields of FullAttention; 0 where the model has none."""


@cache
def models() -> tuple[ModelEntry, ...]:
    """All models by name."""
    return tuple(sorted(map(_model, table("models.csv")), key=lambda entry: entry.name))


def model(name: str) -> ModelEntry:
    """Look up a model by catalog name or Hub id, ignoring case. Raises UnknownNameError."""
    if (entry := model_names.find(_model_index(), name)) is None:
        names = (known for m in models() for known in (m.name, m.hub_id))
        raise UnknownNameError(name, model_names.nearest(names, name))
    return entry


@cache
def _model_index() -> Mapping[str, ModelEntry]:
    return model_names.by_name(((entry.name, entry.hub_id, *entry.aliases), entry) for entry in models())


def _model(row: dict[str, str]) -> ModelEntry:
    numbers = {field: int(row[column] or 0) for column, field in _NUMBERS.items()}
    linear = {field: int(row[column]) for column, field in _LINEAR.items()}
    full = {field: int(row[column]) for column, field in _FULL_ATTENTION.items()}
    latent = {field: int(row[column]) for column, field in _LATENT.items()}
    convolution = {field: int(row[column]) for column, field in _CONVOLUTION.items()}
    switches = {field: row[column] == "1" for column, field in _SWITCHES.items()}
    return ModelEntry(
        name=row["name"],
        hub_id=row["hub_id"],
        family=row["family"],
        license=row["license"],
        shape=Shape(
            family=row["model_type"],
            linear=LinearAttention(**linear) if linear["layers"] else None,
            convolution=_convolution(**convolution) if convolution["layers"] else None,
            latent=LatentAttention(**latent) if latent["key_value_rank"] else None,
            full_attention=_full_attention(**full) if full["kv_heads"] else None,
            # mypy cannot see which fields the tables name.
            **numbers,  # type: ignore[arg-type]
            **switches,
        ),
        published=row["published_parameters"],
        stored_besides=int(row["stored_besides"]),
        aliases=split(row["aliases"]),
        source=row["source"],
        date=row["date"],
    )


def _convolution(*, layers: int, kernel: int, bias: int) -> ShortConvolution:
    return ShortConvolution(layers, kernel, bias=bool(bias))


def _full_attention(*, kv_heads: int, head_dim: int, keys_as_values: int) -> FullAttention:
    return FullAttention(kv_heads, head_dim, keys_as_values=bool(keys_as_values))


_QUANTIZED = r"gptq|awq|exl2|gguf|fp8|nvfp4|mxfp4|bnb|\d-?bit|int[48]|q[2-8]_[k0]"
_ENCODERS = (
    r"(al|distil|mobile|tiny|modern|camem)?bert|(ro|de)berta|electra|minilm|mpnet|bge|gte|e5|embed(dings?)?|reranker"
)
_ENCODER_DECODERS = r"(flan-|code|by|m)?t5|bart|pegasus|marian|nllb|opus-mt"
_SENSES = r"vision|clip|vit|diffusion|sdxl|flux|whisper|wav2vec|tts"
_CLOSED = r"gpt-?[345]o?|chatgpt|o[134](-mini)?|claude|gemini|davinci"

_TRAINED = "only decoder-only language models are supported"
_HINTS = (
    (
        rf"(^|.*[-_./ ])({_QUANTIZED})",
        "it is already quantized: name its 16-bit original, which QLoRA quantizes itself",
    ),
    (rf"(^|.*/)({_CLOSED})([-_. ]|$)", "its weights are not public: only its provider can fine-tune it"),
    (rf"(sentence-transformers/|(.*[-_./ ])?({_ENCODERS})([-_. \d]|$))", f"it seems to be an encoder; {_TRAINED}"),
    (rf"(^|.*[-_/ ])({_ENCODER_DECODERS})([-_. ]|$)", f"it seems to be an encoder-decoder; {_TRAINED}"),
    (rf"(^|.*[-_./ ])({_SENSES})([-_. \d]|$)", f"it seems to be a model of images or audio; {_TRAINED}"),
)


def unknown_reason(name: str) -> str:
    """Reason why a model is not in the catalog, from its name; empty where the name shows none."""
    return next((text for pattern, text in _HINTS if re.match(pattern, name.lower())), "")
