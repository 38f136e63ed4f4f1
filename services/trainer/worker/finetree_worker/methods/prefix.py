# SPDX-License-Identifier: Apache-2.0
"""Prefix tuning (Li and Liang 2021, arXiv:2101.00190): trained keys and values before every document.

The parameters and their saved form are peft's, without a projection. Training and evaluation read them through
`states`, so that each document of a packed row attends to the whole prefix and to no other document; generation begins
with it in the cache. peft's inner model does not have the prefix, so it is always run in one of these two ways.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from finetree_worker.errors import PlanError
from finetree_worker.methods import compatibility, peft_format
from finetree_worker.models import portable_files
from finetree_worker.models.load import load_tokenizer
from finetree_worker.plan import BaseModel, Checkpointing, Method, Plan
from finetree_worker.portable import Portable
from finetree_worker.spec_values import CHECKPOINTING, stated, value_of
from finetree_worker.tokenize.tokenizer import leading_bos

DEFAULT_TEXT = (
    "Below is a request. Read it carefully, do exactly what it asks, and answer in the form that was asked for."
)
"""Initial text where the plan has none: training from real keys and values is far more stable than from random ones
(peft's method comparison), and an instruction resembles what precedes most rows."""
ADAPTER = "default"
"""peft's name for the one prefix of a model."""
_WINDOWED = ("gemma2", "gemma3_text", "gemma3")
"""Model types for which peft makes a cache of its own kind."""
_WINDOWS_NEED = "needs peft 0.20 or newer: older ones load it on this model and compute something else"


class PrefixInit(StrEnum):
    """Initial values of a prefix: the keys and values of a text, or zeros."""

    TEXT = "text"
    ZERO = "zero"


PREFIX_INITS = {
    method_pb2.PREFIX_INIT_UNSPECIFIED: PrefixInit.TEXT,
    method_pb2.PREFIX_INIT_TEXT: PrefixInit.TEXT,
    method_pb2.PREFIX_INIT_ZERO: PrefixInit.ZERO,
}


@dataclass(frozen=True, slots=True)
class Prefix(Method):
    """Trained keys and values that every token attends to. An empty `init_text` means DEFAULT_TEXT."""

    name: ClassVar[str] = "prefix"
    title: ClassVar[str] = "prefix tuning"
    peft_type: ClassVar[str] = "PREFIX_TUNING"
    load_notes: ClassVar[tuple[str, ...]] = (
        "Generate with transformers below 5: with 5, `generate` of peft 0.21 loses the tokens before the newest one.",
    )

    virtual_tokens: int = 20
    init: PrefixInit = PrefixInit.TEXT
    init_text: str = ""

    @classmethod
    def from_spec(cls, spec: run_spec_pb2.RunSpec) -> Self:
        """Read RunSpec.prefix. Raises PlanError: PREFIX_WITH_CHECKPOINTING, SETTING_NOT_SUPPORTED."""
        if value_of(spec, "gradient_checkpointing", CHECKPOINTING) is not Checkpointing.OFF:
            raise PlanError(
                "PREFIX_WITH_CHECKPOINTING",
                "Prefix tuning keeps its keys and values in the cache, which gradient checkpointing turns off.",
                field="gradient_checkpointing",
                remedy="Turn gradient checkpointing off.",
            )
        init = value_of(spec.prefix, "init", PREFIX_INITS, parent="prefix.")
        return cls(init=init, init_text=spec.prefix.init_text, **stated(spec.prefix, "virtual_tokens"))

    def apply(self, model: PreTrainedModel, plan: Plan) -> tuple[PeftModel, PreTrainedModel]:
        """Freeze the model and add a prefix; return peft's model twice, since the inner one does not have the prefix.

        Raises PlanError: INVALID_PREFIX_TEXT; PREFIX_TOO_LONG for the model's positions or attention window;
        PREFIX_NOT_SUPPORTED for a model whose cache is more than keys and values, or not of one shape.
        """
        start = self.init_tokens(load_tokenizer(plan.base.folder))
        _check_length(model, self.virtual_tokens, plan.data.sequence_length)
        initial = _flat(_cache(model, start))
        prefixed = self.blank(model)
        weight = _weight(prefixed)
        if weight.shape != initial.shape:
            raise _unsupported()
        if self.init is PrefixInit.TEXT:
            with torch.no_grad():
                weight.copy_(initial)
        return prefixed, cast("PreTrainedModel", prefixed)

    def blank(self, model: PreTrainedModel) -> PeftModel:
        """Freeze the model and add a prefix of zeros."""
        settings = PrefixTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=self.virtual_tokens, prefix_projection=False, init_weights="zero"
        )
        with peft_format.quiet_peft():
            prefixed: PeftModel = get_peft_model(model, settings)
        return prefixed

    def init_tokens(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Return as many token ids as the prefix has: BOS where the model uses it, then the text, repeated.

        Raises PlanError INVALID_PREFIX_TEXT for a text without tokens.
        """
        ids: list[int] = tokenizer(self.init_text or DEFAULT_TEXT, add_special_tokens=False)["input_ids"]
        if not ids:
            raise PlanError(
                "INVALID_PREFIX_TEXT",
                "The prefix's init_text has no tokens.",
                field="prefix.init_text",
                remedy="Give a text with words, or leave it unset for the default.",
            )
        bos = leading_bos(tokenizer)
        first = [] if bos is None or ids[0] == bos else [bos]
        return [*first, *islice(cycle(ids), max(0, self.virtual_tokens - len(first)))][: self.virtual_tokens]

    def save(
        self, trained: Any, folder: Path, *, base: BaseModel, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype
    ) -> None:
        """Write the keys and values like peft, with the hub id of the base."""
        del dtype
        peft_format.write(trained, folder, base)
        portable_files.save_tokenizer(tokenizer, folder)

    def portable(self, trained: Any, base: BaseModel) -> Portable:
        """Return peft's name of the keys and values."""
        return peft_format.portable(trained, base)

    def compatibility(self, folder: Path, base: Path) -> artifact_pb2.Compatibility:
        """Return whether peft loads the artifact."""
        kind = json.loads((base / portable_files.CONFIG).read_text(encoding="utf-8")).get("model_type")
        return compatibility.with_peft(folder, base, needs=_WINDOWS_NEED if kind in _WINDOWED else "")

    def memory_savings(self, *, checkpointing: bool) -> Sequence[str]:
        """Return settings that would lower memory; gradient checkpointing would turn off the cache of the prefix."""
        del checkpointing
        return ["use qlora"]


def _check_length(model: PreTrainedModel, tokens: int, sequence_length: int) -> None:
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    # 0 is no window.
    if window and tokens >= window:
        text = f"A prefix of {tokens} tokens does not fit the model's attention window of {window}."
        raise PlanError("PREFIX_TOO_LONG", text, field="prefix.virtual_tokens", remedy="Use fewer virtual tokens.")
    # Rotary positions continue beyond the longest sequence; a table of learned positions ends there.
    learned = getattr(config, "rope_parameters", None) is None
    positions = getattr(config, "max_position_embeddings", None)
    if learned and positions is not None and tokens + sequence_length > positions:
        shorter = f"Lower sequence_length to {positions - tokens}, or use" if tokens < positions else "Use"
        raise PlanError(
            "PREFIX_TOO_LONG",
            f"{tokens} virtual tokens and {sequence_length} tokens of a row exceed the model's {positions} positions.",
            field="prefix.virtual_tokens",
            remedy=f"{shorter} fewer virtual tokens.",
        )


def _unsupported() -> PlanError:
    return PlanError(
        "PREFIX_NOT_SUPPORTED",
        "This model's layers do not all keep keys and values of one shape and no other state, which a prefix needs.",
        field="prefix",
        remedy="Use lora for this model.",
    )


def _cache(model: PreTrainedModel, start: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Compute the frozen model's keys and values of a text by layer, each (heads, tokens, head size).

    Raises PlanError PREFIX_NOT_SUPPORTED where a layer has no keys and values, or a state beside them, which a prefix
    does not hold.
    """
    was_training = model.training
    model.train(mode=False)
    with torch.no_grad():
        untyped: Any = model
        output = untyped(input_ids=torch.tensor([list(start)], device=model.device), use_cache=True)
    model.train(was_training)
    layers = output.past_key_values.layers
    if any(hasattr(layer, "conv_states") for layer in layers):
        raise _unsupported()
    try:
        return [(layer.keys[0], layer.values[0]) for layer in layers]
    except (AttributeError, TypeError) as error:
        raise _unsupported() from error


def _flat(cache: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return a cache in peft's layout: float32 (tokens, layers * 2 * heads * head size)."""
    parts = [part for pair in cache for part in pair]
    if len({part.shape for part in parts}) != 1:
        raise _unsupported()
    return torch.stack(parts).permute(2, 0, 1, 3).flatten(1).float()


def _weight(model: PeftModel) -> Tensor:
    encoder: Any = model.prompt_encoder[ADAPTER]
    weight: Tensor = encoder.embedding.weight
    return weight


def states(model: PreTrainedModel | PeftModel) -> Tensor | None:
    """Return a model's prefix, (layers * 2, heads, tokens, head size), keys before values; None without one."""
    if not isinstance(model, PeftModel) or not isinstance(model.peft_config.get(ADAPTER), PrefixTuningConfig):
        return None
    settings: Any = model.peft_config[ADAPTER]
    heads = settings.num_attention_heads
    shape = settings.num_virtual_tokens, settings.num_layers * 2, heads, settings.token_dim // heads
    return _weight(model).to(model.base_model_torch_dtype).view(shape).permute(1, 2, 0, 3)


def generation_inputs(
    model: PreTrainedModel, prefix: Tensor, *, ids: Tensor, mask: Tensor
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return peft's inner model and its inputs for generating after the prefix and each row of ids (rows, tokens).

    The inputs are a filled cache, and as many tokens in its place, which are never run. peft 0.21 would lose the cache
    under transformers 5.24, which calls it by another name: each new token would see the prefix and nothing else.
    """
    rows, tokens = ids.shape[0], prefix.shape[2]
    untyped: Any = model
    inner: PreTrainedModel = untyped.get_base_model()
    cache = DynamicCache(config=inner.config)
    for layer in range(prefix.shape[0] // 2):
        keys, values = (prefix[2 * layer + i].expand(rows, *prefix.shape[1:]) for i in range(2))
        cache.update(keys, values, layer)
    # The mask counts the positions, so that padding on the left does not come between the prefix and its row.
    return inner, {
        "input_ids": torch.cat([ids.new_zeros(rows, tokens), ids], dim=1),
        "attention_mask": torch.cat([mask.new_ones(rows, tokens), mask], dim=1),
        "cache": cache,
    }


METHOD = Prefix
