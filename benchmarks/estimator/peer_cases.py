# SPDX-License-Identifier: Apache-2.0
"""Published runs as other estimators are asked: plain values, beside what was measured and what this project answers.

Two kinds of rows become cases: those that constants were fitted on or validated with (one card), and those of sources
that nobody fitted on (the tables of other_rows.py, which have runs on several cards too). A peak above 92 % of its card
is counted and left out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.types.v1 import hardware_pb2, method_pb2, run_spec_pb2, training_pb2
from finetree_estimator.catalog.accelerators import accelerator
from finetree_estimator.shapes.parameters import count
from finetree_estimator.spec.resolve import Knowledge, read_model
from made_runs import MadeRuns
from other_rows import QUANTITIES, TABLES, OtherRow, other_rows
from row_requests import request
from rows import GIB, MeasuredRow

BENT = 0.92
"""Share of a card's memory above which a peak is no longer the run's need."""
OF_PEERS = ("github:Anassbzdd/fitcheck", "github:DaoyuanLi2816/can-i-finetune-this", "github:unslothai/notebooks")
"""Sources that are a peer's own measurements (fitcheck-llm, canifinetune, unsloth)."""
_OPTIMIZERS = {
    training_pb2.OPTIMIZER_ADAMW_8BIT: "adamw-8bit",
    training_pb2.OPTIMIZER_PAGED_ADAMW_8BIT: "paged-adamw-8bit",
    training_pb2.OPTIMIZER_ADAFACTOR: "adafactor",
    training_pb2.OPTIMIZER_SGD: "sgd",
}
_LLAMA_NAMES = {
    "c_attn": ("q_proj", "k_proj", "v_proj"),
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "query_key_value": ("q_proj", "k_proj", "v_proj"),
    "attn.c_proj": ("o_proj",),
    "dense": ("o_proj",),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "c_fc": ("up_proj",),
    "fc1": ("up_proj",),
    "dense_h_to_4h": ("up_proj",),
    "mlp.c_proj": ("down_proj",),
    "fc2": ("down_proj",),
    "dense_4h_to_h": ("down_proj",),
}
"""Other families' projections by the names that peers know; a fused one is all of its parts."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an estimator predicts for a row (bytes, tokens a second); None where it does not say."""

    peak: float | None
    rate: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A published number with what is asked and what the project itself predicts."""

    groups: tuple[str, ...]
    """Headings under which it is summed up."""
    case: dict[str, Any]
    ours: Answer
    measured: float
    """Bytes of a peak, or tokens a second."""


class Cases:
    """Makes cases with one knowledge and one servicer."""

    def __init__(self, knowledge: Knowledge) -> None:
        self._knowledge = knowledge
        self._servicer = MadeRuns(knowledge)

    def fitted_peaks(self, rows: Sequence[MeasuredRow]) -> tuple[list[Asked], int]:
        """Peaks of fitted and of validation rows, and how many were left out because the card was nearly full."""
        known = [row for row in rows if row.answerable and row.devices == 1 and row.peak_bytes]
        kept = [row for row in known if not row.saturated and (row.peak_bytes or 0) <= _room(row.accelerator)]
        return [self._fitted(row, float(row.peak_bytes or 0)) for row in kept], len(known) - len(kept)

    def fitted_rates(self, rows: Sequence[MeasuredRow]) -> list[Asked]:
        """Rates of those rows, where they are in tokens."""
        known = [row for row in rows if row.answerable and row.devices == 1 and row.tokens_per_second]
        return [self._fitted(row, float(row.tokens_per_second or 0)) for row in known]

    def _fitted(self, row: MeasuredRow, measured: float) -> Asked:
        asked = request(row)
        estimate = self._servicer.estimate(asked)
        rate = estimate.time.tokens_per_second.expected
        if row.total_tokens and estimate.processed_tokens:
            # The published rate counts no padding, ours counts what passes through the model.
            rate *= row.total_tokens / estimate.processed_tokens
        groups = (f"{row.family} {row.method}",)
        case = self._case(row.published_model, asked)
        return Asked(groups, case, Answer(_peak(estimate, row.quantity), rate), measured)

    def other_peaks(self) -> tuple[list[Asked], int]:
        """Peaks of the sources that nobody fitted on, and how many were left out."""
        found, left_out = [], 0
        for table, row in _other():
            for quantity in QUANTITIES:
                if (peak := row.peaks.get(quantity)) is None:
                    continue
                if peak > _room(row.accelerator):
                    left_out += 1
                    continue
                found.append(self._other(table, row, quantity, peak))
        return found, left_out

    def other_rates(self) -> list[Asked]:
        """Speeds of those sources, over many steps."""
        return [
            self._other(table, row, "device", row.tokens_per_second)
            for table, row in _other()
            if row.tokens_per_second is not None and row.steady
        ]

    def _other(self, table: str, row: OtherRow, quantity: str, measured: float) -> Asked:
        estimate = self._servicer.estimate(row.request)
        spec = row.request.spec
        groups = [spec.WhichOneof("method") or "", table, "one card" if spec.hardware.count == 1 else "several cards"]
        if not row.source.startswith(OF_PEERS):
            groups.append("no peer's own")
        ours = Answer(_peak(estimate, quantity), estimate.time.tokens_per_second.expected)
        return Asked(tuple(groups), self._case(row.label.split()[0], row.request), ours, measured)

    def _case(self, model: str, asked: estimate_pb2.EstimateRunRequest) -> dict[str, Any]:
        """A run as plain values: everything that any of the peers can be told."""
        spec = asked.spec
        shape = read_model(spec.model, self._knowledge).shape
        card = accelerator(spec.hardware.accelerator)
        return {
            "model": model,
            "family": shape.family or "llama",
            "parameters": count(shape).total,
            "hidden": shape.hidden,
            "layers": shape.layers,
            "heads": shape.heads,
            "kv_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
            "intermediate": shape.intermediate,
            "vocab": shape.vocab,
            "tied": shape.tied,
            "gated": shape.gated,
            "experts": shape.experts,
            "active_experts": shape.active_experts,
            "sequence_length": spec.training.sequence_length,
            "micro_batch": spec.training.micro_batch_size,
            "attention": training_pb2.AttentionKernel.Name(spec.attention).removeprefix("ATTENTION_KERNEL_").lower(),
            "optimizer": _OPTIMIZERS.get(spec.optimizer, "adamw"),
            "in_backward": spec.optimizer_in_backward,
            "fused_loss": spec.loss_kernel == training_pb2.LOSS_KERNEL_FUSED,
            "unsloth": asked.spec.program.program == training_pb2.TRAINING_PROGRAM_UNSLOTH,
            "accelerator": spec.hardware.accelerator,
            "devices": spec.hardware.count,
            "sharding": hardware_pb2.Sharding.Name(spec.hardware.sharding).removeprefix("SHARDING_").lower(),
            "gpu_gib": card.usable_bytes / GIB,
            "gpu_flops": card.dense_flops,
            **_method(spec),
            **_formats(spec),
        }


def _other() -> Iterable[tuple[str, OtherRow]]:
    for path in TABLES:
        for row in other_rows((path,)):
            yield path.stem, row


def _method(spec: run_spec_pb2.RunSpec) -> dict[str, Any]:
    method = spec.WhichOneof("method") or ""
    lora = spec.qlora.lora if method == "qlora" else spec.lora
    targets = {name for given in lora.target_modules for name in _LLAMA_NAMES.get(given, (given,))}
    return {
        "method": method,
        "variant": "dora" if lora.weight_decomposed else "",
        "quant": _base(spec) if method == "qlora" else "none",
        "rank": lora.rank if method in ("lora", "qlora") else 0,
        "targets": sorted(targets),
    }


def _base(spec: run_spec_pb2.RunSpec) -> str:
    """nf4, nf4-dq, int8 or gptq_int4."""
    name = method_pb2.Quantization.Name(spec.qlora.quantization).removeprefix("QUANTIZATION_").lower()
    return f"{name}-dq" if spec.qlora.double_quantization else name


def _formats(spec: run_spec_pb2.RunSpec) -> dict[str, str]:
    """Of weights and of computation, and what is recomputed: off, full or offloaded."""
    single = spec.precision == training_pb2.PRECISION_FP32
    recomputed = training_pb2.GradientCheckpointing.Name(spec.gradient_checkpointing)
    return {
        "weights": "fp32" if single or _raised(spec) else "bf16",
        "compute": "fp32" if single else "bf16",
        "checkpointing": recomputed.removeprefix("GRADIENT_CHECKPOINTING_").lower(),
    }


def _raised(spec: run_spec_pb2.RunSpec) -> bool:
    """Weights in float32 under autocast; a quantized base stays what it is, only its computation is cast."""
    return spec.precision == training_pb2.PRECISION_BF16_MIXED and spec.WhichOneof("method") != "qlora"


def _room(name: str) -> float:
    return BENT * accelerator(name).usable_bytes


def _peak(estimate: estimate_pb2.Estimate, quantity: str) -> float:
    peaks = {
        "allocated": estimate.memory.allocated_bytes,
        "reserved": estimate.memory.reserved_bytes,
        "device": estimate.memory.device_bytes,
    }
    return peaks[quantity].expected
