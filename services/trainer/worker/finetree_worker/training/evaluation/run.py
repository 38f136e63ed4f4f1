# SPDX-License-Identifier: Apache-2.0
"""An evaluation task: the base, the base with examples in the prompt, and each subject, measured on the same rows.

One model at a time is in memory. The base is loaded once, and each adapter measured on it as if it had been loaded for
it alone: the base and a subject that changes nothing give the same numbers to the last bit. Whole models are loaded by
themselves.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from finetree_api.trainer.v1 import artifact_pb2, evaluation_pb2, event_pb2, job_pb2
from finetree_api.types.v1 import check_pb2
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetree_worker.atomic_files import atomic_folder
from finetree_worker.control import Control, Steering
from finetree_worker.device_memory import free_cache
from finetree_worker.errors import DataError
from finetree_worker.events.envelope import Reporter
from finetree_worker.methods import weights as trained
from finetree_worker.models import checks
from finetree_worker.models.bases import Bases
from finetree_worker.models.gguf import base_facts
from finetree_worker.models.load import load_tokenizer
from finetree_worker.plan import UNLIMITED
from finetree_worker.tokenize.chat_template import ChatTemplate
from finetree_worker.training.evaluation import answers, few_shot, report
from finetree_worker.training.evaluation.few_shot import Examples
from finetree_worker.training.evaluation.measure import MeasuredRows, measure
from finetree_worker.training.evaluation.metrics import (
    CHOICE_ACCURACY,
    F1,
    GENERAL_LOSS,
    LOSS,
    OF_ANSWERS,
    OF_CHOICES,
    MetricKind,
    measurable,
)
from finetree_worker.training.evaluation.plan import EvaluationPlan, SubjectPlan
from finetree_worker.training.evaluation.progress import Progress, Stage
from finetree_worker.training.evaluation.report import Measured, Settings
from finetree_worker.training.evaluation.results import Kept, Results, file_hash
from finetree_worker.training.evaluation.rows import HeldOut, Room, general, load_held_out, prompted, with_questions
from finetree_worker.training.preflight import separation
from finetree_worker.training.run import execution_plan

EVENT_BYTES = 512 * 1024
"""Largest report that travels as an event with its samples; the artifact's has them in any case."""
BASE = "base"
"""What a report calls the base."""


def evaluate(plan: EvaluationPlan, reporter: Reporter, control: Control) -> None:
    """Evaluate, report, and write the artifact.

    Reports from its calling thread. Raises the errors of `finetree_worker.errors`, and Cancelled when `control` asks
    for a stop; what was measured of whole models is kept then.
    """
    _Evaluation(plan, reporter, control).run()


@dataclass(frozen=True, slots=True)
class _Entry:
    """A model that is to be measured: `subject` None is the base."""

    label: str
    kind: evaluation_pb2.EvaluatedKind.ValueType
    asked: MeasuredRows
    subject: SubjectPlan | None = None
    examples: Examples | None = None
    """Those in the prompt; None where there are none."""


