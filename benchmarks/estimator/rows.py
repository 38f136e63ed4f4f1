# SPDX-License-Identifier: Apache-2.0
"""Published measurements as requests: what each row of a measurement file says, in the estimator's own words.

The files are CSV tables of published runs (their columns: see `measured_rows`). Each row becomes a MeasuredRow with
its settings resolved as far as its source tells them, and `request` makes of it what EstimateRun is asked. What the
sources say only in prose (targets of IBM's runs, the loss kernel of LitGPT) is here, each with where it is said.
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_estimator.listing import model_message
from finetree_estimator.models import model as catalogue_model
from published_models import CATALOGUE, shape_of

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
ACCELERATORS = {
    "NVIDIA L40S": "l40s",
    "NVIDIA A100-SXM4-80GB": "a100-80gb",
    "NVIDIA A100-SXM4-40GB": "a100-40gb",
    "NVIDIA A100 80GB PCIe": "a100-80gb-pcie",
    "NVIDIA A100 80GB": "a100-80gb",
    "NVIDIA A100 40GB": "a100-40gb",
    "NVIDIA H100 80GB": "h100",
    "NVIDIA H100 PCIe 80GB": "h100-pcie",
}
"""Published GPU name to the catalogue's."""
IBM_ACCUMULATION = 4
"""Default of IBM's benchmark (github:IBM/ado, README of the sfttrainer actuator), where a row does not say."""
IBM_KEY_TARGETS = {"llama-13b": "k_proj", "llama3-8b": "k_proj"}
"""Second LoRA target beside q_proj of IBM's benchmark; v_proj for all others (github:IBM/ado, default_target_modules
of the sfttrainer actuator's LoRA experiments)."""
SATURATED = "memory saturated"
"""What the notes call rows whose peak is the card's size rather than the run's need."""

_PRECISIONS = {
    "bf16": rs.PRECISION_BF16,
    "bf16 weights; adapters fp32": rs.PRECISION_BF16,
    "bf16-true": rs.PRECISION_BF16,
    "bf16-mixed": rs.PRECISION_BF16_MIXED,
    "amp_bf16": rs.PRECISION_BF16_MIXED,
}
_OPTIMIZERS = {
    "": rs.OPTIMIZER_ADAMW,
    "AdamW": rs.OPTIMIZER_ADAMW,
    "adamw_torch": rs.OPTIMIZER_ADAMW,
    # LitGPT's QLoRA runs take bitsandbytes' PagedAdamW with 32-bit states; the contract has no such optimizer, and for
    # adapters of a few million parameters the difference is some ten megabytes.
    "bnb PagedAdamW": rs.OPTIMIZER_ADAMW,
}


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """A published run and what it measured. Sizes in bytes, lengths in tokens."""

    source: str
    family: str
    """Of sources: peft, ibm, litgpt or llm-foundry."""
    published_model: str
    model: str | None
    """Name in the catalogue; None where only a shape is known, or nothing."""
    shape: rs.ModelShape | None
    """Shape where the catalogue has none, or where a row is longer than the catalogue's positions."""
    published_method: str
    method: str | None
    """full, lora, qlora or prefix; None when it is none of ours."""
    variant: str
    """A kind of LoRA: dora, rslora, lora-fa, or what a row's trainable parameters show to be another; or empty."""
    quant: str
    """none, nf4 or nf4-dq."""
    rank: int
    targets: tuple[str, ...]
    virtual_tokens: int
    trainable: int
    """Published trainable parameters; 0 when not said."""
    sequence_length: int
    micro_batch: int
    """Rows of a forward pass on a device."""
    accumulation: int
    checkpointing: bool
    attention: str
    """sdpa or flash."""
    optimizer: str
    precision: str
    accelerator: str
    """Name in the catalogue."""
    devices: int
    nodes: int
    program: pb.TrainingProgram.ValueType
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
        known = self.model is not None or self.shape is not None
        plain = self.variant in ("", "dora", "rslora")
        return known and self.method is not None and plain and self.precision in _PRECISIONS


def measured_rows(path: Path) -> list[MeasuredRow]:
    """All rows of a measurement file, in its order. Raises KeyError (no such column) and ValueError (no number)."""
    with path.open(encoding="utf-8", newline="") as file:
        return [_row(row) for row in csv.DictReader(file)]


