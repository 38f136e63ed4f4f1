# SPDX-License-Identifier: Apache-2.0
"""What a task tells while it runs, and what it may be told: plain values, no wire format."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Phase(StrEnum):
    """Parts of a task, in the order in which they run."""

    DOWNLOAD_MODEL = "download_model"
    CONVERT_MODEL = "convert_model"
    LOAD_MODEL = "load_model"
    TOKENIZE = "tokenize"
    EVALUATE_BEFORE = "evaluate_before"
    TRAIN = "train"
    EVALUATE_AFTER = "evaluate_after"
    SAVE = "save"


class Level(StrEnum):
    """How much an alert matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class PhaseProgress:
    """How far a phase is: `fraction` 0 to 1; `seconds` since the phase began; `done` of `total` in `unit`, if known."""

    phase: Phase
    fraction: float
    message: str = ""
    seconds: float = 0.0
    done: int = 0
    total: int = 0
    unit: str = ""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was left out since it is wrong: where in it, what, and the stable reason."""

    row: int
    field: str
    problem: str
    reason: str


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """What became of a split's rows. Row numbers are lines of the file, counted from 1; at most 100 are listed."""

    format: str
    rows: int
    train_rows: int
    eval_rows: int
    duplicate_rows: int
    truncated_rows: int
    dropped_rows: int
    dropped_row_numbers: tuple[int, ...]
    total_tokens: int
    target_tokens: int
    longest_row_tokens: int
    sequence_length: int
    histogram: tuple[tuple[int, int], ...]
    """(upper bound in tokens, rows), bounds ascending."""
    truncated_row_numbers: tuple[int, ...] = ()
    duplicate_row_numbers: tuple[int, ...] = ()
    """Rows that repeat an earlier one."""
    leaked_rows: int = 0
    leaked_row_numbers: tuple[int, ...] = ()
    """Held-out rows that are training rows too; their numbers in the held-out file."""
    leaked_prompts: int = 0
    leaked_prompt_numbers: tuple[int, ...] = ()
    """Held-out rows whose prompt is a training row's too, the leaked rows among them."""
    percentiles: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
    """Rows' lengths before any cut: 50, 90, 95, 99 % and all of the rows are at most so long."""
    suggested_sequence_length: int = 0
    """Keeps 99 % of the rows whole; 0: not computed."""
    template_source: str = ""
    """"tokenizer", or "none" where rows are joined as they are."""
    special: "SpecialTokens | None" = None
    from_cache: bool = False
    """Whether nothing was tokenised, since an earlier task kept the tokens."""
    skipped_rows: int = 0
    bad_rows: tuple[BadRow, ...] = ()
    """The first of the rows that were left out since they are wrong."""
    file_format: str = ""
    """What the file is written in, and how it is packed: "jsonl", "csv+gzip"."""
    notes: tuple[str, ...] = ()
    """How the rows were read: the columns that were taken, and what was decided where the file leaves a choice."""


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """What begins and ends rows; a token that the tokenizer does not have, or that the model does not want, is empty.

    `rows_without_one_bos` do not begin with exactly one BOS token; `rows_that_learn_to_end` have an ending token as
    the last one that they learn, and are not cut.
    """

    bos: str
    eos: str
    pad: str
    pad_is_eos: bool
    rows_without_one_bos: int
    rows_that_learn_to_end: int


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """Training begins or goes on: `restored_step` is 0 for a fresh start."""

    restored_step: int
    total_steps: int
    trainable_parameters: int
    total_parameters: int
    threads: int
    device: str
    precision: str