class _Evaluation:
    def __init__(self, plan: EvaluationPlan, reporter: Reporter, control: Control) -> None:
        self.plan, self.reporter, self.steering = plan, reporter, Steering(control)
        self.device = torch.device(plan.device)
        self.loaded: PreTrainedModel | None = None
        # Taken back between two subjects only; the base alone, and with examples in the prompt, is measured as loaded.
        self.bases = Bases(keep=any(not subject.weights.whole_model for subject in plan.subjects))
        self.cautions: list[check_pb2.Remark] = []

    def run(self) -> None:
        torch.set_num_threads(self.plan.threads)
        with self._phase(job_pb2.JOB_PHASE_LOAD_MODEL):
            self.steering.stop_here()
            tokenizer = load_tokenizer(self.plan.base.folder)
            self.loaded = self._load(None)
            separation.check(self.loaded)
        with self._phase(job_pb2.JOB_PHASE_TOKENIZE) as progress:
            limit = self._limit(tokenizer)
            held_out = self._held_out(tokenizer, limit, progress)
            metrics = self._metrics(held_out)
            entries, examples = self._entries(held_out, tokenizer, limit)
            texts = general(tokenizer, limit) if GENERAL_LOSS in metrics else None
        self._warn_of_leaks()
        measured = self._measure_all(entries, tokenizer=tokenizer, texts=texts)
        with self._phase(job_pb2.JOB_PHASE_SAVE):
            self._finish(measured, held_out, examples=examples, metrics=metrics)

    # ----------------------------------------------------------------------------------------------- loading

    @contextmanager
    def _phase(self, phase: job_pb2.JobPhase.ValueType) -> Iterator[Callable[[float], None]]:
        """Report a block as one phase; yields a function that reports the fraction done, and may raise to stop."""
        reported = 0.0

        def progress(fraction: float) -> None:
            nonlocal reported
            self.steering.stop_here()
            if fraction - reported >= 0.02 and fraction < 1:
                reported = fraction
                self.reporter.emit(event_pb2.PhaseProgress(phase=phase, fraction=fraction))

        self.reporter.emit(event_pb2.PhaseProgress(phase=phase, fraction=0.0))
        yield progress
        self.reporter.emit(event_pb2.PhaseProgress(phase=phase, fraction=1.0))

    def _load(self, subject: SubjectPlan | None) -> PreTrainedModel:
        """Load the base with a subject's weights on it, and return the model to run. Raises ModelError."""
        plan = self.plan
        folder = plan.base.folder if subject is None else subject.weights.model_folder(plan.base.folder)
        own = subject is not None and subject.weights.whole_model
        model = self.bases.load(
            folder, plan.dtype, device=self.device, quantization=plan.quantization, unchanged=not own
        )
        if subject is None:
            return model
        loaded = trained.load(model, subject.weights)
        if isinstance(loaded, PeftModel) and not loaded.active_peft_config.is_prompt_learning:
            # The wrapper adds nothing but names: the layers are in the model inside.
            inner: PreTrainedModel = loaded.get_base_model()  # type: ignore[assignment]  # peft types it as a module
            return inner
        return loaded  # type: ignore[return-value]  # a prefix is run through peft's model

    def _limit(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Return the longest sequence in tokens: the task's, at most the model's. Raises ModelError."""
        assert self.loaded is not None  # noqa: S101 - the base was loaded
        config = self.loaded.config
        positions = getattr(config.get_text_config(), "max_position_embeddings", None) or UNLIMITED
        limit = min(self.plan.data.sequence_length, positions)
        checks.check_fit(self.plan.base.folder, config, tokenizer, sequence_length=limit)
        return limit

    # -------------------------------------------------------------------------------------------------- rows

    def _held_out(self, tokenizer: PreTrainedTokenizerBase, limit: int, progress: Callable[[float], None]) -> HeldOut:
        asked = set(self.plan.metrics) | {self.plan.decide_by}
        # Whether answers are generated is decided by the rows; room for them is kept unless nobody asks for any.
        room = Room(limit, self.plan.max_new_tokens if not self.plan.metrics or asked & set(OF_ANSWERS) else 0)
        data = replace(self.plan.data, sequence_length=limit)
        held_out, found = load_held_out(
            data, tokenizer, room=room, most=self.plan.max_rows, on_progress=lambda fraction, _: progress(fraction)
        )
        self.reporter.emit(found)
        if held_out.too_long:
            text = (
                f"{held_out.too_long} rows were left out: question and answer exceed the longest sequence of {limit} "
                "tokens."
            )
            self._caution("ROWS_TOO_LONG", text)
        return held_out

    def _metrics(self, held_out: HeldOut) -> tuple[MetricKind, ...]:
        """Return what is measured, in the order of the enum. Raises DataError NO_QUESTIONS, NO_CHOICES."""
        has_answers = any(right.text for right in held_out.expected)
        asked = {*self.plan.metrics, self.plan.decide_by} - {0}
        if asked & set(OF_ANSWERS) and not has_answers:
            raise DataError(
                "NO_QUESTIONS",
                "Exact match and F1 are asked for, and no held-out row ends in an answer.",
                field="metrics",
                remedy="Hold out chat or prompt and completion rows, or choose other metrics.",
            )
        if asked & set(OF_CHOICES) and not held_out.has_choices:
            raise DataError(
                "NO_CHOICES",
                "Metrics of choices are asked for, and the held-out rows have none.",
                field="metrics",
                remedy="Name the column of the choices in reading.columns.choices, or choose other metrics.",
            )
        if self.plan.metrics:
            return tuple(sorted(asked))
        return tuple(sorted({*measurable(answers=has_answers, choices=held_out.has_choices), GENERAL_LOSS, *asked}))

    def _decide_by(self, metrics: Sequence[MetricKind]) -> MetricKind:
        usual = next(metric for metric in (CHOICE_ACCURACY, F1, LOSS) if metric in metrics or metric == LOSS)
        on_rows = [metric for metric in metrics if metric != GENERAL_LOSS]
        return self.plan.decide_by or (usual if usual in metrics else on_rows[0])

    def _entries(
        self, held_out: HeldOut, tokenizer: PreTrainedTokenizerBase, limit: int
    ) -> tuple[list[_Entry], Examples | None]:
        """Return the models that are measured, in the order of the report, and the examples of the prompt."""
        metrics = self._metrics(held_out)
        generates = bool(set(metrics) & set(OF_ANSWERS))
        asked = with_questions(held_out.asked) if generates else held_out.asked
        held_out = replace(held_out, asked=asked)
        entries = [_Entry(BASE, evaluation_pb2.EVALUATED_KIND_BASE, asked)]
        examples = self._examples(held_out)
        if examples is not None:
            room = Room(limit, self.plan.max_new_tokens if generates else 0)
            longer, shorter = prompted(held_out, examples, tokenizer=tokenizer, room=room)
            count = len(examples.rows)
            if shorter:
                text = f"{shorter} rows are too long for {count} examples before them: they have fewer."
                self._caution("EXAMPLES_LEFT_OUT", text)
            label = f"base with {count} example{'s' if count > 1 else ''}"
            entries.append(_Entry(label, evaluation_pb2.EVALUATED_KIND_PROMPTED_BASE, longer, examples=examples))
        kind = evaluation_pb2.EVALUATED_KIND_SUBJECT
        return [*entries, *(_Entry(one.label, kind, asked, one) for one in self.plan.subjects)], examples

    def _examples(self, held_out: HeldOut) -> Examples | None:
        """Return the examples of the prompt; None where none are asked for, or unasked ones cannot be had."""
        plan = self.plan.few_shot
        if plan is None:
            return None
        if not any(right.text for right in held_out.expected):
            if plan.asked:
                raise DataError(
                    "NO_QUESTIONS",
                    "Examples in the prompt are asked for, and no held-out row ends in an answer.",
                    field="few_shot",
                    remedy="Hold out chat or prompt and completion rows, or set few_shot.examples to 0.",
                )
            return None
        without = few_shot.keys_of(held_out.asked.rows)
        try:
            return few_shot.choose(plan.source, plan.examples, without=without, seed=self.plan.seed)
        except DataError as error:
            if plan.asked:
                raise
            self._caution("NO_EXAMPLES", f"The base was not asked with examples in the prompt: {error.message}")
            return None

    def _warn_of_leaks(self) -> None:
        for subject in self.plan.subjects:
            if subject.leaked:
                text = f"{subject.label} was trained on the very file that is evaluated on: what it scores is memory."
                self._caution("HELD_OUT_ROWS_LEAKED", text)

    def _caution(self, code: str, text: str) -> None:
        self.cautions.append(check_pb2.Remark(code=code, message=text))
        self.reporter.emit(event_pb2.Alert(code=code, message=text))

    # --------------------------------------------------------------------------------------------- measuring

    @cached_property
    def _kept(self) -> Results:
        plan = self.plan
        sources = [plan.data.train, *([plan.few_shot.source.path] if plan.few_shot is not None else [])]
        hashes = [file_hash(path) for path in sources]
        versions = [f"{name} {version}" for name, version in sorted(execution_plan().items())]
        return Results(plan.results, plan.digest, *hashes, *(one.weights.sha256 for one in plan.subjects), *versions)

    def _measure_all(
        self,
        entries: Sequence[_Entry],
        *,
        tokenizer: PreTrainedTokenizerBase,
        texts: MeasuredRows | None,
    ) -> list[Measured]:
        kept = [self._kept.load(number) for number in range(len(entries))]
        stages = [
            stage
            for entry, known in zip(entries, kept, strict=True)
            if known is None
            for stage in _stages(entry, texts, self.plan.max_new_tokens)
        ]
        progress = Progress(stages, self.reporter, self.steering.stop_here)
        found = []
        for number, (entry, known) in enumerate(zip(entries, kept, strict=True)):
            began = time.perf_counter()
            if entry.subject is not None:
                # One model at a time: what the one before has added goes first, or all of it.
                self.loaded = None
                self.bases.settle()
                _free(self.device)
            scores, seconds = known, 0.0
            if scores is None:
                if self.loaded is None:
                    self.loaded = self._load(entry.subject)
                    progress.stage_done()
                scores = self._measure(self.loaded, entry, tokenizer=tokenizer, texts=texts, progress=progress)
                self._kept.save(number, scores)
                seconds = time.perf_counter() - began
            found.append(_measured(entry, scores, seconds))
        self.loaded = None
        self.bases.drop()
        return found

    def _measure(
        self,
        model: PreTrainedModel,
        entry: _Entry,
        *,
        tokenizer: PreTrainedTokenizerBase,
        texts: MeasuredRows | None,
        progress: Progress,
    ) -> Kept:
        on_answers: Callable[[float], None] = progress.within
        ended = False

        def answering(fraction: float) -> None:
            nonlocal ended
            if not ended:
                ended = True
                progress.stage_done()
            on_answers(fraction)

        scores = measure(
            model,
            tokenizer,
            entry.asked,
            max_new_tokens=self.plan.max_new_tokens,
            on_loss=progress.within,
            on_answers=answering,
        )
        progress.stage_done()
        if entry.examples is not None and not ChatTemplate(tokenizer).exists:
            own = entry.examples.own_answer
            scores = [score if score.answer is None else replace(score, answer=own(score.answer)) for score in scores]
        if texts is None or entry.examples is not None:
            return scores, []
        known = measure(model, tokenizer, texts, max_new_tokens=1, on_loss=progress.within, on_answers=progress.within)
        progress.stage_done()
        return scores, known

    # --------------------------------------------------------------------------------------------- reporting

    def _finish(
        self,
        models: Sequence[Measured],
        held_out: HeldOut,
        *,
        examples: Examples | None,
        metrics: Sequence[MetricKind],
    ) -> None:
        plan, rows, expected = self.plan, held_out.asked.rows, held_out.expected
        settings = Settings(
            metrics=metrics,
            decide_by=self._decide_by(metrics),
            seed=plan.seed,
            resamples=plan.resamples,
            stop_here=self.steering.stop_here,
        )
        found = report.build(models, expected, settings)
        base = base_facts(plan.base)
        found.base.CopyFrom(base.message())
        found.rows_in_file, found.dataset_sha256 = held_out.in_file, file_hash(plan.data.train)
        if examples is not None:
            found.example_rows.extend(row.number for row in examples.rows)
        found.cautions.extend(self.cautions)
        found.samples.extend(answers.samples(rows, expected, models, plan.samples))
        self.steering.stop_here()
        facts = {"format": 1, "base": base.hub_id, "fingerprint": base.fingerprint}
        with atomic_folder(plan.artifact, facts) as draft:
            answers.write(draft, found, rows=rows, expected=expected, models=models)
        artifact = artifact_pb2.Artifact(
            name=f"{plan.job}/artifacts/{plan.artifact.name}",
            kind=artifact_pb2.ARTIFACT_KIND_EVALUATION,
            base=base.message(),
        )
        self.reporter.emit(event_pb2.ArtifactReady(artifact=artifact))
        for caution in found.cautions:
            if caution not in self.cautions:
                self.reporter.emit(event_pb2.Alert(code=caution.code, message=caution.message))
        while found.ByteSize() > EVENT_BYTES and found.samples:
            del found.samples[-1]
        self.reporter.emit(found, message=found.headline)
        self._kept.clear(range(len(models)))


def _stages(entry: _Entry, texts: MeasuredRows | None, max_new_tokens: int) -> Iterator[Stage]:
    if entry.subject is not None:
        yield Stage(entry.label, "load", 1)
    yield Stage(entry.label, "losses", entry.asked.loss_tokens)
    if entry.asked.questions:
        yield Stage(entry.label, "answers", len(entry.asked.questions) * max_new_tokens)
    if texts is not None and entry.examples is None:
        yield Stage(entry.label, "general", texts.loss_tokens)


def _measured(entry: _Entry, known: Kept, seconds: float) -> Measured:
    scores, texts = known
    return Measured(
        label=entry.label,
        kind=entry.kind,
        scores=scores,
        general=texts,
        weights=_public_name(entry.subject),
        method=entry.subject.method if entry.subject is not None else "",
        examples=len(entry.examples.rows) if entry.examples is not None else 0,
        seconds=seconds,
    )


def _public_name(subject: SubjectPlan | None) -> str:
    return "" if subject is None else subject.weights.source or subject.weights.folder.name


def _free(device: torch.device) -> None:
    gc.collect()
    free_cache(device)