def request(row: MeasuredRow) -> pb.EstimateRunRequest:
    """What EstimateRun is asked for a row. Raises ValueError when the row is not answerable."""
    if not row.answerable:
        raise ValueError(f"{row.published_model}, {row.published_method}: nothing to ask for")
    spec = rs.RunSpec(
        model=rs.ModelSource(shape=row.shape) if row.shape is not None else rs.ModelSource(name=row.model or ""),
        training=_training(row),
        precision=_PRECISIONS[row.precision],
        optimizer=_OPTIMIZERS[row.optimizer],
        attention=rs.ATTENTION_KERNEL_FLASH if row.attention == "flash" else rs.ATTENTION_KERNEL_SDPA,
        gradient_checkpointing=rs.GRADIENT_CHECKPOINTING_FULL if row.checkpointing else rs.GRADIENT_CHECKPOINTING_OFF,
        # LitGPT's scripts compute the logits in chunks of 128 positions (finetune/lora.py, lm_head_chunk_size).
        loss_kernel=rs.LOSS_KERNEL_CHUNKED if row.family == "litgpt" else rs.LOSS_KERNEL_FULL_LOGITS,
        hardware=_hardware(row),
    )
    _set_method(spec, row)
    found = pb.EstimateRunRequest(spec=spec, program=row.program)
    found.dataset_profile.CopyFrom(_profile(row))
    return found


def _training(row: MeasuredRow) -> rs.Training:
    return rs.Training(
        epochs=1.0,
        effective_batch_size=row.micro_batch * row.accumulation * row.devices,
        micro_batch_size=row.micro_batch,
        sequence_length=row.sequence_length,
        packing=rs.PACKING_OFF,
        loss_tokens=rs.LOSS_TOKENS_ALL,
    )


def _hardware(row: MeasuredRow) -> rs.Hardware:
    # Every published run on several devices is FSDP with FULL_SHARD: LitGPT and LLM Foundry say so row by row, IBM's
    # benchmark in its README (distributed_backend, fsdp_sharding_strategy).
    sharding = rs.SHARDING_FULL if row.devices > 1 else rs.SHARDING_UNSPECIFIED
    return rs.Hardware(accelerator=row.accelerator, count=row.devices, sharding=sharding, nodes=row.nodes)


def _set_method(spec: rs.RunSpec, row: MeasuredRow) -> None:
    if row.method == "full":
        spec.full.SetInParent()
    elif row.method == "prefix":
        spec.prefix.virtual_tokens = row.virtual_tokens
    elif row.method == "qlora":
        spec.qlora.lora.CopyFrom(_lora(row))
        spec.qlora.quantization = rs.QUANTIZATION_NF4
        spec.qlora.double_quantization = row.quant == "nf4-dq"
    else:
        spec.lora.CopyFrom(_lora(row))


def _lora(row: MeasuredRow) -> rs.Lora:
    # Dropout: PEFT's comparison sets none; fms-hf-tuning (IBM) and LitGPT default to 0.05.
    return rs.Lora(
        rank=row.rank,
        dropout=0.0 if row.family == "peft" else 0.05,
        target_modules=row.targets,
        rank_stabilized=row.variant == "rslora",
        weight_decomposed=row.variant == "dora",
    )


def _profile(row: MeasuredRow) -> rs.DatasetProfile:
    """The rows' lengths as far as they are known; without a number of rows, a thousand steps' worth of them."""
    examples = row.examples or 1000 * row.micro_batch * row.accumulation * row.devices
    profile = rs.DatasetProfile(examples=examples, total_tokens=row.total_tokens, exact=row.total_tokens > 0)
    if row.every_row_full:
        profile.token_lengths.add(upper_bound=row.sequence_length, count=examples)
        profile.total_tokens = examples * row.sequence_length
        profile.exact = True
    return profile


