# SPDX-License-Identifier: Apache-2.0
"""A task as frozen values: everything that training or preparing needs."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from finetree_api.trainer.v1 import artifact_pb2, event_pb2, job_pb2
from finetree_api.types.v1 import evidence_pb2, run_spec_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.options import Reading
from google.type import money_pb2

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

    from finetree_worker.portable import Portable

UNLIMITED = 1 << 24
"""Sequence length that cuts nothing: the longest that a spec may have."""
LANGUAGE = "AutoModelForCausalLM"
"""Name of the class of transformers that loads language models."""


class Schedule(StrEnum):
    """Course of the learning rate after warm-up."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


class LossOn(StrEnum):
    """Tokens that count in the loss."""

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
    """Optimizers that the worker has."""

    ADAMW = "adamw"
    ADAMW_8BIT = "adamw-8bit"
    PAGED_ADAMW_8BIT = "paged-adamw-8bit"
    SGD = "sgd"


class Attention(StrEnum):
    """Computation of attention: by torch's fused kernels, or with the scores in memory."""

    SDPA = "sdpa"
    EAGER = "eager"


class Checkpointing(StrEnum):
    """What is kept for the backward pass: all activations, or each layer's input alone, on the device or the host."""

    OFF = "off"
    FULL = "full"
    OFFLOADED = "offloaded"


class Sharding(StrEnum):
    """What several devices divide: the rows of a step alone, or weights, gradients and optimizer states too."""

    REPLICATED = "replicated"
    FULL = "full"


class Metric(StrEnum):
    """Measurements of an evaluation."""

    LOSS = "loss"
    EXACT_MATCH = "exact_match"
    TOKEN_ACCURACY = "token_accuracy"  # noqa: S105 - no password


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The base model: its folder on this machine, and its public identity, which alone is written into artifacts."""

    folder: Path
    hub_id: str = ""
    revision: str = ""
    fingerprint: str = ""
    license: str = ""
    """License as its publisher names it, for example "apache-2.0"; empty where unknown."""
    family: str = ""
    """model_type of its config.json, of the text model where it has several; empty where unknown."""
    auto_class: str = LANGUAGE
    """Name of the class of transformers that loads it."""

    def message(self) -> artifact_pb2.ArtifactBase:
        """Return the identity as an artifact's message has it."""
        return artifact_pb2.ArtifactBase(
            hub_id=self.hub_id,
            revision=self.revision,
            fingerprint=self.fingerprint,
            family=self.family,
            auto_class=self.auto_class,
        )


class Method(ABC):
    """Interface of a fine-tuning method with its settings.

    Each is a frozen dataclass in a file of methods/ that has the name of the method's field in RunSpec.
    """

    name: ClassVar[str]
    """The method's field in RunSpec."""
    artifact: ClassVar[artifact_pb2.ArtifactKind.ValueType] = artifact_pb2.ARTIFACT_KIND_ADAPTER
    """Kind of artifact that the method makes."""
    peft_type: ClassVar[str] = ""
    """peft's name of the artifact's type; empty where the format is not one of peft's."""
    title: ClassVar[str] = ""
    """Name for people."""
    library: ClassVar[str] = "peft"
    """Library that loads the artifact, as hubs name it."""
    load_notes: ClassVar[tuple[str, ...]] = ()
    """What a user of the artifact must know, as paragraphs of its card."""
    trains_base: ClassVar[bool] = False
    """Whether weights of the base are trained; mixed precision then keeps them in float32."""

    @classmethod
    @abstractmethod
    def from_spec(cls, spec: run_spec_pb2.RunSpec) -> Self:
        """Read the settings of a resolved run. Raises PlanError for what this worker cannot do."""

    @abstractmethod
    def apply(self, model: "PreTrainedModel", plan: "Plan") -> "tuple[PeftModel | PreTrainedModel, PreTrainedModel]":
        """Make the model trainable; return the object that `save` takes, and the model whose forward pass is run.

        Raises PlanError where the method cannot be applied to this model.
        """

    @abstractmethod
    def blank(self, model: "PreTrainedModel") -> "PeftModel | PreTrainedModel":
        """Add the method's layers with values that mean nothing, for trained ones to be copied into them.

        Returns what `apply` returns as the object to save, whose parameters have the same names.
        """

    @abstractmethod
    def save(
        self, trained: Any, folder: Path, *, base: BaseModel, tokenizer: "PreTrainedTokenizerBase", dtype: "torch.dtype"
    ) -> None:
        """Write the trained weights into `folder`, with the tokenizer; a whole model in `dtype`."""

    @abstractmethod
    def compatibility(self, folder: Path, base: Path) -> artifact_pb2.Compatibility:
        """Return whether the program that the artifact in `folder` is meant for loads it on the base in `base`."""

    def portable(self, trained: Any, base: BaseModel) -> "Portable | None":
        """Return how other programs name the trained weights of a checkpoint; None where none loads them."""
        del trained, base
        return None

    @property
    def undivided(self) -> str:
        """Why the method's weights cannot be divided among devices, as the end of a sentence; empty where they can."""
        return ""

    def quantization(self, dtype: "torch.dtype") -> "BitsAndBytesConfig | None":
        """Return how the base is quantized on loading, its products in `dtype`; None where it is not quantized."""
        del dtype
        return None

    def load_lines(self, base: str, auto_class: str) -> tuple[str, ...]:
        """Return three lines of Python that load the artifact from its own folder.

        `base` is the call for its base, by the class of transformers named `auto_class`.
        """
        return (
            "from peft import PeftModel",
            f"from transformers import {auto_class}",
            f'model = PeftModel.from_pretrained({base}, ".")',
        )

    def memory_savings(self, *, checkpointing: bool) -> Sequence[str]:
        """Return settings that would lower the memory of a run of this method, as parts of a sentence."""
        return [*([] if checkpointing else ["turn gradient checkpointing on"]), "use qlora"]


