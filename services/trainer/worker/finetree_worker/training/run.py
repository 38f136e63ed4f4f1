# SPDX-License-Identifier: Apache-2.0
"""A training task from end to end: load, tokenise, evaluate, train, evaluate again, save."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from finetree_worker import device_memory, methods, randomness
from finetree_worker.atomic_files import atomic_folder, hashes, size
from finetree_worker.control import STOPS, Steering
from finetree_worker.data.dataset import Dataset, load_dataset
from finetree_worker.events.types import (
    Alert,
    ArtifactReady,
    AttemptStarted,
    Control,
    DatasetReport,
    Level,
    Phase,
    PhaseProgress,
    Reporter,
)
from finetree_worker.methods import qlora
from finetree_worker.models import checks
from finetree_worker.models.gguf import base_facts
from finetree_worker.models.load import load_model, load_tokenizer, parameter_count
from finetree_worker.plan import BaseModel, FullMethod, Precision, QloraMethod, TrainPlan
from finetree_worker.training.evaluation_schedule import Evaluations
from finetree_worker.training.gradients import AUTOCAST, Subject
from finetree_worker.training.loop import Loop, Trained

_BFLOAT16 = (Precision.BF16, Precision.BF16_MIXED)
_PROGRESS_STEPS = 50  # progress events of a phase at most


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run that came to its end. Seconds are by phase name; a metric that was not asked for is None."""

    artifact: Path
    trained: Trained
    exact_match_before: float | None
    exact_match_after: float | None
    phase_seconds: dict[str, float]


@dataclass(slots=True)
class _Phases:
    """Times phases and reports their progress."""

    reporter: Reporter
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[Callable[[float], None]]:
        """A block that is one phase; it gets a function that takes the fraction done."""
        started, told = time.perf_counter(), 0.0

        def tell(fraction: float) -> None:
            nonlocal told
            if fraction - told >= 1 / _PROGRESS_STEPS and fraction < 1:
                told = fraction
                self.reporter.emit(PhaseProgress(phase, fraction, seconds=time.perf_counter() - started))

        self.reporter.emit(PhaseProgress(phase, 0.0))
        yield tell
        self.seconds[phase.value] = time.perf_counter() - started
        self.reporter.emit(PhaseProgress(phase, 1.0, seconds=self.seconds[phase.value]))


def train(plan: TrainPlan, reporter: Reporter, control: Control) -> Outcome:
    """Run the plan to its end, from the newest checkpoint of `plan.checkpoints_dir` if there is one.

    Emits every event from its calling thread. Raises the errors of `finetree_worker.errors`, and Cancelled when
    `control` asks it to stop; a checkpoint is on disk then, if the signal asked for one and training had begun.
    """
    return _Run(plan, reporter, control).run()


