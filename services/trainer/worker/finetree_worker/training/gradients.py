# SPDX-License-Identifier: Apache-2.0
"""Gradients of an optimizer step, summed over micro-batches that fit in the device's memory, and over ranks."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import astuple, dataclass

import torch
from finetree_api.trainer.v1 import event_pb2
from torch import nn
from transformers import PreTrainedModel

from finetree_worker.control import Steering
from finetree_worker.data.packing import Limit, MicroBatch, collate, pack
from finetree_worker.device_memory import free_cache, is_out_of_memory
from finetree_worker.errors import MemoryExhaustedError
from finetree_worker.events.envelope import Reporter
from finetree_worker.plan import Checkpointing, Plan, Precision
from finetree_worker.portable import Portable
from finetree_worker.randomness import DropoutMasks
from finetree_worker.ranks import halving
from finetree_worker.ranks.alone import Alone, Lacking, Part
from finetree_worker.tokenize.example import Example
from finetree_worker.training.loss import sharing, target_loss
from finetree_worker.training.loss_scale import LossScale

AUTOCAST = {Precision.BF16_MIXED: torch.bfloat16, Precision.FP16_MIXED: torch.float16}
"""Types of products in mixed precision, where the base's own weights are trained in float32."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Subject of training: the model whose forward pass is run, its trainable parameters by name, its dropout masks."""

    model: PreTrainedModel
    trainable: dict[str, nn.Parameter]
    masks: DropoutMasks | None
    device: torch.device
    portable: Portable | None = None
    """How other programs name the weights of its checkpoints; None where none loads them."""


@dataclass(frozen=True, slots=True)
class Computed:
    """Result of a step: mean loss per target token (nats), tokens that were computed, their places with padding."""

    loss: float
    tokens: int
    places: int


