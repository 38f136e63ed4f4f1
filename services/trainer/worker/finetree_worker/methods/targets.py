# SPDX-License-Identifier: Apache-2.0
"""The layers of a model that adapters are added to, by their names in transformers."""

import re
from collections.abc import Sequence
from enum import StrEnum

from finetree_api.types.v1 import method_pb2
from torch import nn
from transformers.pytorch_utils import Conv1D

from finetree_worker.errors import PlanError
from finetree_worker.models.families import text_modules

ATTENTION = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "query_key_value", "c_attn", "Wqkv"),
    *("out_proj", "dense", "attn.c_proj"),
    # Latent attention (DeepSeek).
    *("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"),
    # Linear attention and state-space layers. Their gates (in_proj_a, in_proj_b, in_proj_ba) stay as they are: a few
    # numbers for each head, which decide what it forgets.
    *("in_proj", "in_proj_qkv", "in_proj_qkvz", "in_proj_z"),
)
"""Names of the projections of attention, or of what stands in its place, in transformers' decoder models."""
QUERY_VALUE = ("q_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn", "Wqkv", "in_proj_qkv", "in_proj_qkvz")
"""Names of query and value projections, or of the fused projection that holds them."""
MLP = (
    *("gate_proj", "up_proj", "down_proj", "gate_up_proj"),
    *("fc1", "fc2", "fc_in", "fc_out", "dense_h_to_4h", "dense_4h_to_h", "c_fc", "mlp.c_proj", "w1", "w2", "w3"),
)
"""Names of MLP projections."""
_AMBIGUOUS = frozenset({"c_proj"})
"""Names that mean attention's output in one module and the MLP's in another."""
# A router chooses experts; an adapter on it would change the load balance, so presets leave it out.
_NEVER = re.compile(r"(^|\.)(lm_head|embed_out|router|gate|shared_expert_gate)$")


class Targets(StrEnum):
    """Linear layers that get an adapter."""

    ALL_LINEAR = "all-linear"
    ATTENTION = "attention"
    QUERY_VALUE = "query-value"
    MLP = "mlp"


PRESETS = {
    method_pb2.TARGET_PRESET_UNSPECIFIED: Targets.ALL_LINEAR,
    method_pb2.TARGET_PRESET_ALL_LINEAR: Targets.ALL_LINEAR,
    method_pb2.TARGET_PRESET_ATTENTION: Targets.ATTENTION,
    method_pb2.TARGET_PRESET_QUERY_VALUE: Targets.QUERY_VALUE,
    method_pb2.TARGET_PRESET_MLP: Targets.MLP,
}


def linear_names(
    model: nn.Module, targets: Targets, *, modules: Sequence[str] = (), path: str = "lora", required: bool = True
) -> list[str]:
    """Return the full names of the linear layers that get an adapter, in module order.

    "all-linear" is attention and MLP, never the output head and never a router. Layers that do not read text, such as
    those of a vision tower, never get one: in training on text they have no input, hence no gradient. Explicit
    `modules` match a full name or its last parts ("q_proj", "layers.0.mlp.up_proj"). Raises PlanError TARGET_NOT_FOUND
    where there is none and one is `required`; `path` is where the spec has the settings.
    """
    # GPT-2's layers are Conv1D, a linear layer with its weight transposed.
    text = text_modules(model)
    linears = [name for name, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D)) and m in text]
    linears = [name for name in linears if not _NEVER.search(name)]
    if modules:
        return _explicit(linears, modules, path)
    wanted = {
        Targets.ALL_LINEAR: ATTENTION + MLP,
        Targets.ATTENTION: ATTENTION,
        Targets.QUERY_VALUE: QUERY_VALUE,
        Targets.MLP: MLP,
    }[targets]
    found = [name for name in linears if short_name(name) in wanted]
    if not found and required:
        raise PlanError(
            "TARGET_NOT_FOUND",
            f"This model has no linear layer for targets {targets.value!r}.",
            field=f"{path}.targets",
            remedy=f"Name its linear layers in {path}.target_modules.",
        )
    return found


def short_name(name: str) -> str:
    """Return the end of a module's full name that is equal in all layers, such as "q_proj" or "attn.c_proj"."""
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1] in _AMBIGUOUS else parts[-1]


def _explicit(linears: list[str], wanted: Sequence[str], path: str) -> list[str]:
    for pattern in wanted:
        if not any(_names(name, pattern) for name in linears):
            ends = sorted({name.rpartition(".")[2] for name in linears})
            raise PlanError(
                "TARGET_NOT_FOUND",
                f"No linear layer of this model is named {pattern!r}; it has {', '.join(ends)}.",
                field=f"{path}.target_modules",
                remedy="Use one of these names, or the preset all-linear.",
            )
    return [name for name in linears if any(_names(name, pattern) for pattern in wanted)]


def _names(name: str, pattern: str) -> bool:
    return name == pattern or name.endswith(f".{pattern}")


def expert_parameters(model: nn.Module, targets: Targets) -> list[str]:
    """Return the full names of the stacked weights of routed experts, where the targets hold the MLP; else none.

    transformers 5 holds the experts of a layer in parameters of three dimensions, with the expert first.
    """
    if targets not in (Targets.ALL_LINEAR, Targets.MLP):
        return []
    return [name for name, p in model.named_parameters() if p.ndim == 3 and ".experts." in name]


def is_mixture(model: nn.Module) -> bool:
    """Return whether the model has routed experts."""
    return any(name.endswith(".experts") for name, _ in model.named_modules())
