# SPDX-License-Identifier: Apache-2.0
"""The evaluations of a run, before, during and after training, and their reports."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

from finetree_api.trainer.v1 import event_pb2
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetree_worker.data.dataset import Dataset
from finetree_worker.errors import DataError
from finetree_worker.events.envelope import Reporter
from finetree_worker.events.eta import Eta
from finetree_worker.plan import EvaluationPlan, Metric
from finetree_worker.ranks.alone import Alone
from finetree_worker.tokenize.rows import Row
from finetree_worker.training import evaluate

EVALUATION_TOKENS = 4096
"""Tokens of one forward pass of an evaluation: without gradients this needs less memory than a training step."""
_SCORE_SHARE = 0.2  # of an evaluation's time goes into loss and accuracy, the rest into answers


class Evaluations:
    """Evaluates a run's model on its held-out rows, and reports each evaluation.

    `on_fraction` is called with 0..1 and may raise to stop. Raises DataError NO_QUESTIONS where `best_by` cannot be
    measured; evaluations raise MemoryExhaustedError when not even one row fits.
    """

    def __init__(
        self,
        plan: EvaluationPlan,
        dataset: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        reporter: Reporter,
        eta: Eta,
        ranks: Alone | None = None,
    ) -> None:
        _require_questions(plan, dataset)
        self._plan, self._dataset, self._tokenizer = plan, dataset, tokenizer
        self._reporter, self._eta, self._ranks = reporter, eta, ranks or Alone()
        self._answers_before: list[str] | None = None

    @cached_property
    def _rows_sha256(self) -> str:
        """Digest of the held-out rows as the model sees them, whatever their order: 64 hex digits."""
        rows = (
            example.tokens.numpy().tobytes() + example.is_target.numpy().tobytes() for example in self._dataset.held_out
        )
        return _digest(rows)

    def before(self, model: PreTrainedModel, on_fraction: Callable[[float], None]) -> None:
        """Evaluate the base model."""
        _, self._answers_before = self._measure(model, 0, on_fraction=on_fraction, questions=self._dataset.questions)

    def between(self, model: PreTrainedModel, step: int, on_fraction: Callable[[float], None]) -> float | None:
        """Evaluate during training; return the value of `best_by`, or None where it is not finite.

        Questions are answered only where `best_by` is exact match.
        """
        if not self._dataset.held_out:
            return None
        by = self._plan.best_by
        questions = self._dataset.questions if by is Metric.EXACT_MATCH else ()
        metrics, _ = self._measure(model, step, on_fraction=on_fraction, questions=questions)
        if not metrics.HasField("loss") or not metrics.HasField(by.value):
            return None
        value: float = getattr(metrics, by.value)
        return value

    def after(self, model: PreTrainedModel, step: int, on_fraction: Callable[[float], None]) -> None:
        """Evaluate the trained model, and report some answers as samples."""
        _, answers = self._measure(model, step, on_fraction=on_fraction, questions=self._dataset.questions)
        self._report_samples(answers or [])

    def _measure(
        self, model: PreTrainedModel, step: int, *, on_fraction: Callable[[float], None], questions: Sequence[Row]
    ) -> tuple[event_pb2.EvalMetrics, list[str] | None]:
        """Measure loss and accuracy of the held-out rows; answer `questions`, None where there are none."""
        started, rows = time.perf_counter(), self._dataset.held_out
        score = evaluate.score(
            model,
            rows,
            max_tokens=EVALUATION_TOKENS,
            on_fraction=lambda f: on_fraction(f * _SCORE_SHARE),
            ranks=self._ranks,
        )
        answers = self._ask(model, questions, on_fraction) if questions else None
        loss, seconds = _finite(score.loss), time.perf_counter() - started
        metrics = event_pb2.EvalMetrics(
            step=step,
            loss=loss,
            perplexity=evaluate.perplexity(score.loss),
            exact_match=_correct(answers, questions) / len(answers) if answers else None,
            examples=len(answers or rows),
            seconds=seconds,
            token_accuracy=score.accuracy,
            non_finite=loss is None,
            loss_standard_error=None if loss is None else score.standard_error,
            token_accuracy_standard_error=score.accuracy_standard_error,
            rows=score.rows,
            rows_sha256=self._rows_sha256,
            prompts_sha256=_digest_of_questions(questions) if answers else "",
        )
        self._eta.evaluation(step, seconds, questions=len(answers or ()))
        self._reporter.emit(metrics)
        return metrics, answers

    def _ask(self, model: PreTrainedModel, questions: Sequence[Row], on_fraction: Callable[[float], None]) -> list[str]:
        return evaluate.answers(
            model,
            self._tokenizer,
            questions,
            max_new_tokens=self._plan.max_new_tokens,
            on_fraction=lambda f: on_fraction(_SCORE_SHARE + f * (1 - _SCORE_SHARE)),
            ranks=self._ranks,
        )

    def _report_samples(self, answers: list[str]) -> None:
        count, questions = min(self._plan.samples, len(answers)), self._dataset.questions
        for i in range(count):
            # Spread over the questions, which often come sorted by kind.
            at = i * len(questions) // count
            asked = questions[at].messages
            before = self._answers_before[at] if self._answers_before is not None else ""
            self._reporter.emit(
                event_pb2.Sample(
                    prompt=asked[-2].content,
                    expected=asked[-1].content,
                    before=before,
                    after=answers[at],
                    exact_match=evaluate.matches(answers[at], asked[-1].content),
                )
            )


def _require_questions(plan: EvaluationPlan, dataset: Dataset) -> None:
    if plan.best_by is Metric.EXACT_MATCH and plan.every_steps and not dataset.questions:
        raise DataError(
            "NO_QUESTIONS",
            "evaluation.best_by is exact match, and no held-out row ends in an answer.",
            field="evaluation.best_by",
            remedy="Hold out chat or prompt and completion rows, or choose another metric.",
        )


def _correct(answers: Sequence[str], questions: Sequence[Row]) -> int:
    """Return the number of questions that were answered exactly."""
    return sum(evaluate.matches(text, row.messages[-1].content) for text, row in zip(answers, questions, strict=True))


def _digest_of_questions(questions: Sequence[Row]) -> str:
    texts = ([message.content for message in row.messages] for row in questions)
    return _digest(json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass") for text in texts)


def _digest(parts: Iterable[bytes]) -> str:
    """SHA-256 over the digests of parts in their own order: parts that are exchanged change nothing."""
    return hashlib.sha256(b"".join(sorted(hashlib.sha256(part).digest() for part in parts))).hexdigest()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