@dataclass(frozen=True, slots=True)
class DeviceSample:
    """One look at the GPU."""

    utilization: float
    memory_bytes: int
    power_watts: float


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One optimizer step. `loss` is the mean over its target tokens; None where it was not finite."""

    step: int
    total_steps: int
    epoch: float
    loss: float | None
    learning_rate: float
    grad_norm: float | None
    tokens: int
    target_tokens: int
    tokens_per_second: float
    step_seconds: float
    elapsed_seconds: float
    remaining_seconds: float
    memory_bytes: int
    device: DeviceSample | None = None
    peak_memory_bytes: int = 0
    """Highest so far in this process; 0 where it is not known."""
    padding_share: float = 0.0
    """Of the token places computed in this step, those that held no token of a row; 0 to 1."""


@dataclass(frozen=True, slots=True)
class EvalMetrics:
    """One evaluation. `step` 0 is the base model; a metric that was not asked for, or is no finite number, is None."""

    step: int
    loss: float | None
    perplexity: float | None
    exact_match: float | None
    questions: int
    correct: int
    rows: int
    seconds: float
    token_accuracy: float | None = None
    """Share of the learned tokens that are the model's most probable ones."""
    non_finite: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One held-out prompt with the expected answer and the model's before (None: not measured) and after training."""

    prompt: str
    expected: str
    before: str | None
    after: str


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """A checkpoint is complete on disk."""

    step: int
    name: str
    bytes: int
    best: bool
    seconds: float
    sha256: str = ""
    """Of the manifest, which holds the hashes of all files."""


@dataclass(frozen=True, slots=True)
class CheckpointFailed:
    """A checkpoint could not be written; training goes on and the one before it is intact."""

    step: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PreflightReport:
    """The largest micro-batch was run before the first step. Bytes are 0 where the system does not tell.

    `peak_memory_bytes` is the highest of the process up to its end, `free_memory_bytes` what was free after it.
    """

    rows: int
    tokens: int
    peak_memory_bytes: int
    free_memory_bytes: int
    fits: bool


@dataclass(frozen=True, slots=True)
class BatchSizeChanged:
    """The micro-batch was cut because memory ran out; the effective batch is as it was.

    Tokens and rows are what a micro-batch holds at most; rows are 0 with packing, where tokens alone bound it.
    """

    step: int
    tokens_before: int
    tokens_after: int
    rows_before: int = 0
    rows_after: int = 0


@dataclass(frozen=True, slots=True)
class BestRestored:
    """Training ended and the weights of its best evaluation took the place of the last ones.

    `step` is the last step taken; `early` says whether others were to come; `metric` is what `best_value` is of.
    """

    step: int
    best_step: int
    best_value: float
    early: bool
    metric: str = "loss"


@dataclass(frozen=True, slots=True)
class Alert:
    """Something a person should know."""

    level: Level
    reason: str
    message: str
    step: int = 0


@dataclass(frozen=True, slots=True)
class ArtifactReady:
    """A file or folder of results is complete on disk; `files` maps names in `folder` to sha256."""

    kind: str
    folder: str
    bytes: int
    files: dict[str, str]
    base_hub_id: str
    base_revision: str
    base_fingerprint: str
    peft_type: str
    trainable_parameters: int


Event = (
    PhaseProgress
    | DatasetReport
    | AttemptStarted
    | StepMetrics
    | EvalMetrics
    | Sample
    | CheckpointSaved
    | CheckpointFailed
    | PreflightReport
    | BatchSizeChanged
    | BestRestored
    | Alert
    | ArtifactReady
)


class Signal(StrEnum):
    """What the outside asks of a running task."""

    NONE = "none"
    CHECKPOINT = "checkpoint"
    """Save a checkpoint at the next step boundary and go on."""
    PAUSE = "pause"
    """Save a checkpoint at the next step boundary and end, to be resumed."""
    CANCEL = "cancel"
    """End now; write nothing."""
    CANCEL_SAVING = "cancel_saving"
    """Save a checkpoint at the next step boundary and end as cancelled."""


class Reporter(Protocol):
    """Takes events. `emit` must return within microseconds: it is called from the training thread."""

    def emit(self, event: Event) -> None:
        """Take one event."""


class Control(Protocol):
    """Asked between micro-batches; a CHECKPOINT is handed out once, the others for as long as they hold."""

    def poll(self) -> Signal:
        """What is asked of the task now."""
