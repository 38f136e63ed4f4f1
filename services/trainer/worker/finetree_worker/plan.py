# SPDX-License-Identifier: Apache-2.0
"""A resolved training run as frozen values: everything that the loop needs, nothing left to be guessed."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

from finetree_data.options import Reading


class Targets(StrEnum):
    """Which linear layers get an adapter."""

    ALL_LINEAR = "all-linear"
    ATTENTION = "attention"
    QUERY_VALUE = "query-value"
    MLP = "mlp"


class Schedule(StrEnum):
    """Learning rate after warm-up."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


class LossOn(StrEnum):
    """Which tokens are learned."""

    COMPLETIONS = "completions"
    LAST_COMPLETION = "last-completion"
    ALL = "all"


class Precision(StrEnum):
    """Number formats. Adapters and optimizer state are float32 in all but BF16 full fine-tuning."""

    BF16 = "bf16"
    BF16_MIXED = "bf16-mixed"
    FP16_MIXED = "fp16-mixed"
    """For GPUs without bfloat16; the loss is scaled."""
    FP32 = "fp32"


class OptimizerName(StrEnum):
    """Optimizers."""

    ADAMW = "adamw"
    ADAMW_8BIT = "adamw-8bit"
    PAGED_ADAMW_8BIT = "paged-adamw-8bit"
    SGD = "sgd"


class Attention(StrEnum):
    """How attention is computed: by torch's fused kernels, or with its scores written out."""

    SDPA = "sdpa"
    EAGER = "eager"


class Metric(StrEnum):
    """What evaluation measures."""

    LOSS = "loss"
    EXACT_MATCH = "exact_match"
    TOKEN_ACCURACY = "token_accuracy"  # noqa: S105 - no password


class Quantization(StrEnum):
    """How a frozen base is stored: 4-bit NormalFloat, 4-bit float, 8-bit integers."""

    NF4 = "nf4"
    FP4 = "fp4"
    INT8 = "int8"


class PrefixInit(StrEnum):
    """How prefixes start: as the keys and values of a text, or as zeros."""

    TEXT = "text"
    ZERO = "zero"


class Placement(StrEnum):
    """Where bottleneck adapters sit: after the MLP, after attention and the MLP, or beside the MLP."""

    PFEIFFER = "pfeiffer"
    HOULSBY = "houlsby"
    PARALLEL = "parallel"


@dataclass(frozen=True, slots=True)
class LoraMethod:
    """Low-rank adapters. `modules` names linears explicitly and, where it is not empty, overrides `targets`.

    `experts` adapts the experts of a mixture too, where `targets` holds the MLP.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.1
    targets: Targets = Targets.ALL_LINEAR
    modules: tuple[str, ...] = ()
    rank_stabilized: bool = False
    weight_decomposed: bool = False
    experts: bool = False
    kind: Literal["lora"] = "lora"


@dataclass(frozen=True, slots=True)
class FullMethod:
    """All weights, but for the lowest `frozen_layers` decoder layers (which freeze the embeddings below them too)."""

    frozen_layers: int = 0
    kind: Literal["full"] = "full"


@dataclass(frozen=True, slots=True)
class QloraMethod:
    """Low-rank adapters on a quantised base; `double_quantization` quantises the 4-bit blocks' scales as well."""

    lora: LoraMethod = field(default_factory=LoraMethod)
    quantization: Quantization = Quantization.NF4
    double_quantization: bool = True
    kind: Literal["qlora"] = "qlora"


@dataclass(frozen=True, slots=True)
class PrefixMethod:
    """Trained keys and values that every token sees before its document. An empty `init_text` takes the suite's own."""

    virtual_tokens: int = 20
    init: PrefixInit = PrefixInit.TEXT
    init_text: str = ""
    kind: Literal["prefix"] = "prefix"