@dataclass(frozen=True, slots=True)
class DataPlan:
    """The rows of a task and how they become tokens.

    Rows that are not trained on come from a file of their own, `held_out`, or are a share of the training rows, by
    `split_seed`. `token_cache` is a folder of tokenized rows that tasks share, of at most `token_cache_bytes`; without
    one, `scratch` holds the tokens for the time that they are mapped.
    """

    train: Path
    scratch: Path
    reading: Reading = field(default_factory=Reading)
    held_out: Path | None = None
    held_out_reading: Reading = field(default_factory=Reading)
    split_fraction: float = 0.0
    split_seed: int = 0
    sequence_length: int = UNLIMITED
    """Longest row in tokens; longer rows are truncated."""
    loss_on: LossOn = LossOn.COMPLETIONS
    append_eos: bool = True
    """Whether a row that no template ends gets the end-of-sequence token."""
    questions: bool = False
    """Whether held-out rows are kept as questions that the model answers."""
    token_cache: Path | None = None
    token_cache_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Optimization:
    """Settings of the optimization. Exactly one of `epochs` and `max_steps` is set; batch sizes count rows."""

    learning_rate: float
    batch_size: int
    micro_batch_size: int
    epochs: float | None = None
    max_steps: int | None = None
    schedule: Schedule = Schedule.COSINE
    warmup_ratio: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    packing: bool = True
    seed: int = 0
    precision: Precision = Precision.BF16
    optimizer: OptimizerName = OptimizerName.ADAMW
    gradient_checkpointing: Checkpointing = Checkpointing.OFF
    attention: Attention = Attention.SDPA
    non_finite_limit: int = 5
    """Steps in a row without a finite loss or gradient after which the run has diverged."""


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """Evaluations on the held-out rows: what they measure, and when."""

    metrics: tuple[Metric, ...] = ()
    max_new_tokens: int = 64
    samples: int = 0
    before_training: bool = False
    every_steps: int = 0
    """Steps between two evaluations; 0: none before training ends."""
    early_stopping_patience: int = 0
    """Evaluations in a row without improvement that end the run, whose best weights are published; 0: never."""
    early_stopping_min_delta: float = 0.0
    """By how much an evaluation must beat the best one: nats of a loss, or a share."""
    best_by: Metric = Metric.LOSS
    """Metric that the best evaluation is chosen by: the lowest loss, or the highest of the others."""


@dataclass(frozen=True, slots=True)
class CheckpointPlan:
    """Scheduled checkpoints, and which are kept."""

    every_steps: int = 100
    """Steps between two checkpoints; 0: none."""
    max_lost_seconds: float = 0.0
    """Most time of steps that a lost worker may cost, seconds; 0: unlimited."""
    keep: int = 2
    """Number of the newest checkpoints that are kept."""
    keep_best: bool = False
    """Whether the checkpoint of the best evaluation is kept too."""


