# SPDX-License-Identifier: Apache-2.0
"""Modules of transformers' models: families of a structure that the faster ways rely on, and what reads text."""

from typing import Any

from torch import nn

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3"})
"""Query, key and value read one tensor, as do gate and up; norms divide by the root of the mean square in float32."""


def is_known(module: nn.Module) -> bool:
    """Return whether a module is one of these families' own."""
    return type(module).__module__ in {f"transformers.models.{name}.modeling_{name}" for name in FAMILIES}


def text_modules(model: nn.Module) -> set[nn.Module]:
    """Return the modules that read text: all of a language model, but no vision tower and no projector of images."""
    found: Any = model
    parts = [found.get_decoder(), found.get_output_embeddings()]
    return {module for part in parts if part is not None for module in part.modules()}
