# SPDX-License-Identifier: Apache-2.0
"""LoRA (Hu et al. 2021, arXiv:2106.09685) through peft, with counter-based dropout and 16-bit adapter products."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, cast

import torch
from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from finetree_worker.errors import PlanError
from finetree_worker.methods import compatibility, peft_format
from finetree_worker.methods.lazy_bitsandbytes import without_bitsandbytes
from finetree_worker.methods.targets import PRESETS, Targets, expert_parameters, is_mixture, linear_names, short_name
from finetree_worker.models import portable_files
from finetree_worker.plan import BaseModel, Method, Plan
from finetree_worker.portable import Portable
from finetree_worker.randomness import CounterDropout
from finetree_worker.spec_values import not_supported, stated, value_of

ADAPTER = "default"
"""peft's name for the one adapter of a model."""

CONV1D_FAMILIES = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
"""Model types of transformers 5.24 whose linear layers are Conv1D, hence transposed where they are not quantized."""

_PEFT_ALONE = (
    *("lora_bias", "alora_invocation_tokens", "use_qalora", "monteclora_config", "use_bdlora", "arrow_config"),
    *("kasa_config", "velora_config"),
)
"""Settings of peft 0.21's LoRA that LoraLinear does not compute."""

_EXPERTS_NEED = "needs transformers 5 or newer: the experts of a mixture are other parameters in 4.x"


class Sharing(Protocol):
    """Computes layers that read one input together."""

    def output(self, layer: "LoraLinear", x: Tensor) -> Tensor | None:
        """Return what `layer` makes of x (1, tokens, in features), or None where it has to compute it alone."""


class LoraLinear(PeftLinear):
    """peft's LoRA layer with another forward pass; its parameters and its saved form are peft's own.

    peft casts the layer's whole input to the adapter's float32; here the small matrices are cast to the input's type
    instead, which keeps master weights in float32 and both products in the type of the base.
    """

    sharing: Sharing | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        dropout = self.lora_dropout[ADAPTER]
        self.lora_dropout[ADAPTER] = CounterDropout(getattr(dropout, "p", 0.0), int(self.in_features or 0))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return base(x) + scale * B(A(dropout(x))); x (1, tokens, in features)."""
        if self.disable_adapters or self.merged or self.use_dora.get(ADAPTER):
            plain: Tensor = super().forward(x, *args, **kwargs)
            return plain
        if self.sharing is not None and (shared := self.sharing.output(self, x)) is not None:
            return shared
        # torch types a child module as Tensor | Module.
        base, dropout = cast("Any", self.base_layer), cast("Any", self.lora_dropout[ADAPTER])
        down, up = cast("Any", self.lora_A[ADAPTER]), cast("Any", self.lora_B[ADAPTER])
        narrow, wide = linear(dropout.unscaled(x), down.weight.to(x.dtype)), up.weight.to(x.dtype)
        scale = self.scaling[ADAPTER] * dropout.scale
        if type(base) is nn.Linear:
            return _added(base(x.flatten(0, -2)), narrow, wide, scale=scale)
        return torch.add(base(x), linear(narrow, wide), alpha=scale)


def _added(result: Tensor, narrow: Tensor, wide: Tensor, *, scale: float) -> Tensor:
    """Add scale * narrow (..., rank) wide^T to `result` (tokens, out) in place; leading dimensions of `narrow`.

    The product is added in float32 before its one rounding; on its own it would be as large as the result, and be read
    and written twice more, its gradient too. Nothing else keeps what a plain linear layer returns.
    """
    result.addmm_(narrow.flatten(0, -2), wide.t(), alpha=scale)
    return result.view(*narrow.shape[:-1], -1)


@dataclass(frozen=True, slots=True)
class Lora(Method):
    """Low-rank adapters. `modules` names linears explicitly and, where it is not empty, overrides `targets`.

    `experts` adapts the experts of a mixture too, where `targets` holds the MLP.
    """

    name: ClassVar[str] = "lora"
    title: ClassVar[str] = "LoRA"
    peft_type: ClassVar[str] = "LORA"

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.1
    targets: Targets = Targets.ALL_LINEAR
    modules: tuple[str, ...] = ()
    rank_stabilized: bool = False
    weight_decomposed: bool = False
    experts: bool = False

    @classmethod
    def from_spec(cls, spec: run_spec_pb2.RunSpec) -> Self:
        """Read RunSpec.lora. Raises as `from_settings`."""
        return cls.from_settings(spec.lora, "lora")

    @classmethod
    def from_settings(cls, lora: method_pb2.Lora, path: str) -> Self:
        """Read the settings at `path` of the spec.

        Raises PlanError: SETTING_NOT_SUPPORTED, EXPERTS_WITH_DORA, EXPERTS_WITH_DROPOUT.
        """
        for name in ("train_embeddings", "train_head"):
            if getattr(lora, name):
                raise not_supported(f"{path}.{name}", "true")
        if lora.include_experts:
            _check_experts(lora, path)
        given = stated(lora, "rank", "alpha", "dropout", "rank_stabilized", "weight_decomposed")
        given.setdefault("alpha", 2.0 * given.get("rank", cls().rank))
        given.setdefault("dropout", 0.0 if lora.include_experts else cls().dropout)
        return cls(
            targets=value_of(lora, "targets", PRESETS, parent=f"{path}."),
            modules=tuple(lora.target_modules),
            experts=lora.include_experts,
            **given,
        )

    def apply(self, model: PreTrainedModel, plan: Plan) -> tuple[PeftModel, PreTrainedModel]:
        """Add adapters to the model's linear layers and freeze the rest."""
        return self.apply_at(model, plan.optimization.seed, "lora")

    def blank(self, model: PreTrainedModel) -> PeftModel:
        """Add adapters, A random and B zero."""
        return self.apply_at(model, 0, "lora")[0]

    def apply_at(self, model: PreTrainedModel, seed: int, path: str) -> tuple[PeftModel, PreTrainedModel]:
        """Add adapters; A starts random (from the seed), B at zero. `path` is where the spec has the settings.

        The experts of a mixture, with `experts`, are adapted by peft's own layer for parameters. Raises PlanError
        TARGET_NOT_FOUND.
        """
        experts = expert_parameters(model, self.targets) if self.experts and not self.modules else []
        config = LoraConfig(
            r=self.rank,
            # A whole number as one: servers in other languages read a JSON integer here (Ollama's uint32).
            lora_alpha=int(self.alpha) if self.alpha.is_integer() else self.alpha,  # type: ignore[arg-type]  # peft only ever divides it
            lora_dropout=self.dropout,
            use_rslora=self.rank_stabilized,
            use_dora=self.weight_decomposed,
            fan_in_fan_out=transposed(model),
            target_modules=self._linear_names(model, path, required=not experts),
            target_parameters=experts or None,
            bias="none",
            task_type="CAUSAL_LM",
        )
        use_own_layers(config)
        with torch.random.fork_rng(devices=[]), peft_format.quiet_peft(), without_bitsandbytes():
            torch.manual_seed(seed)
            adapted = get_peft_model(model, config, autocast_adapter_dtype=True)
        for name, parameter in adapted.named_parameters():
            parameter.requires_grad = "lora_" in name
        return adapted, cast("PreTrainedModel", adapted.get_base_model())

    def _linear_names(self, model: PreTrainedModel, path: str, *, required: bool) -> list[str]:
        names = linear_names(model, self.targets, modules=self.modules, path=path, required=required)
        refused = {name: taken for name in names if (taken := peft_format.refused_by_peft(model, name))}
        kept = [name for name in names if name not in refused]
        if not refused or (kept and not self.modules):
            return kept
        short = ", ".join(sorted({short_name(name) for name in refused}))
        meant = " and ".join(sorted(set(refused.values())))
        raise PlanError(
            "TARGET_NOT_FOUND",
            f"peft {version('peft')} takes {short} of this model for {meant}, wherever they are.",
            field=f"{path}.target_modules" if self.modules else f"{path}.targets",
            remedy="Leave them out: attention's projections can be adapted, and experts with include_experts.",
        )

    def save(
        self, trained: Any, folder: Path, *, base: BaseModel, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype
    ) -> None:
        """Write the adapter like peft, with the hub id of the base and the names that peft selects layers by."""
        del dtype
        peft_format.write(trained, folder, base, **self._public_settings(trained))
        portable_files.save_tokenizer(tokenizer, folder)

    def portable(self, trained: Any, base: BaseModel) -> Portable:
        """Return peft's names of the adapter's weights, with the configuration that `save` writes."""
        return peft_format.portable(trained, base, **self._public_settings(trained))

    def _public_settings(self, trained: Any) -> dict[str, Any]:
        settings: Any = trained.peft_config[ADAPTER]
        found: set[str] = set(settings.target_modules)
        # Servers and merges expect the short names, where these select the same layers as the full ones of training: a
        # vision tower may have layers of the same names. And peft takes short names of a mixture's MLP for its experts,
        # also where they mean the shared one.
        shorter = {short_name(name) for name in found}
        short = not self.modules and not is_mixture(trained) and not _select_more(trained.get_base_model(), shorter)
        return {
            "target_modules": sorted(shorter if short else found),
            "fan_in_fan_out": trained.config.model_type in CONV1D_FAMILIES,
        }

    def compatibility(self, folder: Path, base: Path) -> artifact_pb2.Compatibility:
        """Return whether peft loads the artifact."""
        return compatibility.with_peft(folder, base, needs=_EXPERTS_NEED if self.experts else "")


