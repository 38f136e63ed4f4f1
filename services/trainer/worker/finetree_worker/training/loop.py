# SPDX-License-Identifier: Apache-2.0
"""The training loop: steps, early stopping, checkpoints."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from finetree_api.trainer.v1 import event_pb2
from finetree_data.fail_points import fail_point
from torch.nn.utils import clip_grad_norm_

from finetree_worker.atomic_files import manifest_hash, size
from finetree_worker.control import STOPS, Signal, Steering
from finetree_worker.data.batches import Batches
from finetree_worker.data.packing import Limit
from finetree_worker.device_memory import DeviceWatch, is_out_of_memory, memory_bytes, peak_memory_bytes
from finetree_worker.errors import Cancelled, DivergedError, Interrupted, MemoryExhaustedError, StorageError
from finetree_worker.events.envelope import Reporter
from finetree_worker.events.eta import Eta
from finetree_worker.events.slowdown import WINDOW, SlowdownWatch
from finetree_worker.plan import Metric, Plan, Precision
from finetree_worker.ranks.alone import Alone
from finetree_worker.tokenize.example import Example
from finetree_worker.training import checkpoint, matrix_rate, optimizers
from finetree_worker.training.attention import by_document
from finetree_worker.training.checkpoint import Environment, Position
from finetree_worker.training.fused.step import faster
from finetree_worker.training.gradients import Computed, Gradients, Subject
from finetree_worker.training.preflight import micro_batch

_RECENT = 20  # steps whose median is the reported speed


@dataclass(frozen=True, slots=True)
class Trained:
    """Result of training."""

    steps: int
    tokens: int
    first_loss: float | None
    final_loss: float | None
    stopped_early: bool = False
    best_step: int = 0
    """Step whose weights replaced the last ones; 0: none."""
    limited: bool = False
    """Whether a limit of the job ended training before its last step."""


class Loop:
    """Trains on one dataset; `run` goes from the restored position to the last step."""

    def __init__(
        self,
        plan: Plan,
        subject: Subject,
        examples: Sequence[Example],
        *,
        reporter: Reporter,
        steering: Steering,
        eta: Eta,
        ranks: Alone | None = None,
    ) -> None:
        """`ranks` are those that train together; None: this process alone."""
        self.plan, self.subject, self.ranks = plan, subject, ranks or Alone()
        self.reporter, self.steering, self.eta = reporter, steering, eta
        self.optimizer = optimizers.build(subject.trainable.values(), plan.optimization, subject.device)
        self.environment = Environment.here(plan.threads, subject.device, self.ranks.hardware)
        self.batches = Batches(plan.optimization, examples)
        self.total = self.batches.total
        self.gradients = Gradients(plan, subject, reporter=reporter, steering=steering, ranks=self.ranks)
        self.losses: deque[float] = deque(maxlen=10)
        self.first_loss: float | None = None
        self.position = Position(0, 0, 0, 0.0)
        self._began = 0
        self._saved_at = self._longest = 0.0
        self._limited = False
        self._damaged: set[int] = set()
        self._slowdown = self._slowdown_watch()
        self._rates: deque[float] = deque(maxlen=_RECENT)
        self._step_seconds = self._padding = 0.0
        self._shared = 0
        self._peak_memory = 0

    def restore(self) -> int:
        """Restore the newest whole checkpoint; return its step, or 0 where there is none."""
        found, damaged = checkpoint.restore_newest(
            self.plan.checkpoints_dir, self.plan.numerics_hash(), self.subject.trainable, self.optimizer, self.ranks
        )
        if text := checkpoint.passed_over_format(self.plan.checkpoints_dir, found):
            self._alert("CHECKPOINT_SKIPPED", text)
        self._damaged = {each.step for each in damaged}
        for each in damaged:
            where = f"continues from step {found.position.step}" if found else "starts from its beginning"
            text = f"The checkpoint of step {each.step} is damaged and passed over. {each.why} The run {where}."
            self._alert("CHECKPOINT_DAMAGED", text)
        if found is None:
            if damaged:
                self.optimizer = optimizers.build(
                    self.subject.trainable.values(), self.plan.optimization, self.subject.device
                )
            return 0
        self.position = found.position
        self._began, self._saved_at = found.position.step, found.position.elapsed_seconds
        saved = Limit(self.position.micro_batch_rows, self.position.micro_batch_tokens)
        self.gradients.limit = self.gradients.limit.within(saved)
        self.gradients.scale.restore(self.position.loss_scale, self.position.loss_scale_calm)
        if found.environment != self.environment:
            message = "The run continues with other libraries, threads or hardware: equal to rounding, not bit for bit."
            if found.environment.masks != self.environment.masks:
                message = "The run continues with a worker that draws other dropout masks: as random, not the same."
            self._alert("EXECUTION_PLAN_CHANGED", message)
        return self.position.step

    def run(self, evaluate: Callable[[int], float | None]) -> Trained:
        """Train to the end. `evaluate(step)` returns the value that evaluations are compared by.

        Raises Cancelled when asked to stop (after a checkpoint, if one was asked for), Interrupted, DivergedError,
        MemoryExhaustedError, and StorageError when the checkpoint of a pause cannot be written.
        """
        model = self.subject.model
        model.train()
        with self._device_watch() as watch, by_document(model), faster(model):
            signal, _ = self.ranks.agree(self.steering.signal())
            if self.position.step and signal is Signal.FINISH:
                self._finish_early()
            if not self.finished:
                shares = self.ranks.shares(self.batches.largest())
                largest = sorted(max(shares, key=lambda rows: sum(map(len, rows))), key=len, reverse=True)
                micro_batch.check(self.gradients, self.optimizer, largest, reporter=self.reporter)
            while not self.finished:
                self._step(watch)
                self._after_step(evaluate)
        restored = self._restore_best()
        at, final = self.position, sum(self.losses) / len(self.losses) if self.losses else None
        return Trained(
            steps=at.step,
            tokens=at.tokens,
            first_loss=self.first_loss,
            final_loss=final,
            stopped_early=restored and at.step < self.total and not self._limited,
            best_step=at.best_step if restored else 0,
            limited=self._limited,
        )

    @property
    def finished(self) -> bool:
        """Whether no step remains."""
        return self.position.stopped or self.position.step >= self.total

    def _step(self, watch: DeviceWatch) -> None:
        """Take one optimizer step: sum the gradients, update the weights if they are finite, report."""
        started, step, plan = time.perf_counter(), self.position.step, self.plan.optimization
        rate = optimizers.learning_rate(plan, step, self.total)
        rows = self.batches.of(step)
        computed, norm = self._gradients(step, rows)
        loss = computed.loss
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            self._update(rate)
        self.gradients.forget()
        self._padding = 1.0 - computed.tokens / computed.places
        self._shared = sum(map(len, rows)) - computed.tokens
        self._advance(rows, time.perf_counter() - started, loss if finite else None)
        self.reporter.emit(self._metrics(rate=rate, loss=loss, norm=norm, watch=watch))
        self._check_finite()

    def _update(self, rate: float) -> None:
        """Update the weights. Raises the error of `_update_failed` where memory runs out."""
        for entry in self.optimizer.param_groups:
            entry["lr"] = rate
        try:
            self.optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise self._update_failed() from error

    def _update_failed(self) -> BaseException:
        """Return the error for an update that ran out of memory: some weights are of the new step, others are not.

        Interrupted where the attempt has saved a checkpoint, so that the next one continues from it; else
        MemoryExhaustedError, since the next one would get no further.
        """
        step, folder = self.position.step + 1, self.plan.checkpoints_dir
        found = checkpoint.newest(folder, self.plan.numerics_hash())
        if found is not None and found.position.step > self._began:
            text = f"Memory ran out in the update of step {step}; the run restarts from step {found.position.step}."
            self._alert("UPDATE_OUT_OF_MEMORY", text)
            return Interrupted(text)
        return MemoryExhaustedError(
            "OUT_OF_MEMORY_UPDATE",
            f"Memory ran out in the update of step {step}; the weights are incomplete, and this attempt has saved no "
            "checkpoint.",
            field="optimizer",
            remedy="Use an 8-bit optimizer, set checkpoints.every_steps, or leave more of the device's memory free.",
        )

    def _gradients(self, step: int, rows: Sequence[Example]) -> tuple[Computed, float]:
        """Compute the clipped gradients of a step and their norm; in float16 with the largest loss scale that fits."""
        parameters, scale = list(self.subject.trainable.values()), self.gradients.scale
        while True:
            computed = self.gradients.add(step, rows)
            scale.unscale(parameters)
            norm = self.ranks.number(clip_grad_norm_(parameters, self.plan.optimization.max_grad_norm or math.inf))
            if math.isfinite(norm):
                scale.passed()
            elif math.isfinite(computed.loss) and scale.lower():
                self.gradients.forget()
                continue
            return computed, norm

    def _advance(self, rows: Sequence[Example], seconds: float, loss: float | None) -> None:
        was, tokens = self.position, sum(map(len, rows))
        self.position = replace(
            was,
            step=was.step + 1,
            tokens=was.tokens + tokens,
            target_tokens=was.target_tokens + sum(example.targets for example in rows),
            elapsed_seconds=was.elapsed_seconds + seconds,
            non_finite_in_a_row=0 if loss is not None else was.non_finite_in_a_row + 1,
            micro_batch_tokens=self.gradients.limit.tokens,
            micro_batch_rows=self.gradients.limit.rows,
            loss_scale=self.gradients.scale.factor,
            loss_scale_calm=self.gradients.scale.calm,
        )
        self.eta.step(seconds, tokens)
        if (slow := self._slowdown.step(seconds, tokens)) is not None:
            self.eta.forget_before(WINDOW)
            self.reporter.emit(slow.alert())
        for alert in self.ranks.alerts:
            self.reporter.emit(alert)
        self._step_seconds = seconds
        self._rates.append(tokens / seconds)
        if loss is not None:
            self.losses.append(loss)
            self.first_loss = loss if self.first_loss is None else self.first_loss

    def _slowdown_watch(self) -> SlowdownWatch:
        plan, on_cpu = self.plan, self.subject.device.type == "cpu"
        dtype = torch.float32 if plan.optimization.precision is Precision.FP32 else torch.bfloat16
        return SlowdownWatch(
            plan.expected,
            threads=plan.threads,
            mean_tokens=self.batches.tokens_in_all() / self.total,
            measure_rates=partial(matrix_rate.rate_of, dtype, plan.threads) if on_cpu and self.ranks.speaks else None,
        )

    def _device_watch(self) -> DeviceWatch:
        placement = next((each for each in self.plan.placements if each.device_ids), None)
        if placement is None:
            return DeviceWatch(self.subject.device)
        return DeviceWatch(self.subject.device, node=placement.node, device_id=placement.device_ids[0])

    def _alert(self, code: str, message: str) -> None:
        self.reporter.emit(event_pb2.Alert(code=code, message=message))

    def _metrics(self, *, rate: float, loss: float, norm: float, watch: DeviceWatch) -> event_pb2.StepMetrics:
        at, memory = self.position, memory_bytes(self.subject.device)
        ranks = self.ranks.metrics
        memory = max([memory, *(each.memory_bytes for each in ranks)])
        peaks = [peak_memory_bytes(self.subject.device), *(each.peak_memory_bytes for each in ranks)]
        self._peak_memory = max(self._peak_memory, memory, *peaks)
        tokens_per_second = sorted(self._rates)[len(self._rates) // 2]
        finite = math.isfinite(loss) and math.isfinite(norm)
        return event_pb2.StepMetrics(
            step=at.step,
            total_steps=self.total,
            loss=loss if math.isfinite(loss) else None,
            non_finite=not finite,
            learning_rate=rate,
            tokens_per_second=tokens_per_second,
            grad_norm=norm if math.isfinite(norm) else None,
            memory_bytes=memory,
            peak_memory_bytes=self._peak_memory,
            epoch=at.step / self.batches.per_epoch,
            processed_tokens=at.tokens,
            target_tokens=at.target_tokens,
            step_seconds=self._step_seconds,
            devices=[watch.latest] if watch.latest is not None else [],
            eta_seconds=self.eta.remaining(
                at.step, self.total, tokens=self.batches.tokens_in_all() - at.tokens, rate=tokens_per_second
            ),
            cost_so_far=self.plan.price.of(at.elapsed_seconds) if self.plan.price is not None else None,
            padding_fraction=self._padding,
            ranks=ranks,
            shared_tokens=self._shared,
        )

    def _check_finite(self) -> None:
        """Report a step that was skipped because it was not finite. Raises DivergedError after too many in a row."""
        at, limit = self.position, self.plan.optimization.non_finite_limit
        if not at.non_finite_in_a_row:
            return
        message = f"The loss or gradient of step {at.step} is not finite; its update was skipped."
        self._alert("NON_FINITE_LOSS", message)
        if at.non_finite_in_a_row >= limit:
            raise DivergedError(
                "DIVERGED",
                f"The loss or gradient was not finite in {limit} steps in a row, up to step {at.step}.",
                field="training.learning_rate",
                remedy="Lower the learning rate, for example to a third, or raise warmup_ratio.",
            )

    def _after_step(self, evaluate: Callable[[int], float | None]) -> None:
        """Evaluate and save a checkpoint where one is due or asked for. Raises Cancelled on a request to stop."""
        step = self.position.step
        self.ranks.compare(step, self.subject.trainable.values())
        best = self._evaluation_is_due(step) and self._is_best(evaluate(step))
        asked = self.steering.signal()
        save = self.steering.take_checkpoint() or self._checkpoint_is_due(step)
        signal, save = self.ranks.agree(asked, save=save)
        stop = signal in STOPS
        if signal is Signal.FINISH:
            self._finish_early()
        if stop or save or self._limited or (best and self._keeps_best):
            self.save_checkpoint(best=best, must=stop)
        if stop:
            raise Cancelled

    def _finish_early(self) -> None:
        """Take no further step, where one remains: a limit of the job was reached."""
        if not self.finished:
            # A checkpoint from now on is the end of the run: what resumes from it must not train further.
            self._limited, self.position = True, replace(self.position, stopped=True)

    def _checkpoint_is_due(self, step: int) -> bool:
        """Return whether one is scheduled after a step, or the next step might cost more than may be lost with it."""
        plan = self.plan.checkpoints
        if step >= self.total:
            return False
        if plan.every_steps and step % plan.every_steps == 0:
            return True
        self._longest = max(self._longest, self._step_seconds)
        lost = self.position.elapsed_seconds - self._saved_at
        return 0 < plan.max_lost_seconds < lost + self._longest

    @property
    def _keeps_best(self) -> bool:
        return self.plan.checkpoints.keep_best or self.plan.evaluation.early_stopping_patience > 0

    def _evaluation_is_due(self, step: int) -> bool:
        every = self.plan.evaluation.every_steps
        if step == self.total:  # the last weights compete for the best; without a choice they are measured later
            return bool(every and self.plan.evaluation.early_stopping_patience)
        return bool(every) and step % every == 0

    def _is_best(self, value: float | None) -> bool:
        """Return whether an evaluation is the best so far; end training when patience has run out.

        As is usual, any better value is the best, but only one better by more than the plan's delta renews patience.
        """
        was, plan = self.position, self.plan.evaluation
        gain = _gain(value, was.best_value, plan.best_by)
        without = 0 if gain > plan.early_stopping_min_delta else was.evaluations_without_gain + 1
        self.position, best = replace(was, evaluations_without_gain=without), gain > 0
        if best:
            self.position = replace(self.position, best_value=value, best_step=was.step)
        if 0 < plan.early_stopping_patience <= without:
            self.position = replace(self.position, stopped=True)
        return best

    def _restore_best(self) -> bool:
        """Replace the last weights by those of the best evaluation, where early stopping is on.

        Returns whether the weights are those of the best evaluation's checkpoint.
        """
        at, folder = self.position, self.plan.checkpoints_dir
        if not self.plan.evaluation.early_stopping_patience or at.best_value is None:
            return False
        if at.best_step == at.step and not at.stopped:
            return False
        self.ranks.wait()  # until the speaker has written it
        found = checkpoint.at_step(folder, at.best_step, self.plan.numerics_hash())
        if found is None:
            text = f"The best checkpoint, of step {at.best_step}, is missing or damaged; the last weights are kept."
            self._alert("BEST_CHECKPOINT_MISSING", text)
            return False
        checkpoint.restore_weights(found, self.subject.trainable, self.ranks)
        # A checkpoint from now on holds these weights: a run that continues from it must not train them further.
        self.position = replace(at, stopped=True)
        self._report_best(at.best_value)
        return True

    def _report_best(self, value: float) -> None:
        at, metric = self.position, self.plan.evaluation.best_by.value.replace("_", " ")
        early = at.step < self.total
        why = f"evaluations no longer improved {metric}; training ended" if early else "training ended"
        if self._limited:
            why, early = "a limit of the job ended training", False
        text = f"{why} after step {at.step}; the weights of step {at.best_step} are kept, {metric} {value:.4g}"
        alert = event_pb2.Alert(code="EARLY_STOPPED" if early else "BEST_RESTORED", message=text)
        self.reporter.emit(alert, level=event_pb2.EVENT_LEVEL_INFO)

    def save_checkpoint(self, *, best: bool = False, must: bool = False) -> None:
        """Save, rotate, report. A failed save is reported and training continues, unless it `must` succeed."""
        started, folder, step = time.perf_counter(), self.plan.checkpoints_dir, self.position.step
        try:
            target = checkpoint.save(
                folder,
                self.subject.trainable,
                self.optimizer,
                position=self.position,
                environment=self.environment,
                numerics_hash=self.plan.numerics_hash(),
                portable=self.subject.portable,
                replaced=self._damaged,
                ranks=self.ranks,
            )
        except StorageError as error:
            text = f"checkpoint at step {step} failed: {error.message}"
            self.reporter.emit(event_pb2.CheckpointFailed(step=step, reason=error.reason), message=text)
            if must:
                raise
            return
        self._saved_at = self.position.elapsed_seconds
        if not self.ranks.speaks:
            return
        fail_point("checkpoint.before_rotation")
        keep, best_step = self.plan.checkpoints.keep, self.position.best_step if self._keeps_best else 0
        checkpoint.rotate(folder, max(1, keep), self.plan.numerics_hash(), best=best_step)
        fail_point("checkpoint.after_rotation")
        seconds = time.perf_counter() - started
        self.eta.checkpoint(seconds)
        self.reporter.emit(
            event_pb2.CheckpointSaved(
                name=f"{self.plan.job}/checkpoints/{step}",
                step=step,
                size_bytes=size(target),
                sha256=manifest_hash(target),
                best=best,
                seconds=seconds,
            )
        )


def _gain(value: float | None, best: float | None, metric: Metric) -> float:
    """Return the gain of an evaluation over the best before it: infinite for the first, negative if it failed."""
    if value is None:
        return -math.inf
    if best is None:
        return math.inf
    return best - value if metric is Metric.LOSS else value - best
