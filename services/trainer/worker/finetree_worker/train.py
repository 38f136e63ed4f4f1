# SPDX-License-Identifier: Apache-2.0
"""A training task from end to end: load, tokenise, evaluate, train, evaluate again, save."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from finetree_worker import base_checks, data, evaluate, methods, models, randomness, telemetry
from finetree_worker.data import Dataset
from finetree_worker.errors import DataError
from finetree_worker.events import (
    Alert,
    ArtifactReady,
    AttemptStarted,
    Control,
    DatasetReport,
    EvalMetrics,
    Level,
    Phase,
    PhaseProgress,
    Reporter,
    Sample,
)
from finetree_worker.files import atomic_folder, hashes, size
from finetree_worker.gradients import AUTOCAST, Subject
from finetree_worker.loop import Loop, Trained
from finetree_worker.methods import qlora
from finetree_worker.plan import BaseModel, EvaluationPlan, FullMethod, Metric, Precision, QloraMethod, TrainPlan
from finetree_worker.prepare import base_facts
from finetree_worker.steering import STOPS, Steering

EVALUATION_TOKENS = 4096
"""Tokens of one forward pass of an evaluation: without gradients this needs less memory than a training step."""
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
        self.before: list[str] | None = None

    def run(self) -> Outcome:
        torch.set_num_threads(self.plan.threads)
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        with self.phases.phase(Phase.LOAD_MODEL):
            self.steering.stop_here()
            tokenizer = models.load_tokenizer(self.plan.base.folder)
            model = load(self.plan, self.device)
            length = self.plan.optimization.sequence_length
            base_checks.check_fit(self.plan.base.folder, model.config, tokenizer, length)
            base = base_facts(self.plan.base)
            if telemetry.emulates_bfloat16(self.device) and self.plan.optimization.precision in _BFLOAT16:
                self.reporter.emit(_emulated())
        with self.phases.phase(Phase.TOKENIZE) as tell:
            dataset = data.load(self.plan, tokenizer, _both(tell, self.steering.stop_here))
            self.reporter.emit(dataset.report)
            if dataset.report.leaked_rows:
                self.reporter.emit(_leak(dataset.report))
            _require_questions(self.plan.evaluation, dataset)
        adapted, subject = adapt(self.plan, model, self.device)
        loop = Loop(self.plan, subject, dataset.train, self.reporter, self.steering)
        restored = loop.restore()
        before = self._evaluate_before(subject, tokenizer, dataset, restored)
        self._announce(loop, model, restored)
        with self.phases.phase(Phase.TRAIN) as tell:
            trained = loop.run(lambda step: self._evaluate_between(subject, tokenizer, dataset, step))
        after = self._evaluate_after(loop, tokenizer, dataset)
        self._save(adapted, tokenizer, base, loop)
        return Outcome(self.plan.artifact, trained, before, after, self.phases.seconds)

    def _announce(self, loop: Loop, model: PreTrainedModel, restored: int) -> None:
        self.reporter.emit(
            AttemptStarted(
                restored_step=restored,
                total_steps=loop.total,
                trainable_parameters=sum(p.numel() for p in loop.subject.trainable.values()),
                total_parameters=sum(models.parameter_count(p) for p in model.parameters()),
                threads=self.plan.threads,
                device=loop.environment.device,
                precision=self.plan.optimization.precision.value,
            )
        )

    def _evaluate_before(
        self, subject: Subject, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, restored: int
    ) -> float | None:
        # A resumed run's model is trained already: its earlier attempt has reported the base.
        if not self.plan.evaluation.before_training or restored or not dataset.held_out:
            return None
        with self.phases.phase(Phase.EVALUATE_BEFORE) as tell:
            look = _both(tell, self.steering.stop_here)
            metrics, self.before = self._measure(subject.model, tokenizer, dataset, 0, look)
        return metrics.exact_match

    def _evaluate_after(self, loop: Loop, tokenizer: PreTrainedTokenizerBase, dataset: Dataset) -> float | None:
        if not self.plan.evaluation.metrics or not dataset.held_out:
            return None

        def stop() -> None:
            if self.steering.signal() in STOPS:
                loop.save_checkpoint(must=True)
                self.steering.stop_here()

        with self.phases.phase(Phase.EVALUATE_AFTER) as tell:
            step = loop.position.step
            metrics, after = self._measure(loop.subject.model, tokenizer, dataset, step, _both(tell, stop))
            self._show_samples(dataset, after)
        return metrics.exact_match

    def _measure(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset,
        step: int,
        on_fraction: Callable[[float], None],
        *,
        answers: bool = True,
    ) -> tuple[EvalMetrics, list[str] | None]:
        """All metrics of the plan, or what needs no `answers`; the answers too, where questions were asked."""
        started, plan = time.perf_counter(), self.plan.evaluation
        score = evaluate.score(model, dataset.held_out, EVALUATION_TOKENS, lambda f: on_fraction(f * 0.2))
        texts, correct, questions = None, 0, dataset.questions if answers else []
        if questions:
            texts = evaluate.answers(
                model, tokenizer, questions, plan.max_new_tokens, lambda f: on_fraction(0.2 + f * 0.8)
            )
            correct = sum(evaluate.matches(t, q.messages[-1].content) for t, q in zip(texts, questions, strict=True))
        asked = len(texts or ())
        metrics = EvalMetrics(
            step=step,
            loss=_finite(score.loss),
            perplexity=evaluate.perplexity(score.loss),
            exact_match=correct / asked if asked else None,
            questions=asked,
            correct=correct,
            rows=len(dataset.held_out),
            seconds=time.perf_counter() - started,
            token_accuracy=score.accuracy,
            non_finite=_finite(score.loss) is None,
        )
        self.reporter.emit(metrics)
        return metrics, texts

    def _evaluate_between(
        self, subject: Subject, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, step: int
    ) -> float | None:
        """Evaluate in the middle of the training: what tells the best evaluation. Answers only where they tell it."""
        if not dataset.held_out:
            return None

        def look(_: float) -> None:
            self.steering.signal()

        by = self.plan.evaluation.best_by
        answers = by is Metric.EXACT_MATCH
        metrics, _ = self._measure(subject.model, tokenizer, dataset, step, look, answers=answers)
        if metrics.loss is None:
            return None
        return {
            Metric.LOSS: metrics.loss,
            Metric.EXACT_MATCH: metrics.exact_match,
            Metric.TOKEN_ACCURACY: metrics.token_accuracy,
        }[by]

    def _show_samples(self, dataset: Dataset, after: list[str] | None) -> None:
        count = min(self.plan.evaluation.samples, len(after or ()))
        for i in range(count):
            # Spread over the questions, which often come sorted by kind.
            at = i * len(dataset.questions) // count
            asked = dataset.questions[at].messages
            before = self.before[at] if self.before is not None else None
            self.reporter.emit(Sample(asked[-2].content, asked[-1].content, before, (after or [])[at]))

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
    return models.load_model(plan.base.folder, dtype, device, quantization, plan.optimization.attention.value)


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


def _require_questions(plan: EvaluationPlan, dataset: Dataset) -> None:
    """What is to tell the best evaluation can be measured. Raises DataError NO_QUESTIONS."""
    if plan.best_by is Metric.EXACT_MATCH and plan.every_steps and not dataset.questions:
        raise DataError(
            "NO_QUESTIONS",
            "The best evaluation is to be told by exact match, and no held-out row ends in an answer.",
            field="evaluation.best_by",
            remedy="Hold out chat or prompt and completion rows, or tell the best one by loss.",
        )


def _emulated() -> Alert:
    text = "This GPU has no arithmetic in bfloat16 and imitates it slowly: PRECISION_FP16_MIXED is faster here."
    return Alert(Level.WARNING, "BFLOAT16_EMULATED", text)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _both(tell: Callable[[float], None], stop: Callable[[], None]) -> Callable[[float], None]:
    def look(fraction: float) -> None:
        stop()
        tell(fraction)

    return look
