# SPDX-License-Identifier: Apache-2.0
"""LoRA (Hu et al. 2021, arXiv:2106.09685) through peft, with counter-based dropout and 16-bit adapter products."""

from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from finetree_worker.methods import peft_format
from finetree_worker.models.load import expert_parameters, is_mixture, linear_names, quiet_peft, short_name
from finetree_worker.plan import BaseModel, LoraMethod
from finetree_worker.randomness import CounterDropout

ADAPTER = "default"
"""peft's name for the one adapter of a model."""

CONV1D_FAMILIES = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
"""Model types of transformers 5.24 whose linear layers are Conv1D, hence transposed where they are not quantised."""


class LoraLinear(PeftLinear):
    """peft's LoRA layer with another forward pass; its parameters and its saved form are peft's own.

    peft casts the layer's whole input to the adapter's float32; here the small matrices are cast to the input's type
    instead, which keeps master weights in float32 and both products in the type of the base.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        dropout = self.lora_dropout[ADAPTER]
        self.lora_dropout[ADAPTER] = CounterDropout(getattr(dropout, "p", 0.0), int(self.in_features or 0))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """base(x) + scale * B(A(dropout(x))); x (1, tokens, in features)."""
        if self.disable_adapters or self.merged or self.use_dora.get(ADAPTER):
            plain: Tensor = super().forward(x, *args, **kwargs)
            return plain
        # torch types a child module as Tensor | Module.
        base, dropout = cast("Any", self.base_layer), cast("Any", self.lora_dropout[ADAPTER])
        down, up = cast("Any", self.lora_A[ADAPTER]), cast("Any", self.lora_B[ADAPTER])
        narrow, wide = linear(dropout.unscaled(x), down.weight.to(x.dtype)), up.weight.to(x.dtype)
        scale = self.scaling[ADAPTER] * dropout.scale
        if type(base) is nn.Linear:
            return _added(base(x.flatten(0, -2)), narrow, wide, scale)
        return torch.add(base(x), linear(narrow, wide), alpha=scale)


def _added(result: Tensor, narrow: Tensor, wide: Tensor, scale: float) -> Tensor:
    """Result (tokens, out) + scale * narrow (..., rank) wide^T, in place, with the leading dimensions of `narrow`.

    The product adds itself to what is there, in float32 before its one rounding; on its own it would be as large as the
    result, and be read and written twice more, its gradient too. Nobody keeps what a plain linear layer returns.
    """
    result.addmm_(narrow.flatten(0, -2), wide.t(), alpha=scale)
    return result.view(*narrow.shape[:-1], -1)


def apply(model: PreTrainedModel, method: LoraMethod, seed: int, field: str = "lora") -> PeftModel:
    """Add adapters to the model's linear layers and freeze the rest. A starts random (from the seed), B at zero.

    The experts of a mixture, where they are asked for, are adapted by peft's own layer for parameters.

    `field` is where the spec has the method's settings, for errors. Raises PlanError TARGET_NOT_FOUND.
    """
    names = linear_names(model, method, field)
    config = LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,  # type: ignore[arg-type]  # peft only ever divides it
        lora_dropout=method.dropout,
        use_rslora=method.rank_stabilized,
        use_dora=method.weight_decomposed,
        fan_in_fan_out=_transposed(model),
        target_modules=names,
        target_parameters=expert_parameters(model, method) or None,
        bias="none",
        task_type="CAUSAL_LM",
    )
    config._register_custom_module({nn.Linear: LoraLinear, Conv1D: LoraLinear})  # noqa: SLF001 - peft's documented way to a layer of one's own
    with torch.random.fork_rng(devices=[]), quiet_peft():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config, autocast_adapter_dtype=True)
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad = "lora_" in name
    return adapted


def _transposed(model: PreTrainedModel) -> bool:
    """Whether the weights of the model's adapted layers are (in, out), as in GPT-2; quantised ones never are."""
    return any(isinstance(module, Conv1D) for module in model.modules())


def save(model: PeftModel, folder: Path, method: LoraMethod, base: BaseModel) -> None:
    """Write the adapter as peft itself does, naming the base by its hub id and its layers as peft finds them."""
    settings: Any = model.peft_config[ADAPTER]
    found: set[str] = set(settings.target_modules)
    # Full names per layer are for us; servers and merges expect the short names, which select the same layers. But peft
    # takes short names of a mixture's MLP for its experts, also where they mean the shared one.
    short = not method.modules and not is_mixture(model)
    peft_format.write(
        model,
        folder,
        base,
        target_modules=sorted({short_name(name) for name in found} if short else found),
        fan_in_fan_out=model.config.model_type in CONV1D_FAMILIES,
    )