class Gradients:
    """Sums gradients; halves the micro-batch when memory runs out."""

    def __init__(
        self, plan: Plan, subject: Subject, *, reporter: Reporter, steering: Steering, ranks: Alone | None = None
    ) -> None:
        self._plan, self._reporter, self._steering = plan, reporter, steering
        self.ranks = ranks or Alone()
        self.subject = subject
        self.limit = halving.largest(plan)
        self.packing = plan.optimization.packing
        self.sharing = sharing(subject.model) if self.packing else None
        self.scale = LossScale(enabled=plan.optimization.precision is Precision.FP16_MIXED)
        self._tried: Sequence[Example] = ()

    def add(self, step: int, rows: Sequence[Example], *, everywhere: bool = False) -> Computed:
        """Sum the gradients of the rows of `step`, counted from 0, each rank those of its share.

        Every micro-batch is weighted by the targets of the whole batch, so that splitting it changes nothing. When
        memory runs out on any rank, the micro-batch is halved on all and the step begins again: only gradients have
        been written. `everywhere`: each rank computes all rows, as a trial, and nothing is added up. Raises
        MemoryExhaustedError when not even one row fits.
        """
        targets = sum(example.targets for example in rows)
        while True:
            part, error = self._part(step, rows, targets, everywhere=everywhere)
            together = self.ranks.exchange(part)
            if together.lacking is None:
                if not everywhere:
                    self.ranks.sum(list(self.subject.trainable.values()))
                return Computed(together.loss, together.tokens, together.places)
            self.forget()
            self._halve(step, together.lacking, error)
            # Only here, after the except block, has the traceback released the tensors that it held.
            del error
            free_cache(self.subject.device)

    def _part(
        self, step: int, rows: Sequence[Example], targets: int, *, everywhere: bool
    ) -> tuple[Part, BaseException | None]:
        """Sum the gradients of this rank's share; where memory runs out, return what did not fit and the error."""
        started, messages = time.perf_counter(), self.ranks.message_seconds
        try:
            done = list(self._each(step, rows, targets, everywhere=everywhere))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            held = collate(self._tried, self.sharing).tokens
            lacking = Lacking(len(self._tried), max(map(len, self._tried)), held)
            if self.ranks.lockstep:
                # The others wait for this rank in the middle of a pass, from which nothing calls them back.
                raise self._exhausted(step, lacking) from error
            return Part(lacking=lacking), error.with_traceback(None)
        loss, tokens, filled = (sum(each) for each in zip(*map(astuple, done), strict=True)) if done else (0.0, 0, 0)
        messages = self.ranks.message_seconds - messages
        seconds = time.perf_counter() - started - messages
        return Part(loss, filled, tokens, seconds, messages), None

    @contextmanager
    def each_alone(self) -> Iterator[None]:
        """Inside the block no documents share what they begin with."""
        before, self.sharing = self.sharing, None
        try:
            yield
        finally:
            self.sharing = before

    @property
    def advice(self) -> str:
        """Settings besides shorter rows that would lower memory, as the end of a sentence; none that the plan has."""
        checkpointing = self._plan.optimization.gradient_checkpointing
        savings = list(self._plan.method.memory_savings(checkpointing=checkpointing is not Checkpointing.OFF))
        if checkpointing is Checkpointing.FULL and self.subject.device.type == "cuda":
            savings.insert(0, "keep the inputs of layers in the host's memory (gradient_checkpointing: offloaded)")
        return ", ".join([*savings, "or use a smaller model"])

    def forget(self) -> None:
        """Drop all gradients."""
        for parameter in self.subject.trainable.values():
            parameter.grad = None

    def _each(self, step: int, rows: Sequence[Example], targets: int, *, everywhere: bool) -> Iterator[Computed]:
        """Compute the micro-batches of this rank; in lockstep as many as any rank has, the last ones for nothing."""
        shares = [rows] if everywhere else self.ranks.shares(rows)
        packed = [self._packed(share) for share in shares]
        mine = packed[0 if everywhere else self.ranks.rank]
        for documents in mine:
            self._steering.signal()
            self._tried = documents
            yield self.one(step, documents, targets)
        if self.ranks.lockstep:
            self._tried = [min(rows, key=len)]
            for _ in range(max(map(len, packed)) - len(mine)):
                self.one(step, self._tried, targets, weight=0.0)

    def _packed(self, rows: Sequence[Example]) -> list[list[Example]]:
        return pack(
            rows, max_rows=self.limit.rows, max_tokens=self.limit.tokens, packing=self.packing, sharing=self.sharing
        )

    def one(self, step: int, documents: Sequence[Example], targets: int, *, weight: float = 1.0) -> Computed:
        """Add the gradients of one micro-batch, divided by `targets` and multiplied by the loss scale and `weight`."""
        batch = collate(documents, self.sharing).to(self.subject.device)
        if self.subject.masks is not None:
            self.subject.masks.begin(step, batch.keys, places=places(batch))
        with self._autocast():
            loss = self.ranks.forward(self.subject.model, target_loss, self.subject.model, batch) / targets
        (loss * (self.scale.factor * weight)).backward()  # type: ignore[no-untyped-call]  # torch types its tensors, not this method
        return Computed(float(loss.detach()), batch.tokens, places(batch))

    def _autocast(self) -> AbstractContextManager[object]:
        dtype = AUTOCAST.get(self._plan.optimization.precision)
        mixed = dtype is not None and self._plan.method.trains_base
        return torch.autocast(self.subject.device.type, dtype) if mixed else nullcontext()

    def _halve(self, step: int, lacking: Lacking, error: BaseException | None) -> None:
        """Halve the micro-batch that did not fit, which may have been far below the limit."""
        if lacking.rows == 1:
            raise self._exhausted(step, lacking) from error
        self.limit, change = self._halved(step, lacking)
        self._reporter.emit(change)

    def _halved(self, step: int, lacking: Lacking) -> tuple[Limit, event_pb2.BatchSizeChanged]:
        length = self._plan.data.sequence_length
        return halving.halved(self.limit, lacking, step=step, packing=self.packing, row_tokens=length)

    def _exhausted(self, step: int, lacking: Lacking) -> MemoryExhaustedError:
        where = self.ranks.name_of(self.ranks.rank if self.ranks.lockstep else lacking.rank)
        one = f"One row of {lacking.longest} tokens does" if lacking.rows == 1 else f"{lacking.rows} rows do"
        smaller = "" if lacking.rows == 1 else "micro_batch_size or "
        return MemoryExhaustedError(
            "OUT_OF_MEMORY",
            f"{one} not fit in the device's memory{where}.",
            field="training.sequence_length" if lacking.rows == 1 else "training.micro_batch_size",
            remedy=f"Lower {smaller}sequence_length, {self.advice}.",
            metadata={} if lacking.rows == 1 else halving.as_metadata(self._halved(step, lacking)[1]),
        )


def places(batch: MicroBatch) -> int:
    """Return the token places of a micro-batch, padding included."""
    return math.prod(batch.token_ids.shape)