def _select_more(adapted: nn.Module, names: set[str]) -> bool:
    """Return whether modules without an adapter have one of these short names too."""
    return any(
        short_name(name) in names and not isinstance(module, BaseTunerLayer) for name, module in adapted.named_modules()
    )


def use_own_layers(config: LoraConfig) -> None:
    """Have peft add LoraLinear to linear layers, unless the settings ask for more than LoRA and DoRA.

    Adapters that others trained may; peft's own layers compute those.
    """
    if not any(getattr(config, name, None) for name in _PEFT_ALONE):
        layers: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: LoraLinear, Conv1D: LoraLinear}
        config._register_custom_module(layers)  # noqa: SLF001 - peft's documented way to a layer of one's own


def transposed(model: PreTrainedModel) -> bool:
    """Return whether the weights of adapted layers are (in, out), as in GPT-2; quantized ones never are."""
    return any(isinstance(module, Conv1D) for module in model.modules())


def _check_experts(lora: method_pb2.Lora, path: str) -> None:
    """Refuse settings that adapters of experts, products of stacked matrices, cannot have."""
    if lora.weight_decomposed:
        text = "DoRA scales the rows of linear layers, and the experts of a mixture are stacked parameters instead."
        raise PlanError("EXPERTS_WITH_DORA", text, field=f"{path}.weight_decomposed", remedy="Turn one of them off.")
    if lora.dropout > 0:
        text = "Adapters of experts are added to the weights, so dropout has no input to apply to."
        raise PlanError("EXPERTS_WITH_DROPOUT", text, field=f"{path}.dropout", remedy="Set it to 0.")


METHOD = Lora
