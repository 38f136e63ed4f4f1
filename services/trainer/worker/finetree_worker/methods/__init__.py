# SPDX-License-Identifier: Apache-2.0
"""One module per method; each has `apply`, which makes a model trainable, and `save`, which writes the result."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from finetree_worker.methods import full, lora
from finetree_worker.plan import BaseModel, FullMethod, Method


def save(
    model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, *, method: Method, base: BaseModel, dtype: torch.dtype
) -> None:
    """Write the trained model by its method: an adapter, or a whole model in `dtype` with its tokenizer."""
    if isinstance(method, FullMethod):
        full.save(model, tokenizer, folder, dtype, base)
    else:
        lora.save(model, folder, method, base)