@dataclass(frozen=True, slots=True)
class AdapterMethod:
    """Bottleneck layers between the frozen ones."""

    bottleneck_size: int = 64
    placement: Placement = Placement.PFEIFFER
    kind: Literal["adapter"] = "adapter"


Method = FullMethod | LoraMethod | QloraMethod | PrefixMethod | AdapterMethod


@dataclass(frozen=True, slots=True)
class Optimization:
    """How the weights are moved. Exactly one of `epochs` and `max_steps` is set; batch sizes count rows."""

    learning_rate: float
    batch_size: int
    micro_batch_size: int
    sequence_length: int
    epochs: float | None = None
    max_steps: int | None = None
    schedule: Schedule = Schedule.COSINE
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    packing: bool = True
    loss_on: LossOn = LossOn.COMPLETIONS
    seed: int = 0
    precision: Precision = Precision.BF16
    optimizer: OptimizerName = OptimizerName.ADAMW
    gradient_checkpointing: bool = False
    attention: Attention = Attention.SDPA
    non_finite_limit: int = 5
    """Steps in a row without a finite loss or gradient after which the run has diverged."""


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """What is measured on rows that are not trained on: a file of their own, or a share of the training rows."""

    dataset: Path | None = None
    reading: Reading = field(default_factory=Reading)
    split_fraction: float = 0.0
    metrics: tuple[Metric, ...] = ()
    max_new_tokens: int = 32
    samples: int = 0
    before_training: bool = False
    every_steps: int = 0
    early_stopping_patience: int = 0
    """Evaluations in a row that are no better and end the run, whose best weights are published; 0: never."""
    early_stopping_min_delta: float = 0.0
    """By how much an evaluation must beat the best one: nats of a loss, or a share."""
    best_by: Metric = Metric.LOSS
    """What tells the best evaluation: the lowest loss, or the highest of the other metrics."""


@dataclass(frozen=True, slots=True)
class CheckpointPlan:
    """`every_steps` 0: only when asked for; `keep` newest ones stay, and the best evaluation's if asked."""

    every_steps: int = 0
    keep: int = 2
    keep_best: bool = False


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The base: where it lies here, and what it is called elsewhere. Never one in the place of the other."""

    folder: Path
    hub_id: str = ""
    revision: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """One resolved run.

    `work` is the attempt's own folder, `artifact` the folder that the result is renamed to, `checkpoint_folder` where
    the run's attempts keep their checkpoints (unset: below `work`).
    `threads` is the number of CPU threads of this run; with the library versions and the machine type it decides the
    order of floating-point sums, hence whether a resumed run is bit-equal.
    `token_cache` is a folder of tokenised rows that runs share, of at most `token_cache_bytes`; unset: none is kept.
    """

    base: BaseModel
    dataset: Path
    method: Method
    optimization: Optimization
    work: Path
    artifact: Path
    evaluation: EvaluationPlan = field(default_factory=EvaluationPlan)
    checkpoints: CheckpointPlan = field(default_factory=CheckpointPlan)
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    plan_digest: str = ""
    checkpoint_folder: Path | None = None
    token_cache: Path | None = None
    token_cache_bytes: int = 0
    reading: Reading = field(default_factory=Reading)

    @property
    def checkpoints_dir(self) -> Path:
        """Where checkpoints are written to and looked for."""
        return self.checkpoint_folder or self.work / "checkpoints"

    def numerics_hash(self) -> str:
        """sha256 (hex) of what decides the trained weights: a checkpoint of another hash is not this run's."""
        decisive = {
            "method": asdict(self.method),
            "optimization": asdict(self.optimization),
            "split": self.evaluation.split_fraction,
            "stopping": (
                self.evaluation.early_stopping_patience,
                self.evaluation.early_stopping_min_delta,
                self.evaluation.every_steps if self.evaluation.early_stopping_patience else 0,
                self.evaluation.best_by.value if self.evaluation.early_stopping_patience else "",
            ),
            "fingerprint": self.base.fingerprint,
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
