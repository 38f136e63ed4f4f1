# SPDX-License-Identifier: Apache-2.0
"""Published measurements: what each row of a measurement file says, in the estimator's own words.

The files are CSV tables of published runs (their columns: see `measured_rows`). Each row becomes a MeasuredRow with
its settings resolved as far as its source tells them, of which row_requests.py makes what EstimateRun is asked. What
sources say in prose of all their rows is in row_sources.py.
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from finetree_api.types.v1 import method_pb2, model_pb2, training_pb2
from finetree_estimator.catalog.accelerators import accelerator
from finetree_estimator.catalog.names import UnknownNameError
from published_models import described
from row_sources import source_of

GIB = 2**30
METHODS = {
    "full": "full",
    "lora": "lora",
    "dora": "lora",
    "rslora": "lora",
    "qlora": "qlora",
    "prefix_tuning": "prefix",
}
"""Published method to ours; whatever is missing here (IA3, prompt tuning, LLaMA-Adapter ...) no estimator answers."""
IBM_KEY_TARGETS = {"llama-13b": "k_proj", "llama3-8b": "k_proj"}
"""Second LoRA target beside q_proj of IBM's benchmark; v_proj for all others (github:IBM/ado, default_target_modules
of the sfttrainer actuator's LoRA experiments)."""
ALL_LINEAR = "all-linear"
SATURATED = "memory saturated"
"""What the notes call rows whose peak is the card's size rather than the run's need."""

PRECISIONS = {
    "bf16": training_pb2.PRECISION_BF16,
    "fp16": training_pb2.PRECISION_BF16,
    "bf16 weights; adapters fp32": training_pb2.PRECISION_BF16,
    "bf16-true": training_pb2.PRECISION_BF16,
    "bf16-mixed": training_pb2.PRECISION_BF16_MIXED,
    "fp16-mixed": training_pb2.PRECISION_BF16_MIXED,
    "amp_bf16": training_pb2.PRECISION_BF16_MIXED,
    "amp_fp16": training_pb2.PRECISION_BF16_MIXED,
    "fp32": training_pb2.PRECISION_FP32,
}
"""Numbers of float16 are as large as bfloat16's."""
OPTIMIZERS = {
    "": training_pb2.OPTIMIZER_ADAMW,
    "adamw": training_pb2.OPTIMIZER_ADAMW,
    "adam": training_pb2.OPTIMIZER_ADAMW,
    "adamw_torch": training_pb2.OPTIMIZER_ADAMW,
    "adamw_torch_fused": training_pb2.OPTIMIZER_ADAMW,
    # LitGPT's QLoRA runs take bitsandbytes' PagedAdamW with 32-bit states; the contract has no such optimizer, and for
    # adapters of a few million parameters the difference is some ten megabytes.
    "bnb pagedadamw": training_pb2.OPTIMIZER_ADAMW,
    "paged_adamw_32bit": training_pb2.OPTIMIZER_ADAMW,
    "adamw_8bit": training_pb2.OPTIMIZER_ADAMW_8BIT,
    "adamw_bnb_8bit": training_pb2.OPTIMIZER_ADAMW_8BIT,
    "bnb adamw8bit": training_pb2.OPTIMIZER_ADAMW_8BIT,
    "paged_adamw_8bit": training_pb2.OPTIMIZER_PAGED_ADAMW_8BIT,
    "pagedadamw8bit": training_pb2.OPTIMIZER_PAGED_ADAMW_8BIT,
    "adafactor": training_pb2.OPTIMIZER_ADAFACTOR,
    "sgd": training_pb2.OPTIMIZER_SGD,
}
QUANTIZATIONS = {
    "none": None,
    "nf4": method_pb2.QUANTIZATION_NF4,
    "nf4-dq": method_pb2.QUANTIZATION_NF4,
    "fp4": method_pb2.QUANTIZATION_FP4,
    "int8": method_pb2.QUANTIZATION_INT8,
    "gptq": method_pb2.QUANTIZATION_GPTQ_INT4,
    "gptq-int4": method_pb2.QUANTIZATION_GPTQ_INT4,
}
ATTENTION = {
    "sdpa": training_pb2.ATTENTION_KERNEL_SDPA,
    "flash": training_pb2.ATTENTION_KERNEL_FLASH,
    "eager": training_pb2.ATTENTION_KERNEL_EAGER,
}


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """A published run and what it measured. Sizes in bytes, lengths in tokens."""

    source: str
    family: str
    """Of sources: peft, ibm, litgpt, llm-foundry, or another's repository."""
    published_model: str
    model: str | None
    """Name in the catalog; None where only a shape is known, or nothing."""
    shape: model_pb2.ModelShape | None
    """Shape where the catalog has none, or where a row is longer than the catalog's positions."""
    published_method: str
    method: str | None
    """full, lora, qlora or prefix; None when it is none of ours."""
    variant: str
    """A kind of LoRA: dora, rslora, lora-fa, or what a row's trainable parameters show to be another; or empty."""
    quant: str
    """none, nf4, nf4-dq, fp4, int8 or gptq."""
    rank: int
    targets: tuple[str, ...]
    """Module names by Llama's words; ALL_LINEAR alone for the preset."""
    dropout: float
    virtual_tokens: int
    trainable: int
    """Published trainable parameters; 0 when not said."""
    sequence_length: int
    micro_batch: int
    """Rows of a forward pass on a device."""
    accumulation: int
    checkpointing: bool
    attention: str
    """sdpa, flash or eager."""
    loss: training_pb2.LossKernel.ValueType
    optimizer: str
    precision: str
    accelerator: str
    """Name in the catalog; empty where it has none."""
    devices: int
    nodes: int
    program: training_pb2.TrainingProgram.ValueType
    quantity: str
    """What the peak is: allocated, reserved or device."""
    peak_bytes: int | None
    """None when no peak was published."""
    outcome: str
    """fit, or oom when the run failed for want of memory, or unavailable when it could not be run."""
    saturated: bool
    """Whether the peak is the card's size rather than the run's need (never a target of a fit)."""
    tokens_per_second: float | None
    """Over all devices. PEFT: tokens that are no padding; IBM and LLM Foundry: every row is full."""
    samples_per_second: float | None
    total_seconds: float | None
    examples: int
    """Rows of the dataset; 0 when not known."""
    total_tokens: int
    """Tokens of all rows without padding; 0 when not known."""
    every_row_full: bool
    """Whether all rows have the sequence length."""
    note: str

    @property
    def answerable(self) -> bool:
        """Whether the estimator can be asked: a known model, one of its methods and number formats."""
        known = (self.model is not None or self.shape is not None) and self.accelerator
        plain = self.variant in ("", "dora", "rslora")
        numbers = self.precision in PRECISIONS and self.quant in QUANTIZATIONS
        said = numbers and self.optimizer.lower() in OPTIMIZERS
        return bool(known) and self.method is not None and plain and said


