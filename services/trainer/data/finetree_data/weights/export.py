# SPDX-License-Identifier: Apache-2.0
"""Which trained weights can be exported as what: known before a job is created, and held to by the worker."""

from collections.abc import Mapping

GGUF_MODELS = ("gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3", "smollm3")
"""model_type of the models that are written as GGUF files. SmolLM and SmolLM2 are of the type llama."""
NOT_MERGEABLE: Mapping[str, str] = {
    "adapter": "bottleneck layers cannot be merged: between their two matrices stands a ReLU, which no weight of the "
    "base can take in",
    "prefix": "a prefix cannot be merged: it is keys and values beside the tokens, not a change of weights",
}
"""Why weights of a method cannot become weights of the base, by the method's field in RunSpec."""
_SERVE_BESIDE: Mapping[str, str] = {
    "adapter": "Serve them beside the base instead: with this suite (finetree serve), or added to it in Python as "
    "docs/adapter-format.md shows.",
    "prefix": "Serve it beside the base instead: with this suite (finetree serve), or with peft.",
}
GGUF_ADAPTER_ALONE = "only a LoRA adapter can be a GGUF adapter file"
"""What the format gguf-lora holds."""


def serve_beside(method: str) -> str:
    """Return what to do with weights of a method that cannot be merged, as a sentence."""
    return _SERVE_BESIDE.get(method, "Serve them beside the base instead, with peft.")


def shape_problem(model_type: str) -> str:
    """Return why a model of a type cannot be written as GGUF, as a sentence's end; empty where it can."""
    if model_type in GGUF_MODELS:
        return ""
    return f"models of the type {model_type[:40]!r} cannot be written as GGUF here; these can: {', '.join(GGUF_MODELS)}"
