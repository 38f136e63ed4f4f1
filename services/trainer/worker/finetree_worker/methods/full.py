# SPDX-License-Identifier: Apache-2.0
"""Full fine-tuning: every weight is trained, but for the lowest layers if asked."""

import re
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetree_worker.errors import PlanError
from finetree_worker.plan import BaseModel, FullMethod

_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


def apply(model: PreTrainedModel, method: FullMethod) -> PreTrainedModel:
    """Make all weights trainable but those of the lowest `frozen_layers` layers and, with them, the embeddings."""
    layers = int(model.config.get_text_config().num_hidden_layers)
    if method.frozen_layers >= layers:
        raise PlanError(
            "NOTHING_TO_TRAIN",
            f"{method.frozen_layers} frozen layers leave nothing to train: the model has {layers}.",
            field="full.frozen_layers",
            remedy=f"Freeze at most {layers - 1} layers.",
        )
    embeddings = {id(p) for p in model.get_input_embeddings().parameters()}
    for name, parameter in model.named_parameters():
        layer = _LAYER.search(f".{name}")
        frozen = int(layer[1]) < method.frozen_layers if layer else id(parameter) in embeddings
        parameter.requires_grad_(not (method.frozen_layers and frozen))
    return model


def save(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: torch.dtype, base: BaseModel
) -> None:
    """Write config.json, the tokenizer and safetensors shards of at most 5 GB in `dtype`, as transformers does."""
    state = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    model.config.dtype = dtype
    model.config._name_or_path = base.hub_id  # noqa: SLF001 - else the folder on this machine would be published
    model.config.use_cache = True
    model.save_pretrained(folder, state_dict=state, safe_serialization=True, max_shard_size="5GB")
    tokenizer.save_pretrained(folder)
