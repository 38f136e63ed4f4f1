# SPDX-License-Identifier: Apache-2.0
"""The training loop: micro-batches to gradients, gradients to steps, and what guards them."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from transformers import PreTrainedModel

from finetree_worker import checkpoint, optimizers
from finetree_worker.attention import by_document
from finetree_worker.checkpoint import Environment, Position
from finetree_worker.errors import Cancelled, DivergedError, MemoryExhaustedError, StorageError
from finetree_worker.events import (
    Alert,
    BatchSizeChanged,
    CheckpointFailed,
    CheckpointSaved,
    Level,
    Reporter,
    StepMetrics,
)
from finetree_worker.files import size
from finetree_worker.loss import target_loss
from finetree_worker.pace import Pace
from finetree_worker.packing import Example, collate, pack
from finetree_worker.plan import FullMethod, Precision, TrainPlan
from finetree_worker.randomness import DropoutMasks, order
from finetree_worker.steering import STOPS, Steering
from finetree_worker.telemetry import DeviceWatch, memory_bytes, peak_memory_bytes

NON_FINITE_LIMIT = 5
"""Steps in a row without a finite loss or gradient after which a run has diverged."""
_RECENT = 20  # steps that the speed is taken from


@dataclass(frozen=True, slots=True)
class Subject:
    """What is trained: the model whose forward pass is run, its trainable parameters by name, and their dropout."""

    model: PreTrainedModel
    trainable: dict[str, nn.Parameter]
    masks: DropoutMasks | None
    device: torch.device


@dataclass(frozen=True, slots=True)
class Trained:
    """How training ended."""

    steps: int
    tokens: int
    first_loss: float | None
    final_loss: float | None


def total_steps(plan: TrainPlan, rows: int) -> int:
    """Optimizer steps of the whole run. The last step of an epoch may hold fewer rows than the others."""
    if plan.optimization.max_steps is not None:
        return plan.optimization.max_steps
    return max(1, math.ceil((plan.optimization.epochs or 1.0) * steps_per_epoch(plan, rows)))


def steps_per_epoch(plan: TrainPlan, rows: int) -> int:
    """Optimizer steps that visit every row once."""
    return math.ceil(rows / plan.optimization.batch_size)


class Loop:
    """One run over one dataset; `run` goes from the restored position to the last step."""

    def __init__(
        self, plan: TrainPlan, subject: Subject, examples: Sequence[Example], reporter: Reporter, steering: Steering
    ) -> None:
        self.plan, self.subject, self.reporter, self.steering = plan, subject, reporter, steering
        self.optimizer = optimizers.build(subject.trainable.values(), plan.optimization, subject.device)
        self.environment = Environment.here(plan.threads, subject.device)
        self.total = total_steps(plan, len(examples))
        self.losses: deque[float] = deque(maxlen=10)
        self.first_loss: float | None = None
        self._examples = examples
        self._pace = Pace()
        self._tokens_in_all: int | None = None
        self._rates: deque[float] = deque(maxlen=_RECENT)
        budget = plan.optimization.micro_batch_size * plan.optimization.sequence_length
        self.position = Position(0, 0, 0, 0.0, micro_batch_tokens=budget)
        self._step_seconds = 0.0
        self._epoch: tuple[int, list[int]] | None = None
        self._largest_micro_batch = budget

    def restore(self) -> int:
        """Go on from the newest whole checkpoint, if there is one. Returns the step that it holds, or 0."""
        found = checkpoint.newest(self.plan.checkpoints_dir, self.plan.numerics_hash())
        if found is None:
            return 0
        checkpoint.restore(found, self.subject.trainable, self.optimizer)
        self.position = found.position
        if found.environment != self.environment:
            message = "The run goes on under other libraries, threads or hardware: equal to rounding, not bit by bit."
            self.reporter.emit(Alert(Level.WARNING, "EXECUTION_PLAN_CHANGED", message, self.position.step))
        return self.position.step

    def run(self, evaluate: Callable[[int], float | None]) -> Trained:
        """Train to the end. `evaluate(step)` measures the held-out loss where the plan asks for it.

        Raises Cancelled when told to stop (after a checkpoint, if one was asked for), DivergedError,
        MemoryExhaustedError, and StorageError when the checkpoint of a pause cannot be written.
        """
        self.subject.model.train()
        with DeviceWatch(self.subject.device) as watch, by_document(self.subject.model):
            while self.position.step < self.total:
                self._step(watch)
                self._after_step(evaluate)
        final = sum(self.losses) / len(self.losses) if self.losses else None
        return Trained(self.position.step, self.position.tokens, self.first_loss, final)

    def _step(self, watch: DeviceWatch) -> None:
        """One optimizer step: gradients of all micro-batches, a look at them, the update."""
        started, step, plan = time.perf_counter(), self.position.step, self.plan.optimization
        rate = optimizers.learning_rate(plan, step, self.total)
        rows = self._rows_of(step)
        loss = self._gradients(step, rows)
        parameters = list(self.subject.trainable.values())
        norm = float(clip_grad_norm_(parameters, plan.max_grad_norm or math.inf))
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            for entry in self.optimizer.param_groups:
                entry["lr"] = rate
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._advance(rows, time.perf_counter() - started, loss if finite else None)
        self.reporter.emit(self._metrics(rate, loss, norm, watch))
        self._guard()

    def _rows_of(self, step: int) -> list[Example]:
        """The rows of an optimizer step: a function of the seed and the step alone."""
        per_epoch, batch = steps_per_epoch(self.plan, len(self._examples)), self.plan.optimization.batch_size
        epoch, index = divmod(step, per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, order(self.plan.optimization.seed, epoch, len(self._examples))
        return [self._examples[i] for i in self._epoch[1][index * batch : (index + 1) * batch]]

    def _tokens_of_run(self) -> int:
        """Tokens of all steps of the run: the order of the rows is known from the seed."""
        if self._tokens_in_all is None:
            batch, rows = self.plan.optimization.batch_size, len(self._examples)
            epochs, rest = divmod(self.total, steps_per_epoch(self.plan, rows))
            last = order(self.plan.optimization.seed, epochs, rows)[: rest * batch] if rest else []
            whole = sum(map(len, self._examples))
            self._tokens_in_all = epochs * whole + sum(len(self._examples[i]) for i in last)
        return self._tokens_in_all

    def _gradients(self, step: int, rows: Sequence[Example]) -> float:
        """Add up the gradients of the step's rows; returns their mean loss per target token.

        Every micro-batch is weighted by the targets of the whole batch, so that how it is split changes nothing. When
        memory runs out, the micro-batch is halved and the step begins anew: nothing but gradients has been written.
        """
        targets = sum(example.targets for example in rows)
        while True:
            try:
                return sum(self._micro_batches(step, rows, targets))
            except torch.OutOfMemoryError as error:
                self.optimizer.zero_grad(set_to_none=True)
                self._halve(step, max(map(len, rows)), error)
            if self.subject.device.type == "cuda":
                torch.cuda.empty_cache()

    def _micro_batches(self, step: int, rows: Sequence[Example], targets: int) -> Iterator[float]:
        plan = self.plan.optimization
        budget = self.position.micro_batch_tokens
        for documents in pack(rows, max_rows=plan.micro_batch_size, max_tokens=budget, packing=plan.packing):
            self.steering.signal()
            batch = collate(documents).to(self.subject.device)
            self._largest_micro_batch = batch.tokens
            if self.subject.masks is not None:
                self.subject.masks.begin(step, batch.rows, batch.lengths, batch.token_ids)
            with self._autocast():
                loss = target_loss(self.subject.model, batch) / targets
            loss.backward()  # type: ignore[no-untyped-call]  # torch types its tensors, not this method
            yield float(loss.detach())

    def _autocast(self) -> AbstractContextManager[object]:
        mixed = self.plan.optimization.precision is Precision.BF16_MIXED and isinstance(self.plan.method, FullMethod)
        return torch.autocast(self.subject.device.type, torch.bfloat16) if mixed else nullcontext()

    def _halve(self, step: int, longest: int, error: torch.OutOfMemoryError) -> None:
        """Halve the micro-batch after an out-of-memory; the longest row must still fit."""
        before = self.position.micro_batch_tokens
        if before <= longest:
            raise MemoryExhaustedError(
                "OUT_OF_MEMORY",
                f"The device's memory does not hold one row of {longest} tokens.",
                field="training.sequence_length",
                remedy="Lower sequence_length, turn gradient checkpointing on, or use QLoRA or a smaller model.",
            ) from error
        # What was asked for may be far more than the rows need: halve what they need.
        after = max(longest, min(before, self._largest_micro_batch) // 2)
        self.position = replace(self.position, micro_batch_tokens=after)
        self.reporter.emit(BatchSizeChanged(step + 1, before, after))

    def _advance(self, rows: Sequence[Example], seconds: float, loss: float | None) -> None:
        was, tokens = self.position, sum(map(len, rows))
        self.position = replace(
            was,
            step=was.step + 1,
            tokens=was.tokens + tokens,
            target_tokens=was.target_tokens + sum(example.targets for example in rows),
            elapsed_seconds=was.elapsed_seconds + seconds,
            non_finite_in_a_row=0 if loss is not None else was.non_finite_in_a_row + 1,
        )
        self._pace.add(seconds, tokens)
        self._step_seconds = seconds
        self._rates.append(tokens / seconds)
        if loss is not None:
            self.losses.append(loss)
            self.first_loss = loss if self.first_loss is None else self.first_loss

    def _metrics(self, rate: float, loss: float, norm: float, watch: DeviceWatch) -> StepMetrics:
        at = self.position
        return StepMetrics(
            step=at.step,
            total_steps=self.total,
            epoch=at.step / steps_per_epoch(self.plan, len(self._examples)),
            loss=loss if math.isfinite(loss) else None,
            learning_rate=rate,
            grad_norm=norm if math.isfinite(norm) else None,
            tokens=at.tokens,
            target_tokens=at.target_tokens,
            tokens_per_second=sorted(self._rates)[len(self._rates) // 2],
            step_seconds=self._step_seconds,
            elapsed_seconds=at.elapsed_seconds,
            remaining_seconds=self._pace.remaining(self.total - at.step, self._tokens_of_run() - at.tokens),
            memory_bytes=memory_bytes(self.subject.device),
            peak_memory_bytes=peak_memory_bytes(self.subject.device),
            device=watch.latest,
        )

    def _guard(self) -> None:
        """Warn of a step that was skipped because it was not finite; give up after too many in a row."""
        at = self.position
        if not at.non_finite_in_a_row:
            return
        message = f"Step {at.step} had no finite loss or gradient; its update was left out."
        self.reporter.emit(Alert(Level.WARNING, "NON_FINITE_LOSS", message, at.step))
        if at.non_finite_in_a_row >= NON_FINITE_LIMIT:
            raise DivergedError(
                "DIVERGED",
                f"{NON_FINITE_LIMIT} steps in a row, up to step {at.step}, had no finite loss or gradient.",
                field="training.learning_rate",
                remedy="Lower the learning rate (a third of it is a good next try) or raise warmup_ratio.",
            )

    def _after_step(self, evaluate: Callable[[int], float | None]) -> None:
        """At a step boundary: evaluate and save where the plan or someone outside wants it."""
        step, plan = self.position.step, self.plan
        best = False
        if plan.evaluation.every_steps and step % plan.evaluation.every_steps == 0 and step < self.total:
            best = self._is_best(evaluate(step))
        due = plan.checkpoints.every_steps and step % plan.checkpoints.every_steps == 0 and step < self.total
        stop = self.steering.signal() in STOPS
        asked = self.steering.take_checkpoint()
        if stop or asked or due or (best and plan.checkpoints.keep_best):
            self.save_checkpoint(best=best, must=stop)
        if stop:
            raise Cancelled

    def _is_best(self, loss: float | None) -> bool:
        if loss is None or (self.position.best_loss is not None and loss >= self.position.best_loss):
            return False
        self.position = replace(self.position, best_loss=loss)
        return True

    def save_checkpoint(self, *, best: bool = False, must: bool = False) -> None:
        """Save, rotate, report. A failed save is reported and training goes on, unless it `must` succeed."""
        started, folder, step = time.perf_counter(), self.plan.checkpoints_dir, self.position.step
        try:
            target = checkpoint.save(
                folder,
                self.subject.trainable,
                self.optimizer,
                position=self.position,
                environment=self.environment,
                numerics_hash=self.plan.numerics_hash(),
            )
            if best and self.plan.checkpoints.keep_best:
                checkpoint.mark_best(folder, step)
        except StorageError as error:
            self.reporter.emit(CheckpointFailed(step, error.reason, error.message))
            if must:
                raise
            return
        checkpoint.rotate(folder, max(1, self.plan.checkpoints.keep))
        seconds = time.perf_counter() - started
        self.reporter.emit(CheckpointSaved(step, target.name, size(target), best, seconds))
