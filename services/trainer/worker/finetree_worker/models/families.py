# SPDX-License-Identifier: Apache-2.0
"""Model families of transformers whose layers are of a structure that the faster ways rely on."""

from torch import nn

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3"})
"""Query, key and value read one tensor, as do gate and up; norms divide by the root of the mean square in float32."""


def is_known(module: nn.Module) -> bool:
    """Return whether a module is one of these families' own."""
    return type(module).__module__ in {f"transformers.models.{name}.modeling_{name}" for name in FAMILIES}