def measured_rows(path: Path) -> list[MeasuredRow]:
    """All rows of a measurement file, in its order. Raises KeyError (no such column) and ValueError (no number)."""
    with path.open(encoding="utf-8", newline="") as file:
        return [_row(row) for row in csv.DictReader(file)]


def _row(row: dict[str, str]) -> MeasuredRow:
    source, note = source_of(row["source"], row["note"]), row["note"]
    sequence_length = int(row["seq_len"])
    model, shape = described(row["model"], float(row["params_b"]), sequence_length)
    method = METHODS.get(row["method"])
    rank, targets = _adapters(row, source.family)
    devices = int(row["n_gpus"])
    return MeasuredRow(
        source=row["source"],
        family=source.family,
        published_model=row["model"],
        model=model,
        shape=shape,
        published_method=row["method"],
        method=method,
        variant=_variant(row, method, note),
        quant=row["quant"].removeprefix("bnb."),
        rank=rank,
        targets=targets,
        dropout=source.dropout,
        virtual_tokens=int(_said(note, r"virtual_tokens=(\d+)") or 0),
        trainable=int(_said(note, r"trainable=(\d+)") or 0),
        sequence_length=sequence_length,
        micro_batch=int(row["micro_batch"]),
        accumulation=int(row["grad_accum"] or source.accumulation),
        # LitGPT's scripts checkpoint exactly where they shard (the policy is FSDP's), and leave the cell empty.
        checkpointing=row["grad_ckpt"] == "true" or (source.family == "litgpt" and devices > 1),
        attention=next((name for name in ("flash", "eager") if name in row["attention"].lower()), "sdpa"),
        loss=source.loss,
        optimizer=row["optimizer"],
        precision=row["precision"],
        accelerator=_card(row["gpu"]),
        devices=devices,
        nodes=int(_said(note, r"(\d+) nodes") or 1),
        program=source.program,
        quantity=source.quantity,
        peak_bytes=round(float(row["peak_mem_gib"]) * GIB) if row["peak_mem_gib"] else None,
        outcome={"OOM": "oom", "N/A": "unavailable"}.get(row["metric_value"], "fit"),
        saturated=SATURATED in note,
        tokens_per_second=_number(row["tokens_per_s"]),
        samples_per_second=_number(row["samples_per_s"]),
        total_seconds=_number(row["total_seconds"]),
        examples=int(row["dataset_examples"] or 0),
        total_tokens=int(_said(note, r"\((\d+) non-pad tokens") or 0),
        every_row_full=source.full_rows,
        note=note,
    )


def _card(name: str) -> str:
    try:
        return accelerator(name).name
    except UnknownNameError:
        return ""


def _adapters(row: dict[str, str], family: str) -> tuple[int, tuple[str, ...]]:
    """Rank and target modules by their Llama names."""
    if row["method"] not in ("lora", "dora", "rslora", "qlora"):
        return 0, ()
    # The LitGPT tutorial whose row has no rank prints the same command as the one that has: r = 8.
    rank = int(row["rank"] or 8)
    if family == "ibm":
        return rank, ("q_proj", IBM_KEY_TARGETS.get(row["model"], "v_proj"))
    if re.search(r"\ball[- ]linear", row["note"]):
        return rank, (ALL_LINEAR,)
    said = _said(row["note"], r"targets=([\w,]+)")
    return rank, tuple(said.split(",")) if said else ("q_proj", "v_proj")


def _variant(row: dict[str, str], method: str | None, note: str) -> str:
    """What a LoRA is beside plain: by its method, its optimizer (LoRA-FA freezes A), or its experiment's name."""
    if method != "lora" or row["method"] != "lora":
        return row["method"] if row["method"] in ("dora", "rslora") else ""
    if row["optimizer"] == "lora-fa":
        return "lora-fa"
    return _said(note, r"exp=lora/\S+-(bdlora|mica)\b")


def _said(note: str, pattern: str) -> str:
    found = re.search(pattern, note)
    return found.group(1) if found else ""


def _number(text: str) -> float | None:
    return float(text) if text else None