def _row(row: dict[str, str]) -> MeasuredRow:
    family = _family(row["source"])
    note = row["note"]
    sequence_length = int(row["seq_len"])
    model, shape = _model(row["model"], float(row["params_b"]), sequence_length)
    method = METHODS.get(row["method"])
    rank, targets = _adapters(row, family)
    trainable = int(_said(note, r"trainable=(\d+)") or 0)
    accumulation = int(row["grad_accum"] or (IBM_ACCUMULATION if family == "ibm" else 1))
    return MeasuredRow(
        source=row["source"],
        family=family,
        published_model=row["model"],
        model=model,
        shape=shape,
        published_method=row["method"],
        method=method,
        variant=_variant(row, method, note),
        quant={"bnb.nf4": "nf4", "bnb.nf4-dq": "nf4-dq"}.get(row["quant"], row["quant"]),
        rank=rank,
        targets=targets,
        virtual_tokens=int(_said(note, r"virtual_tokens=(\d+)") or 0),
        trainable=trainable,
        sequence_length=sequence_length,
        micro_batch=int(row["micro_batch"]),
        accumulation=accumulation,
        checkpointing=_checkpointing(row, family),
        attention="flash" if "flash" in row["attention"].lower() else "sdpa",
        optimizer=row["optimizer"],
        precision=row["precision"],
        accelerator=ACCELERATORS[row["gpu"]],
        devices=int(row["n_gpus"]),
        nodes=int(_said(note, r"(\d+) nodes") or 1),
        program=_PROGRAMS[family],
        quantity=_QUANTITIES[family],
        peak_bytes=round(float(row["peak_mem_gib"]) * GIB) if row["peak_mem_gib"] else None,
        outcome={"OOM": "oom", "N/A": "unavailable"}.get(row["metric_value"], "fit"),
        saturated=SATURATED in note,
        tokens_per_second=_number(row["tokens_per_s"]),
        samples_per_second=_number(row["samples_per_s"]),
        total_seconds=_number(row["total_seconds"]),
        examples=int(row["dataset_examples"] or 0),
        total_tokens=int(_said(note, r"\((\d+) non-pad tokens") or 0),
        every_row_full=family in ("ibm", "llm-foundry"),
        note=note,
    )


_PROGRAMS = {
    "peft": pb.TRAINING_PROGRAM_TRANSFORMERS,
    "ibm": pb.TRAINING_PROGRAM_TRANSFORMERS,
    "litgpt": pb.TRAINING_PROGRAM_LITGPT,
    "llm-foundry": pb.TRAINING_PROGRAM_LLM_FOUNDRY,
}
# PEFT reports max_memory_reserved, LitGPT max_memory_allocated, IBM the memory in use that NVML shows.
_QUANTITIES = {"peft": "reserved", "ibm": "device", "litgpt": "allocated", "llm-foundry": "allocated"}


def _family(source: str) -> str:
    names = {"huggingface/peft": "peft", "Kavier": "ibm", "litgpt": "litgpt", "llm-foundry": "llm-foundry"}
    for part, name in names.items():
        if part in source:
            return name
    raise ValueError(f"no known source: {source}")


def _model(name: str, params_b: float, sequence_length: int) -> tuple[str | None, rs.ModelShape | None]:
    """Catalogue name and shape of a published model; both None when nothing is known of it."""
    known = CATALOGUE.get(name) or CATALOGUE.get(f"{name}/{params_b:g}")
    if known is None:
        return None, shape_of(name, params_b, sequence_length)
    entry = catalogue_model(known)
    if 0 < entry.shape.max_positions < sequence_length:
        # IBM cut rows far beyond a model's positions; memory and time do not ask whether the answer makes sense.
        shape = model_message(entry).shape
        shape.max_position_embeddings = 0
        return known, shape
    return known, None


def _adapters(row: dict[str, str], family: str) -> tuple[int, tuple[str, ...]]:
    """Rank and target modules by their Llama names."""
    if row["method"] not in ("lora", "dora", "rslora", "qlora"):
        return 0, ()
    # The LitGPT tutorial whose row has no rank prints the same command as the one that has: r = 8.
    rank = int(row["rank"] or 8)
    if family == "ibm":
        return rank, ("q_proj", IBM_KEY_TARGETS.get(row["model"], "v_proj"))
    said = _said(row["note"], r"targets=([\w,]+)")
    return rank, tuple(said.split(",")) if said else ("q_proj", "v_proj")


def _variant(row: dict[str, str], method: str | None, note: str) -> str:
    """What a LoRA is beside plain: by its method, its optimizer (LoRA-FA freezes A), or its experiment's name."""
    if method != "lora" or row["method"] != "lora":
        return row["method"] if row["method"] in ("dora", "rslora") else ""
    if row["optimizer"] == "lora-fa":
        return "lora-fa"
    return _said(note, r"exp=lora/\S+-(bdlora|mica)\b")


def _checkpointing(row: dict[str, str], family: str) -> bool:
    # LitGPT's scripts checkpoint exactly where they shard (the policy is FSDP's), and the table leaves the cell empty.
    return row["grad_ckpt"] == "true" or (family == "litgpt" and int(row["n_gpus"]) > 1)


def _said(note: str, pattern: str) -> str:
    found = re.search(pattern, note)
    return found.group(1) if found else ""


def _number(text: str) -> float | None:
    return float(text) if text else None