class _Run:
    def __init__(self, plan: TrainPlan, reporter: Reporter, control: Control) -> None:
        self.plan, self.reporter = plan, reporter
        self.steering, self.phases = Steering(control), _Phases(reporter)
        self.device = torch.device(plan.device)

    def run(self) -> Outcome:
        torch.set_num_threads(self.plan.threads)
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        with self.phases.phase(Phase.LOAD_MODEL):
            self.steering.stop_here()
            tokenizer, model = self._load()
            base = base_facts(self.plan.base)
        with self.phases.phase(Phase.TOKENIZE) as tell:
            dataset = self._tokenize(tokenizer, tell)
            evaluations = Evaluations(self.plan.evaluation, dataset, tokenizer, self.reporter)
        adapted, subject = adapt(self.plan, model, self.device)
        loop = Loop(self.plan, subject, dataset.train, self.reporter, self.steering)
        restored = loop.restore()
        asked, before, after = self.plan.evaluation, None, None
        # A resumed run's model is trained already: its earlier attempt has reported the base.
        if asked.before_training and dataset.held_out and not restored:
            before = self._evaluate_before(evaluations, subject.model)
        self._announce(loop, model, restored)
        with self.phases.phase(Phase.TRAIN):
            trained = loop.run(lambda step: evaluations.between(subject.model, step, self._look))
        if asked.metrics and dataset.held_out:
            after = self._evaluate_after(evaluations, loop)
        self._save(adapted, tokenizer, base, loop)
        return Outcome(self.plan.artifact, trained, before, after, self.phases.seconds)

    def _load(self) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
        tokenizer = load_tokenizer(self.plan.base.folder)
        model = load(self.plan, self.device)
        length = self.plan.optimization.sequence_length
        checks.check_fit(self.plan.base.folder, model.config, tokenizer, length)
        if device_memory.emulates_bfloat16(self.device) and self.plan.optimization.precision in _BFLOAT16:
            self.reporter.emit(_emulated())
        return tokenizer, model

    def _tokenize(self, tokenizer: PreTrainedTokenizerBase, tell: Callable[[float], None]) -> Dataset:
        dataset = load_dataset(self.plan, tokenizer, _both(tell, self.steering.stop_here))
        self.reporter.emit(dataset.report)
        if dataset.report.leaked_rows:
            self.reporter.emit(_leak(dataset.report))
        return dataset

    def _look(self, _: float) -> None:
        """Hear, in an evaluation between two steps, what is asked of the run; it is heeded behind it."""
        self.steering.signal()

    def _announce(self, loop: Loop, model: PreTrainedModel, restored: int) -> None:
        self.reporter.emit(
            AttemptStarted(
                restored_step=restored,
                total_steps=loop.total,
                trainable_parameters=sum(p.numel() for p in loop.subject.trainable.values()),
                total_parameters=sum(parameter_count(p) for p in model.parameters()),
                threads=self.plan.threads,
                device=loop.environment.device,
                precision=self.plan.optimization.precision.value,
            )
        )

    def _evaluate_before(self, evaluations: Evaluations, model: PreTrainedModel) -> float | None:
        with self.phases.phase(Phase.EVALUATE_BEFORE) as tell:
            return evaluations.before(model, _both(tell, self.steering.stop_here))

    def _evaluate_after(self, evaluations: Evaluations, loop: Loop) -> float | None:
        def stop() -> None:
            if self.steering.signal() in STOPS:
                loop.save_checkpoint(must=True)
                self.steering.stop_here()

        with self.phases.phase(Phase.EVALUATE_AFTER) as tell:
            return evaluations.after(loop.subject.model, loop.position.step, _both(tell, stop))

    def _save(
        self, adapted: PeftModel | PreTrainedModel, tokenizer: PreTrainedTokenizerBase, base: BaseModel, loop: Loop
    ) -> None:
        method, target = self.plan.method, self.plan.artifact
        facts = {"format": 1, "base": base.hub_id, "fingerprint": base.fingerprint, "digest": self.plan.plan_digest}
        with self.phases.phase(Phase.SAVE):
            self.steering.signal()
            with atomic_folder(target, facts) as draft:
                dtype = _dtype(self.plan, stored=True)
                methods.save(adapted, tokenizer, draft, method=method, base=base, dtype=dtype)
            self.reporter.emit(
                ArtifactReady(
                    kind="model" if isinstance(method, FullMethod) else "adapter",
                    folder=str(target),
                    bytes=size(target),
                    files=hashes(target),
                    base_hub_id=base.hub_id,
                    base_revision=base.revision,
                    base_fingerprint=base.fingerprint,
                    peft_type=methods.PEFT_TYPES[method.kind],
                    trainable_parameters=sum(p.numel() for p in loop.subject.trainable.values()),
                )
            )


def load(plan: TrainPlan, device: torch.device) -> PreTrainedModel:
    """The plan's base model, quantised where the method asks for it. Raises ModelError."""
    dtype, method = _dtype(plan), plan.method
    quantization = qlora.quantization(method, dtype) if isinstance(method, QloraMethod) else None
    return load_model(plan.base.folder, dtype, device, quantization, plan.optimization.attention.value)


def adapt(plan: TrainPlan, model: PreTrainedModel, device: torch.device) -> tuple[PeftModel | PreTrainedModel, Subject]:
    """Make the model trainable by the plan's method: the object to save, and the subject to train."""
    if plan.optimization.gradient_checkpointing:
        # transformers 5.24 calls it activation checkpointing and the old name deprecated.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    adapted, run = methods.apply(model, plan)
    masks = randomness.bind(adapted, plan.optimization.seed)
    trainable = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    return adapted, Subject(run, trainable, masks, device)


def _dtype(plan: TrainPlan, *, stored: bool = False) -> torch.dtype:
    """Type of the base's weights in memory, or of a full model's weights on disk."""
    precision = plan.optimization.precision
    master = precision in AUTOCAST and isinstance(plan.method, FullMethod) and not stored
    if precision is Precision.FP32 or master:
        return torch.float32
    return torch.float16 if precision is Precision.FP16_MIXED else torch.bfloat16


def _leak(report: DatasetReport) -> Alert:
    text = f"{report.leaked_rows} of {report.eval_rows} held-out rows are training rows too: what is measured on them"
    return Alert(Level.WARNING, "HELD_OUT_ROWS_LEAKED", f"{text} is memory, not skill.")


def _emulated() -> Alert:
    text = "This GPU has no arithmetic in bfloat16 and imitates it slowly: PRECISION_FP16_MIXED is faster here."
    return Alert(Level.WARNING, "BFLOAT16_EMULATED", text)


def _both(tell: Callable[[float], None], stop: Callable[[], None]) -> Callable[[float], None]:
    def look(fraction: float) -> None:
        stop()
        tell(fraction)

    return look
