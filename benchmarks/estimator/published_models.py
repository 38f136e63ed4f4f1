# SPDX-License-Identifier: Apache-2.0
"""The models of the published rows: their catalog name, or their shape where the catalog has none like them.

A shape that stands here was checked against the row itself: LLM Foundry prints each model's parameter count to six
digits (with the learned positions of its sequence length), LitGPT prints the trainable parameters of its adapters.
"""

from finetree_api.types.v1 import model_pb2
from finetree_estimator.catalog.models import model as catalog_model
from finetree_estimator.catalog.names import UnknownNameError
from finetree_estimator.messages.catalog import model_message
from other_shapes import SHAPES

CATALOG = {
    "meta-llama/Llama-3.2-3B": "llama-3.2-3b",
    "llama3-8b": "llama-3-8b",
    "llama3.1-8b": "llama-3.1-8b",
    "llama3.1-70b": "llama-3.1-70b",
    "granite-3.1-8b-instruct": "granite-3.1-8b",
    # Replicas of Llama 2 in every dimension (ibm-granite/granite-7b-base; huggyllama/llama-13b but for its positions).
    "granite-7b-base": "llama-2-7b",
    "llama-13b": "llama-2-13b",
    "phi-1.5": "phi-1.5",
    "Llama 2 7B": "llama-2-7b",
    "Llama 2/7": "llama-2-7b",
    "Llama 2/13": "llama-2-13b",
}
"""Published name, with "/" and the size in billions where the name alone does not tell, to the catalog's."""

_MPT = {
    "MPT-125m": (768, 12, 12),
    "MPT-350m": (1024, 24, 16),
    "MPT-760m": (1536, 24, 12),
    "MPT-1b": (2048, 24, 16),
    "MPT-3b": (2560, 32, 20),
    "MPT-7b": (4096, 32, 32),
    "MPT-13b": (5120, 40, 40),
    "MPT-30b": (7168, 48, 56),
}
"""Width, layers and heads (github:mosaicml/llm-foundry scripts/train/yamls/pretrain/mpt-*.yaml)."""


def described(name: str, params_b: float, sequence_length: int) -> tuple[str | None, model_pb2.ModelShape | None]:
    """Catalog name and shape of a published model; both None when nothing is known of it.

    `params_b` is its size in billions, where the name alone does not tell.
    """
    known = CATALOG.get(name) or CATALOG.get(f"{name}/{params_b:g}")
    shape = SHAPES.get(name.lower()) or _shape_of(name, params_b, sequence_length)
    if known is None and shape is not None:
        return None, shape
    try:
        entry = catalog_model(known or name)
    except UnknownNameError:
        return None, None
    if 0 < entry.shape.max_positions < sequence_length:
        # IBM cut rows far beyond a model's positions; memory and time do not ask whether the answer makes sense.
        shape = model_message(entry).shape
        shape.max_position_embeddings = 0
        return entry.name, shape
    return entry.name, None


def _shape_of(model: str, params_b: float, sequence_length: int) -> model_pb2.ModelShape | None:
    """Shape of a published model that the catalog does not have; None when it is not known."""
    if model in _MPT:
        return _mpt(model, sequence_length)
    if model.startswith("StableLM Alpha"):
        return _stablelm_alpha()
    if model == "Falcon" and params_b == 40:
        return _falcon_40b()
    if model == "allam-1-13b":
        return _allam_13b()
    return None


def _mpt(model: str, sequence_length: int) -> model_pb2.ModelShape:
    """MPT as LLM Foundry's benchmark trains it: tied embeddings, learned positions, biases everywhere."""
    hidden, layers, heads = _MPT[model]
    return model_pb2.ModelShape(
        hidden_size=hidden,
        layers=layers,
        intermediate_size=4 * hidden,
        attention_heads=heads,
        vocab_size=50368,
        tied_embeddings=True,
        attention_bias=True,
        attention_output_bias=True,
        mlp_bias=True,
        norm_bias=True,
        learned_positions=sequence_length,
        family="mpt",
    )


def _stablelm_alpha() -> model_pb2.ModelShape:
    """StableLM-Base-Alpha-3B, a GPT-NeoX; LitGPT pads its vocabulary (litgpt/config.py@0006c973)."""
    return model_pb2.ModelShape(
        hidden_size=4096,
        layers=16,
        intermediate_size=16384,
        attention_heads=32,
        vocab_size=50688,
        max_position_embeddings=4096,
        attention_bias=True,
        attention_output_bias=True,
        mlp_bias=True,
        norm_bias=True,
        # LitGPT adapts queries and values apart although one projection makes them: Llama's names, not GPT-NeoX's.
        family="",
    )


def _falcon_40b() -> model_pb2.ModelShape:
    """Falcon-40B: eight key and value heads of 64, a plain MLP, no biases (its config.json)."""
    return model_pb2.ModelShape(
        hidden_size=8192,
        layers=60,
        intermediate_size=32768,
        attention_heads=128,
        kv_heads=8,
        head_dim=64,
        vocab_size=65024,
        tied_embeddings=True,
        max_position_embeddings=2048,
        norm_bias=True,
        family="",
    )


def _allam_13b() -> model_pb2.ModelShape:
    """ALLaM-1-13B: Llama 2 13B with a larger vocabulary (arXiv 2407.15390).

    The size of that vocabulary is entered from memory and not verified. Only rows of throughput are of this model, and
    64,000 rather than 32,000 entries change its FLOPs by 1 %.
    """
    return model_pb2.ModelShape(
        hidden_size=5120,
        layers=40,
        intermediate_size=13824,
        attention_heads=40,
        vocab_size=64000,
        gated_mlp=True,
        family="llama",
    )
