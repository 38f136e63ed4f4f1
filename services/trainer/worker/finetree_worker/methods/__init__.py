# SPDX-License-Identifier: Apache-2.0
"""One module per method; each has `apply`, which makes a model trainable, and `save`, which writes the result.

A sixth method is one more module, a dataclass in `plan`, and a line in each function below.
"""

from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetree_worker.methods import adapter, full, lora, prefix, qlora
from finetree_worker.models.load import load_tokenizer
from finetree_worker.plan import (
    AdapterMethod,
    BaseModel,
    FullMethod,
    LoraMethod,
    Method,
    PrefixMethod,
    QloraMethod,
    TrainPlan,
)

PEFT_TYPES = {"full": "", "lora": "LORA", "qlora": "LORA", "prefix": "PREFIX_TUNING", "adapter": ""}
"""What peft calls the artifact of each method; empty where it is none of peft's."""


def apply(model: PreTrainedModel, plan: TrainPlan) -> tuple[PeftModel | PreTrainedModel, PreTrainedModel]:
    """Make the model trainable by the plan's method: the object that `save` takes, and the model to run.

    Raises PlanError where the method cannot be applied to this model.
    """
    if isinstance(plan.method, FullMethod):
        return full.apply(model, plan.method), model
    if isinstance(plan.method, AdapterMethod):
        return adapter.apply(model, plan.method, plan.optimization.seed), model
    if isinstance(plan.method, PrefixMethod):
        start = prefix.init_tokens(plan.method, load_tokenizer(plan.base.folder))
        prefixed = prefix.apply(model, plan.method, start, plan.optimization.sequence_length)
        # The model inside knows nothing of the prefix.
        return prefixed, cast("PreTrainedModel", prefixed)
    adapted = _adapted(model, plan.method, plan.optimization.seed)
    return adapted, cast("PreTrainedModel", adapted.get_base_model())


def _adapted(model: PreTrainedModel, method: LoraMethod | QloraMethod, seed: int) -> PeftModel:
    match method:
        case LoraMethod():
            return lora.apply(model, method, seed)
        case QloraMethod():
            return qlora.apply(model, method, seed)


def save(
    model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, *, method: Method, base: BaseModel, dtype: torch.dtype
) -> None:
    """Write the trained model by its method: an adapter, or a whole model in `dtype` with its tokenizer."""
    match method:
        case FullMethod():
            full.save(model, tokenizer, folder, dtype, base)
        case LoraMethod():
            lora.save(model, folder, method, base)
        case QloraMethod():
            qlora.save(model, folder, method, base)
        case PrefixMethod():
            prefix.save(model, folder, base)
        case AdapterMethod():
            adapter.save(model, folder, method, base)
