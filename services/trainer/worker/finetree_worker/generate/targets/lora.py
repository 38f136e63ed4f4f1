# SPDX-License-Identifier: Apache-2.0
"""LoRA of any rank beside others on one base: rsLoRA, DoRA and adapters of QLoRA, from peft's files or a checkpoint.

The products are those of training (methods/lora.py): the small matrices in the type of the base, the second product
added in place. DoRA's column norms depend on the weights alone, so they are computed once, when it is loaded.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from finetree_api.types.v1 import method_pb2, run_spec_pb2
from peft.utils.other import get_pattern_key
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from finetree_worker.generate.targets.target import Change, Target, unreadable, wrong_base
from finetree_worker.methods.qlora import weight_of

_NAME = re.compile(
    r"^base_model\.model\.(?P<module>.+)\.lora_(?P<part>A|B|magnitude_vector)(?:\.default)?(?:\.weight)?$"
)
_UNUSUAL = (
    *("layer_replication", "alora_invocation_tokens", "use_qalora", "lora_bias", "use_bdlora", "target_parameters"),
    *(
        "trainable_token_indices",
        "modules_to_save",
        "monteclora_config",
        "arrow_config",
        "kasa_config",
        "velora_config",
    ),
)
"""Settings of peft 0.21's LoRA that change something else than a linear layer's output by B A x."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """B A x * scale, added to a linear layer's output; both matrices as they are multiplied with from the right.

    `down` is A transposed, (in, rank), `up` is B transposed, (rank, out).
    """

    down: Tensor
    up: Tensor
    scale: float

    def __call__(self, output: Tensor, inputs: Tensor) -> None:
        """Add the product in place."""
        # Few calls: this runs hundreds of times for each token.
        narrow = inputs.reshape(-1, self.down.shape[0]) @ self.down
        output.view(-1, self.up.shape[1]).addmm_(narrow, self.up, alpha=self.scale)

    def tensors(self) -> Iterable[Tensor]:
        """Yield both matrices."""
        return (self.down, self.up)


@dataclass(frozen=True, slots=True)
class Decomposed:
    """DoRA (Liu et al. 2024, arXiv:2402.09353): the columns of W + scale B A, rescaled to trained norms.

    `stretch` (out,) is the trained norm over the computed one; it is in B already. `bias` is the base layer's.
    """

    low_rank: LowRank
    stretch: Tensor
    bias: Tensor | None

    def __call__(self, output: Tensor, inputs: Tensor) -> None:
        """Replace the layer's output in place."""
        if self.bias is not None:
            output.sub_(self.bias)
        output.mul_(self.stretch)
        self.low_rank(output, inputs)
        if self.bias is not None:
            output.add_(self.bias)

    def tensors(self) -> Iterable[Tensor]:
        """Yield A, B and the norms; the bias is the base's."""
        return (*self.low_rank.tensors(), self.stretch)


