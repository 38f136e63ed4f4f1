# SPDX-License-Identifier: Apache-2.0
"""The evaluations of one run, before, between and after its steps: what is measured, and what is told of it."""

import math
import time
from collections.abc import Callable, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetree_worker.data.dataset import Dataset
from finetree_worker.errors import DataError
from finetree_worker.events.types import EvalMetrics, Reporter, Sample
from finetree_worker.plan import EvaluationPlan, Metric
from finetree_worker.tokenize.rows import Row
from finetree_worker.training import evaluate

EVALUATION_TOKENS = 4096
"""Tokens of one forward pass of an evaluation: without gradients this needs less memory than a training step."""
_SCORE_SHARE = 0.2  # of an evaluation's time goes into loss and accuracy, the rest into answers


class Evaluations:
    """Measures the model that a run trains on its held-out rows, and reports each measurement.

    `on_fraction` hears 0..1 and may raise to stop. Raises DataError NO_QUESTIONS where what is to tell the best
    evaluation cannot be measured; the measurements raise MemoryExhaustedError when not even one row fits.
    """

    def __init__(
        self, plan: EvaluationPlan, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, reporter: Reporter
    ) -> None:
        _require_questions(plan, dataset)
        self._plan, self._dataset, self._tokenizer, self._reporter = plan, dataset, tokenizer, reporter
        self._answers_before: list[str] | None = None

    def before(self, model: PreTrainedModel, on_fraction: Callable[[float], None]) -> float | None:
        """Measure the model as it came; its exact match, where questions are asked."""
        metrics, self._answers_before = self._measure(model, 0, on_fraction, self._dataset.questions)
        return metrics.exact_match

    def between(self, model: PreTrainedModel, step: int, on_fraction: Callable[[float], None]) -> float | None:
        """Measure in the middle of the training: what tells the best evaluation. Answers only where they tell it."""
        if not self._dataset.held_out:
            return None
        by = self._plan.best_by
        questions = self._dataset.questions if by is Metric.EXACT_MATCH else ()
        metrics, _ = self._measure(model, step, on_fraction, questions)
        if metrics.loss is None:
            return None
        return {
            Metric.LOSS: metrics.loss,
            Metric.EXACT_MATCH: metrics.exact_match,
            Metric.TOKEN_ACCURACY: metrics.token_accuracy,
        }[by]

    def after(self, model: PreTrainedModel, step: int, on_fraction: Callable[[float], None]) -> float | None:
        """Measure what training made, and show some answers; its exact match, where questions are asked."""
        metrics, answers = self._measure(model, step, on_fraction, self._dataset.questions)
        self._show_samples(answers or [])
        return metrics.exact_match

    def _measure(
        self, model: PreTrainedModel, step: int, on_fraction: Callable[[float], None], questions: Sequence[Row]
    ) -> tuple[EvalMetrics, list[str] | None]:
        """Loss and accuracy of the held-out rows, and the answers to `questions`; None where there is none."""
        started, rows = time.perf_counter(), self._dataset.held_out
        score = evaluate.score(model, rows, EVALUATION_TOKENS, lambda f: on_fraction(f * _SCORE_SHARE))
        answers = self._ask(model, questions, on_fraction) if questions else None
        correct = _correct(answers or [], questions)
        metrics = EvalMetrics(
            step=step,
            loss=_finite(score.loss),
            perplexity=evaluate.perplexity(score.loss),
            exact_match=correct / len(answers) if answers else None,
            questions=len(answers or ()),
            correct=correct,
            rows=len(rows),
            seconds=time.perf_counter() - started,
            token_accuracy=score.accuracy,
            non_finite=_finite(score.loss) is None,
        )
        self._reporter.emit(metrics)
        return metrics, answers

    def _ask(self, model: PreTrainedModel, questions: Sequence[Row], on_fraction: Callable[[float], None]) -> list[str]:
        def look(fraction: float) -> None:
            on_fraction(_SCORE_SHARE + fraction * (1 - _SCORE_SHARE))

        return evaluate.answers(model, self._tokenizer, questions, self._plan.max_new_tokens, look)

    def _show_samples(self, answers: list[str]) -> None:
        count, questions = min(self._plan.samples, len(answers)), self._dataset.questions
        for i in range(count):
            # Spread over the questions, which often come sorted by kind.
            at = i * len(questions) // count
            asked = questions[at].messages
            before = self._answers_before[at] if self._answers_before is not None else None
            self._reporter.emit(Sample(asked[-2].content, asked[-1].content, before, answers[at]))


def _require_questions(plan: EvaluationPlan, dataset: Dataset) -> None:
    if plan.best_by is Metric.EXACT_MATCH and plan.every_steps and not dataset.questions:
        raise DataError(
            "NO_QUESTIONS",
            "The best evaluation is to be told by exact match, and no held-out row ends in an answer.",
            field="evaluation.best_by",
            remedy="Hold out chat or prompt and completion rows, or tell the best one by loss.",
        )


def _correct(answers: Sequence[str], questions: Sequence[Row]) -> int:
    """How many questions were answered exactly."""
    return sum(evaluate.matches(text, row.messages[-1].content) for text, row in zip(answers, questions, strict=True))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
