# SPDX-License-Identifier: Apache-2.0
"""What a run still has to do besides its steps: evaluations and checkpoints to come, and the end."""

from dataclasses import dataclass, field

from finetree_api.types.v1 import run_spec_pb2, training_pb2

from finetree_worker.events.types import CheckpointSaved, DatasetReport, EvalMetrics

FORWARD_SHARE = 1 / 3
"""Of a training step's time, the forward pass: what an evaluation that was not timed yet costs per token."""
ANSWER_SPREAD = 1.5
"""Longest answer of a batch, in units of the mean answer: a batch of questions ends with its last."""
ARTIFACT_SHARE = 1 / 3
"""Of a checkpoint, the weights: a checkpoint also holds two moments of each."""


@dataclass(slots=True)
class Ahead:
    """Times what is repeated, and counts what is to come. Seconds."""

    spec: run_spec_pb2.RunSpec
    _report: DatasetReport | None = None
    _loss_seconds: float | None = None
    _before: EvalMetrics | None = None
    _between: EvalMetrics | None = None
    _checkpoint_seconds: float | None = field(default=None)

    def rows(self, report: DatasetReport) -> None:
        """Note what rows there are."""
        self._report = report

    def evaluation(self, event: EvalMetrics) -> None:
        """Note an evaluation: of the loss alone, or of answers too, before training (step 0) or in the middle of it."""
        if event.questions == 0:
            self._loss_seconds = event.seconds
        elif event.step == 0:
            self._before = event
        else:
            self._between = event

    def checkpoint(self, event: CheckpointSaved) -> None:
        """Note a checkpoint."""
        self._checkpoint_seconds = event.seconds

    def seconds(self, step: int, total: int, seconds_per_token: float) -> float:
        """What follows step `step` of `total` besides steps; training takes so many seconds per token."""
        loss = self._loss_seconds
        if loss is None:
            loss = self._held_out_tokens() * seconds_per_token * FORWARD_SHARE
        evaluations = _times(self.spec.evaluation.every_steps, step, total) if self._held_out_rows() else 0
        checkpoint = self._checkpoint_seconds or 0.0
        saves = _times(self.spec.checkpoints.every_steps, step, total) + ARTIFACT_SHARE
        after = self._after(loss)
        each = loss if self.spec.evaluation.best_by != training_pb2.METRIC_EXACT_MATCH else after
        return evaluations * each + saves * checkpoint + after

    def _after(self, loss: float) -> float:
        """The evaluation after training: as one in its middle, or the one before it with answers that end."""
        if not (self.spec.evaluation.metrics and self._held_out_rows()):
            return 0.0
        if self._between is not None:
            return self._between.seconds
        if self._before is None or self._report is None:
            return loss
        answer = ANSWER_SPREAD * self._report.target_tokens / max(1, self._report.train_rows) + 1
        limit = self.spec.evaluation.max_new_tokens or answer
        return loss + max(0.0, self._before.seconds - loss) * min(1.0, answer / limit)

    def _held_out_rows(self) -> int:
        return self._report.eval_rows if self._report is not None else 0

    def _held_out_tokens(self) -> float:
        if self._report is None or not self._report.train_rows:
            return 0.0
        return self._report.eval_rows * self._report.total_tokens / self._report.train_rows


def _times(every: int, step: int, total: int) -> int:
    """How often something that is done each `every` steps, but not at the last, is done after `step`."""
    return max(0, (total - 1) // every - step // every) if every > 0 else 0
