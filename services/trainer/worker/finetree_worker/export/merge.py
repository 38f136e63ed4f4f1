# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters merged into the weights of their base, in float32: W + scale * B A, of DoRA its rows scaled.

Rounding to the number format of an export is left to whoever writes it, so that each weight is rounded once. Merging
into 4-bit weights would round them again by up to a sixth of their size; no base is quantized here.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from finetree_data.weights.export import NOT_MERGEABLE, serve_beside
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

from finetree_worker.errors import PlanError

MERGEABLE = "LORA"
"""peft's type of the adapters that are merged: LoRA, with DoRA and rank stabilization; QLoRA's are the same."""
_PEFT_PREFIX = "PREFIX_TUNING"


def not_mergeable(method: str) -> PlanError:
    """Return the error for weights of a method, by its field in RunSpec or peft's type, that cannot be merged."""
    why = NOT_MERGEABLE.get(method, f"adapters of peft's type {method[:40]} are not merged here")
    text = f"These weights cannot be merged: {why.partition(': ')[2] or why}."
    return PlanError("NOT_MERGEABLE", text, field="export.weights", remedy=serve_beside(method))


def require_mergeable(adapted: PreTrainedModel | PeftModel) -> None:
    """Raise PlanError NOT_MERGEABLE unless the trained weights of a model can become weights of its base."""
    if isinstance(adapted, PeftModel):
        (settings,) = adapted.peft_config.values()
        kind = str(getattr(settings.peft_type, "value", settings.peft_type))
        if kind != MERGEABLE:
            raise not_mergeable("prefix" if kind == _PEFT_PREFIX else kind)
    elif any(name.rpartition(".")[2].startswith("bottleneck_") for name, _ in adapted.named_modules()):
        raise not_mergeable("adapter")


def merge(adapted: PreTrainedModel | PeftModel, on_fraction: Callable[[float], None]) -> PreTrainedModel:
    """Merge a model's adapter into its float32 weights, in place, and return the plain model.

    `on_fraction` is called with 0..1 and may raise to stop; the model is of no use then. Raises PlanError
    NOT_MERGEABLE.
    """
    require_mergeable(adapted)
    if not isinstance(adapted, PeftModel):
        return adapted
    layers = [module for module in adapted.modules() if isinstance(module, BaseTunerLayer)]
    _require_untied(adapted, layers)
    with torch.no_grad():
        for done, layer in enumerate(layers, start=1):
            layer.merge(safe_merge=False)
            on_fraction(done / len(layers))
    tuner: Any = adapted.base_model
    plain: PreTrainedModel = tuner.unload()
    return plain


def _require_untied(adapted: PeftModel, layers: Sequence[Any]) -> None:
    """Refuse an adapter of weights that two layers share: merged for one of them, the other would change too."""
    base: Any = adapted.get_base_model()
    if not base.config.get_text_config().tie_word_embeddings:
        return
    ends = [module for module in (base.get_input_embeddings(), base.get_output_embeddings()) if module is not None]
    if any(layer is end for layer in layers for end in ends):
        text = "The adapter changes the embeddings or the output head, which share their weights in this model."
        raise PlanError("NOT_MERGEABLE", text, field="export.weights", remedy="Serve it beside its base, with peft.")