@dataclass(frozen=True, slots=True)
class Price:
    """Price of an hour of the run."""

    per_hour: float
    currency_code: str

    @classmethod
    def from_money(cls, money: money_pb2.Money) -> Self:
        """Read the price of an hour from a message."""
        return cls(money.units + money.nanos / 1e9, money.currency_code)

    def of(self, seconds: float) -> money_pb2.Money:
        """Return the cost of a time in seconds."""
        nanos = round(self.per_hour * seconds / 3600 * 1e9)
        return money_pb2.Money(currency_code=self.currency_code, units=nanos // 10**9, nanos=nanos % 10**9)

    def of_interval(self, seconds: evidence_pb2.Interval) -> evidence_pb2.MoneyInterval:
        """Return the cost of an interval of seconds."""
        cost = evidence_pb2.MoneyInterval(amount=seconds, currency_code=self.currency_code)
        for bound in ("low", "expected", "high"):
            setattr(cost.amount, bound, getattr(seconds, bound) * self.per_hour / 3600)
        return cost


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known before the first step: seconds of a step, and the matrix rates (FLOP/s) behind them; 0: unknown."""

    step_seconds: evidence_pb2.Interval | None = None
    forward_rate: float = 0.0
    backward_rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A training task with all its settings.

    `work` is the attempt's own folder, `artifact` the folder that the result is renamed to, `checkpoint_folder` where
    the job's attempts keep their checkpoints (unset: below `work`).
    """

    base: BaseModel
    data: DataPlan
    method: Method
    optimization: Optimization
    work: Path
    artifact: Path
    evaluation: EvaluationPlan = field(default_factory=EvaluationPlan)
    checkpoints: CheckpointPlan = field(default_factory=CheckpointPlan)
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    """CPU threads of this process; with the library versions and the machine type they decide the order of
    floating-point sums, hence whether a resumed run is equal bit for bit."""
    ranks: int = 1
    """Processes that train together, each on a device of its own; a checkpoint fits any number of them."""
    sharding: Sharding = Sharding.REPLICATED
    device_ids: tuple[str, ...] = ()
    """The service's names of the ranks' devices, in their order; empty on a CPU."""
    job: str = ""
    attempt: int = 1
    attempt_reason: event_pb2.AttemptReason.ValueType = event_pb2.ATTEMPT_REASON_UNSPECIFIED
    """Why there is this attempt; unspecified where its number says all that is known."""
    placements: tuple[job_pb2.Placement, ...] = ()
    plan_digest: str = ""
    checkpoint_folder: Path | None = None
    init_from: worker_pb2.TaskWeights | None = None
    """Weights that the run starts from; None: those of the base model."""
    price: Price | None = None
    expected: Expected = field(default_factory=Expected)

    @property
    def checkpoints_dir(self) -> Path:
        """Folder that checkpoints are written to and looked for in."""
        return self.checkpoint_folder or self.work / "checkpoints"

    def numerics_hash(self) -> str:
        """Return the sha256 (hex) of the settings that decide the weights; checkpoints of other runs have another."""
        settings: Any = self.method
        decisive: dict[str, Any] = {
            "method": {"name": self.method.name, **asdict(settings)},
            "optimization": asdict(self.optimization),
            "data": (
                self.data.sequence_length,
                self.data.loss_on.value,
                self.data.append_eos,
                self.data.split_fraction,
            ),
            "stopping": (
                self.evaluation.early_stopping_patience,
                self.evaluation.early_stopping_min_delta,
                self.evaluation.every_steps if self.evaluation.early_stopping_patience else 0,
                self.evaluation.best_by.value if self.evaluation.early_stopping_patience else "",
            ),
            "fingerprint": self.base.fingerprint,
        }
        if self.init_from is not None:
            decisive["init_from"] = self.init_from.sha256
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class PreparePlan:
    """A task that prepares a base model, reports on rows, or both. `artifact` is the folder of the preview's rows."""

    job: str
    model_origin: str
    """Where the base model is fetched from; empty where its folder holds it already."""
    base: BaseModel | None
    """None where rows are reported on without a tokenizer."""
    data: DataPlan | None
    artifact: Path
