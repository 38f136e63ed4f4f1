# SPDX-License-Identifier: Apache-2.0
"""What the rules read: the facts of a result that decide whether a server loads it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2

DEFAULT_RANK = 8
"""Rank where a run names none (Lora.rank of the contract)."""
MAX_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values that --max-lora-rank of vLLM takes in all versions read (vllm/config/lora.py)."""
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
_BY_PRESET = {
    method_pb2.TARGET_PRESET_UNSPECIFIED: (*_ATTENTION, *_MLP),
    method_pb2.TARGET_PRESET_ALL_LINEAR: (*_ATTENTION, *_MLP),
    method_pb2.TARGET_PRESET_ATTENTION: _ATTENTION,
    method_pb2.TARGET_PRESET_QUERY_VALUE: ("q_proj", "v_proj"),
    method_pb2.TARGET_PRESET_MLP: _MLP,
}
_GPT_NEOX = {"q_proj": "query_key_value", "k_proj": "query_key_value", "v_proj": "query_key_value", "o_proj": "dense"}
_GPT_NEOX |= {"gate_proj": "dense_h_to_4h", "up_proj": "dense_h_to_4h", "down_proj": "dense_4h_to_h"}
_OTHER_NAMES: Mapping[str, Mapping[str, str]] = {
    "gpt2": {
        **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "c_attn"),
        "o_proj": "c_proj",
        "gate_proj": "c_fc",
        "up_proj": "c_fc",
        "down_proj": "c_proj",
    },
    "gpt_neox": _GPT_NEOX,
    "falcon": _GPT_NEOX,
    "phi": {"o_proj": "dense", "gate_proj": "fc1", "up_proj": "fc1", "down_proj": "fc2"},
    "phi3": {
        **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "qkv_proj"),
        "gate_proj": "gate_up_proj",
        "up_proj": "gate_up_proj",
    },
}
"""Names of linear layers by family, where they are not a Llama's (transformers 5.24, modeling files)."""


class Form(StrEnum):
    """What the files of a result are."""

    LORA = "LORA"
    PREFIX = "PREFIX"
    BOTTLENECK = "BOTTLENECK"
    MODEL = "MODEL"
    GGUF_MODEL = "GGUF_MODEL"
    GGUF_LORA = "GGUF_LORA"
    OTHER_PEFT = "OTHER_PEFT"


@dataclass(frozen=True, slots=True)
class Facts:
    """A result as a server meets it. All but `form`, `family` and `base` is read for LoRA alone."""

    form: Form
    rank: int = DEFAULT_RANK
    """Largest rank of any module."""
    alpha: float = 2.0 * DEFAULT_RANK
    targets: frozenset[str] = frozenset((*_ATTENTION, *_MLP))
    """Short names of the adapted modules."""
    saved: frozenset[str] = frozenset()
    """Modules that are saved whole."""
    dora: bool = False
    rslora: bool = False
    experts: bool = False
    bias: bool = False
    family: str = ""
    """model_type of the base's config.json; empty: unknown."""
    base: str = ""
    """Hub id of the base; empty: unknown."""

    @property
    def plain_alpha(self) -> float:
        """The alpha whose alpha / rank is rsLoRA's alpha / sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732)."""
        return self.alpha * math.sqrt(self.rank)

    def words(self) -> dict[str, str]:
        """Return what the words in braces of messages and steps stand for."""
        return {
            "base": self.base or "BASE",
            "family": self.family or "an unknown family",
            "rank": str(self.rank),
            "max_rank": str(next((rank for rank in MAX_LORA_RANKS if rank >= self.rank), MAX_LORA_RANKS[-1])),
            "alpha": f"{self.alpha:.6g}",
            "plain_alpha": f"{self.plain_alpha:.6g}",
        }


def facts_of_spec(spec: run_spec_pb2.RunSpec, *, family: str = "", base: str = "") -> Facts | None:
    """Return the facts of what a run will make; None where it names no method.

    `family` and `base` are what is known of the model beside the spec, which may name them itself.
    """
    source = spec.model.WhichOneof("source")
    family = family or (spec.model.shape.family if source == "shape" else "")
    base = base or (spec.model.hub.id if source == "hub" else "")
    match spec.WhichOneof("method"):
        case "full":
            return Facts(Form.MODEL, family=family, base=base)
        case "lora":
            return _lora(spec.lora, family, base)
        case "qlora":
            return _lora(spec.qlora.lora, family, base)
        case "prefix":
            return Facts(Form.PREFIX, family=family, base=base)
        case "adapter":
            return Facts(Form.BOTTLENECK, family=family, base=base)
        case _:
            return None


def facts_of_artifact(artifact: artifact_pb2.Artifact, spec: run_spec_pb2.RunSpec | None) -> Facts | None:
    """Return the facts of an artifact, by its description and the run that made it; None for what no server loads.

    `spec` is None where no run of this suite made it; a LoRA adapter then counts as one of the usual settings.
    """
    form = form_of_artifact(artifact)
    if form is None:
        return None
    family, base = artifact.base.family, artifact.base.hub_id
    planned = facts_of_spec(spec, family=family, base=base) if spec is not None else None
    if planned is not None and planned.form is form:
        return planned
    return Facts(form, family=family, base=base)


def form_of_artifact(artifact: artifact_pb2.Artifact) -> Form | None:
    """Return what an artifact is to a server; None for reports and other files."""
    if artifact.kind == artifact_pb2.ARTIFACT_KIND_MODEL:
        return Form.MODEL
    if artifact.kind == artifact_pb2.ARTIFACT_KIND_GGUF:
        return Form.GGUF_LORA if artifact.format == artifact_pb2.EXPORT_FORMAT_GGUF_LORA else Form.GGUF_MODEL
    if artifact.kind != artifact_pb2.ARTIFACT_KIND_ADAPTER:
        return None
    known = {"": Form.BOTTLENECK, "LORA": Form.LORA, "PREFIX_TUNING": Form.PREFIX}
    return known.get(artifact.peft_type, Form.OTHER_PEFT)


def short_names(modules: Iterable[str]) -> frozenset[str]:
    """Return the last parts of module names: "model.layers.0.self_attn.q_proj" is "q_proj"."""
    return frozenset(name.rpartition(".")[2] for name in modules)


def _lora(lora: method_pb2.Lora, family: str, base: str) -> Facts:
    rank = lora.rank if lora.HasField("rank") else DEFAULT_RANK
    names = _OTHER_NAMES.get(family, {})
    preset = _BY_PRESET.get(lora.targets, (*_ATTENTION, *_MLP))
    saved = {"embed_tokens": lora.train_embeddings, "lm_head": lora.train_head}
    return Facts(
        Form.LORA,
        rank=rank,
        alpha=lora.alpha if lora.HasField("alpha") else 2.0 * rank,
        targets=short_names(lora.target_modules) or frozenset(names.get(name, name) for name in preset),
        saved=frozenset(name for name, trained in saved.items() if trained),
        dora=lora.weight_decomposed,
        rslora=lora.rank_stabilized,
        experts=lora.include_experts,
        family=family,
        base=base,
    )
