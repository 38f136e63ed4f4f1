# SPDX-License-Identifier: Apache-2.0
"""Published runs of sources that no constant was fitted on (other_rows.csv), each as what EstimateRun is asked.

A row holds a run's whole recipe and the peaks and the speed that its source published. `locator` is the file of the
source; `packing` is on where every row has the whole length; peaks are one device's, in GiB; the speed is of all.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.types.v1 import hardware_pb2, method_pb2, model_pb2, run_spec_pb2, training_data_pb2, training_pb2
from other_shapes import SHAPES
from row_lengths import FUDAN_NEWS

FOLDER = Path(__file__).parent
TABLES = tuple(FOLDER / f"{name}_rows.csv" for name in ("other", "fresh", "later", "sharded", "unseen", "speed"))
"""What was asked while formulas were fixed from the programs' sources, and what was gathered after that, each time by
sources that nobody had looked at."""
GIB = 2**30
QUANTITIES = ("allocated", "reserved", "device")
"""What a published peak may be: live tensors, what the allocator holds, what the driver shows."""

_PROGRAMS = {
    "transformers": training_pb2.TRAINING_PROGRAM_TRANSFORMERS,
    "litgpt": training_pb2.TRAINING_PROGRAM_LITGPT,
    "torchtune": training_pb2.TRAINING_PROGRAM_TORCHTUNE,
    "unsloth": training_pb2.TRAINING_PROGRAM_UNSLOTH,
    "axolotl": training_pb2.TRAINING_PROGRAM_AXOLOTL,
    "pytorch": training_pb2.TRAINING_PROGRAM_PYTORCH,
}
_QUANTIZATIONS = {
    "nf4": method_pb2.QUANTIZATION_NF4,
    "nf4-dq": method_pb2.QUANTIZATION_NF4,
    "int8": method_pb2.QUANTIZATION_INT8,
    "gptq": method_pb2.QUANTIZATION_GPTQ_INT4,
}
_OPTIMIZERS = {
    "adamw": training_pb2.OPTIMIZER_ADAMW,
    "adamw-8bit": training_pb2.OPTIMIZER_ADAMW_8BIT,
    "paged-adamw-8bit": training_pb2.OPTIMIZER_PAGED_ADAMW_8BIT,
    "adafactor": training_pb2.OPTIMIZER_ADAFACTOR,
    "sgd": training_pb2.OPTIMIZER_SGD,
}
_PRECISIONS = {
    "bf16": training_pb2.PRECISION_BF16,
    "bf16-mixed": training_pb2.PRECISION_BF16_MIXED,
    "fp32": training_pb2.PRECISION_FP32,
}
_LOSSES = {
    "full-logits": training_pb2.LOSS_KERNEL_FULL_LOGITS,
    "chunked": training_pb2.LOSS_KERNEL_CHUNKED,
    "fused": training_pb2.LOSS_KERNEL_FUSED,
}
_ATTENTION = {
    "sdpa": training_pb2.ATTENTION_KERNEL_SDPA,
    "flash": training_pb2.ATTENTION_KERNEL_FLASH,
    "eager": training_pb2.ATTENTION_KERNEL_EAGER,
}
_CHECKPOINTING = {
    "off": training_pb2.GRADIENT_CHECKPOINTING_OFF,
    "full": training_pb2.GRADIENT_CHECKPOINTING_FULL,
    "offloaded": training_pb2.GRADIENT_CHECKPOINTING_OFFLOADED,
}
_SHARDING = {
    "": hardware_pb2.SHARDING_UNSPECIFIED,
    "replicated": hardware_pb2.SHARDING_REPLICATED,
    "gradients": hardware_pb2.SHARDING_GRADIENTS,
    "full": hardware_pb2.SHARDING_FULL,
}


_IN_TURN = training_pb2.EXPERT_PRODUCTS_IN_TURN
_LIBRARIES = {
    "": training_pb2.SHARDING_LIBRARY_UNSPECIFIED,
    "fsdp": training_pb2.SHARDING_LIBRARY_FSDP,
    "fsdp2": training_pb2.SHARDING_LIBRARY_FSDP2,
    "deepspeed": training_pb2.SHARDING_LIBRARY_DEEPSPEED,
}


@dataclass(frozen=True, slots=True)
class OtherRow:
    """A published run: what is asked, and what was measured."""

    source: str
    label: str
    group: str
    """Method and number format of the base, devices."""
    request: estimate_pb2.EstimateRunRequest
    accelerator: str
    peaks: dict[str, float]
    """Bytes of one device by quantity."""
    tokens_per_second: float | None
    note: str

    @property
    def steady(self) -> bool:
        """Whether the speed is that of many steps.

        A mean over two or three steps is that of the first, which allocates all memory: can-i-finetune-this's runs (RTX
        4080, Windows) take 0.5 to 2.8 s more than their steps explain, a second for each 5.5 GB that they reserve.
        """
        return "includes the first" not in self.note


def other_rows(tables: tuple[Path, ...] = TABLES) -> list[OtherRow]:
    """All rows of the tables, in order. Raises KeyError (an unknown word or column) and ValueError (no number)."""
    return [row for path in tables for row in _rows_of(path)]


def _rows_of(path: Path) -> list[OtherRow]:
    with path.open(encoding="utf-8", newline="") as file:
        return [_row(row) for row in csv.DictReader(file)]


def _row(row: dict[str, str]) -> OtherRow:
    devices = int(row["devices"])
    base = "" if row["quant"] == "none" else f" {row['quant']}"
    sharding = f", {row['sharding']} over {devices}" if devices > 1 else ""
    label = (
        f"{row['model']} {row['method']}{base} {row['micro_batch']}x{row['sequence_length']} "
        f"checkpointing {row['checkpointing']} {row['loss']} {row['accelerator']}{sharding}"
    )
    return OtherRow(
        source=row["source"].split("@")[0],
        label=label,
        group=f"{row['method']}{base} · {'1 device' if devices == 1 else 'several devices'}",
        request=request_of(row),
        accelerator=row["accelerator"],
        peaks={name: float(row[f"{name}_gib"]) * GIB for name in QUANTITIES if row[f"{name}_gib"]},
        tokens_per_second=float(row["tokens_per_second"]) if row["tokens_per_second"] else None,
        note=row["note"],
    )


def request_of(row: dict[str, str]) -> estimate_pb2.EstimateRunRequest:
    """What EstimateRun is asked for a row, by the columns of the table. Raises KeyError and ValueError."""
    shape = SHAPES.get(row["model"])
    spec = run_spec_pb2.RunSpec(
        model=model_pb2.ModelSource(name=row["model"]) if shape is None else model_pb2.ModelSource(shape=shape),
        training=_training(row),
        precision=_PRECISIONS[row["precision"]],
        optimizer=_OPTIMIZERS[row["optimizer"]],
        optimizer_in_backward=row["in_backward"] == "true",
        attention=_ATTENTION[row["attention"]],
        gradient_checkpointing=_CHECKPOINTING[row["checkpointing"]],
        loss_kernel=_LOSSES[row["loss"]],
        hardware=hardware_pb2.Hardware(
            accelerator=row["accelerator"], count=int(row["devices"]), sharding=_SHARDING[row["sharding"]]
        ),
    )
    _set_method(spec, row)
    spec.program.CopyFrom(
        training_pb2.ProgramSettings(
            program=_PROGRAMS[row["program"]],
            compile=row["compiled"] == "true",
            sharding_library=_LIBRARIES[row["library"]],
            experts=_IN_TURN if "experts come in turn" in row["note"] else training_pb2.EXPERT_PRODUCTS_UNSPECIFIED,
            layer_kernels=_layer_kernels(row),
        )
    )
    found = estimate_pb2.EstimateRunRequest(spec=spec)
    found.dataset_profile.CopyFrom(_profile(row, 100 * spec.training.effective_batch_size))
    return found


def _layer_kernels(row: dict[str, str]) -> training_pb2.LayerKernels.ValueType:
    """Which of a layer's operations are fused, by what a row's note says of the loss that came with them or without.

    fms-acceleration's foak fuses norms and rotary embedding, a cut cross-entropy and prime-rl's head in parts nothing.
    """
    if "foak" in row["note"] and row["program"] != "unsloth":
        return training_pb2.LAYER_KERNELS_FUSED_NORMS
    if "cut cross-entropy" in row["note"] or "parts of the vocabulary" in row["note"]:
        return training_pb2.LAYER_KERNELS_PLAIN
    return training_pb2.LAYER_KERNELS_UNSPECIFIED


SWIFT = "github:modelscope/ms-swift"
SWIFT_CUT = f"{SWIFT}@cfcb6726"
"""Its first table: 1,000 rows whose ends were cut (run_single.py of that commit); later ones leave long rows out."""
SWIFT_SAMPLED = 1000
"""Rows that were drawn of its data with limits beyond 2,048 tokens; all rows otherwise (run_single.py)."""


def _profile(row: dict[str, str], examples: int) -> training_data_pb2.DatasetProfile:
    """What is known of the rows; `examples` where their number is not."""
    length = int(row["sequence_length"])
    if row["source"].startswith(SWIFT) and row["packing"] != "on":
        cut = row["source"] == SWIFT_CUT
        return FUDAN_NEWS.profile(length, sampled=SWIFT_SAMPLED if cut or length > 2048 else 0, cut=cut)
    profile = training_data_pb2.DatasetProfile(examples=examples)
    if row["packing"] == "on":
        profile.token_lengths.add(upper_bound=length, count=examples)
        profile.total_tokens = examples * length
        profile.exact = True
    return profile


def _training(row: dict[str, str]) -> training_pb2.Training:
    micro_batch = int(row["micro_batch"])
    return training_pb2.Training(
        epochs=1.0,
        effective_batch_size=micro_batch * int(row["accumulation"]) * int(row["devices"]),
        micro_batch_size=micro_batch,
        sequence_length=int(row["sequence_length"]),
        packing=training_pb2.PACKING_OFF,
        loss_tokens=training_pb2.LOSS_TOKENS_ALL,
    )


def _set_method(spec: run_spec_pb2.RunSpec, row: dict[str, str]) -> None:
    if row["method"] == "full":
        spec.full.SetInParent()
        return
    lora = method_pb2.Lora(
        rank=int(row["rank"]), dropout=float(row["dropout"]), target_modules=row["targets"].split(";")
    )
    if row["method"] == "lora":
        spec.lora.CopyFrom(lora)
        return
    spec.qlora.lora.CopyFrom(lora)
    spec.qlora.quantization = _QUANTIZATIONS[row["quant"]]
    spec.qlora.double_quantization = row["quant"] == "nf4-dq"