@dataclass(frozen=True, slots=True)
class Settings:
    """Scales of an adapter's layers, as peft computes them from rank and alpha; patterns name modules by their end.

    `rank` is the one that is stated, 0 where none is: the matrices have it in any case.
    """

    alpha: float
    rank_stabilized: bool = False
    decomposed: bool = False
    alphas: Mapping[str, float] | None = None
    rank: int = 0
    ranks: Mapping[str, int] | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read peft's adapter_config.json. Raises ModelError for what cannot be served beside others."""
        unusual = [name for name in _UNUSUAL if config.get(name)]
        if config.get("bias", "none") != "none":
            unusual.append("bias")
        if unusual:
            raise unreadable(f"its setting {unusual[0]} changes more than the outputs of linear layers")
        try:
            return cls(
                float(config["lora_alpha"]),
                rank_stabilized=bool(config.get("use_rslora")),
                decomposed=bool(config.get("use_dora")),
                alphas={str(name): float(alpha) for name, alpha in (config.get("alpha_pattern") or {}).items()},
                rank=int(config["r"]),
                ranks={str(name): int(rank) for name, rank in (config.get("rank_pattern") or {}).items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise unreadable("its adapter_config.json has no numbers r and lora_alpha") from error

    @classmethod
    def from_spec(cls, spec: run_spec_pb2.RunSpec) -> Self:
        """Read the settings of the resolved run that a checkpoint is of."""
        settings = spec.qlora.lora if spec.HasField("qlora") else spec.lora
        alpha = settings.alpha if settings.HasField("alpha") else 2.0 * settings.rank
        return cls(alpha, rank_stabilized=settings.rank_stabilized, decomposed=settings.weight_decomposed)

    def scale(self, module: str, rank: int) -> float:
        """Return the factor of a module's product. Raises ModelError for matrices of another rank than is stated."""
        ranks = self.ranks or {}
        stated = ranks.get(get_pattern_key(list(ranks), module), self.rank)
        if stated not in (0, rank):
            raise unreadable(f"{module[:100]} has rank {rank}, and its adapter_config.json says {stated}")
        alphas = self.alphas or {}
        alpha = alphas.get(get_pattern_key(list(alphas), module), self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


def read(tensors: Mapping[str, Tensor], settings: Settings, model: PreTrainedModel) -> Target:
    """Return the adapter of these tensors for a base.

    Raises ModelError: WRONG_BASE for layers that the base does not have, or has in another shape; WEIGHTS_UNREADABLE
    for tensors that are no LoRA of linear layers.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found = _NAME.match(name)
        if found is None:
            raise unreadable(f"{name[:100]} is no part of a linear layer's LoRA")
        parts.setdefault(found["module"], {})[found["part"]] = tensor
    if not parts:
        raise unreadable("it has no layers")
    modules = dict(model.named_modules())
    changes: dict[str, Change] = {}
    for name, each in parts.items():
        changes[name] = _layer(name, each, settings=settings, module=modules.get(name), base=model)
    rank = max(int(each["A"].shape[0]) for each in parts.values())
    return Target(method_pb2.METHOD_LORA, changes, rank=rank)


def _layer(
    name: str, parts: Mapping[str, Tensor], *, settings: Settings, module: nn.Module | None, base: PreTrainedModel
) -> Change:
    if not isinstance(module, nn.Linear | Conv1D):
        raise wrong_base(f"The adapter changes {name[:100]}, and this base has no linear layer of that name.")
    if ".experts." in name:
        raise unreadable(f"{name[:100]} is one of several experts, whose inputs are mixed from all rows")
    down, up = parts.get("A"), parts.get("B")
    if down is None or up is None or down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
        raise unreadable(f"{name[:100]} lacks a matrix, or its two do not go together")
    wide_in, wide_out = _features(module)
    if (down.shape[1], up.shape[0]) != (wide_in, wide_out):
        raise wrong_base(
            f"The adapter's {name[:100]} maps {down.shape[1]} features to {up.shape[0]}, this base's {wide_in} to "
            f"{wide_out}."
        )
    device, kind = base.device, base.dtype
    scale = settings.scale(name, int(down.shape[0]))
    placed = LowRank(down.to(device, kind).t(), up.to(device, kind).t(), scale)
    if not settings.decomposed:
        return placed
    magnitude = parts.get("magnitude_vector")
    if magnitude is None or magnitude.numel() != wide_out:
        raise unreadable(f"{name[:100]} has no norms, which DoRA needs")
    return _decomposed(module, placed, magnitude=magnitude.to(device).flatten(), exact=(down.to(device), up.to(device)))


def _decomposed(module: nn.Module, placed: LowRank, *, magnitude: Tensor, exact: tuple[Tensor, Tensor]) -> Decomposed:
    """Compute the norms in float32, from the weights that a quantized layer computes with."""
    with torch.no_grad():
        weight = weight_of(module).float()
        weight = weight.t() if isinstance(module, Conv1D) else weight
        norms = torch.linalg.vector_norm(weight + placed.scale * (exact[1].float() @ exact[0].float()), dim=1)
        stretch = magnitude.float() / norms
        kind = placed.up.dtype
        up = (exact[1].float() * stretch[:, None]).to(kind).t()
    bias = getattr(module, "bias", None)
    return Decomposed(LowRank(placed.down, up, placed.scale), stretch.to(kind), None if bias is None else bias.detach())


def _features(module: nn.Linear | Conv1D) -> tuple[int, int]:
    if isinstance(module, Conv1D):
        return int(module.nx), int(module.nf)
    return module.in_features, module.out_features
