# SPDX-License-Identifier: Apache-2.0
"""Ranks that each hold all weights: a step's rows are divided, its gradients are added."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from finetree_api.trainer.v1 import event_pb2
from torch import Tensor, nn

from finetree_worker.control import Control, Signal
from finetree_worker.device_memory import memory_bytes, peak_memory_bytes
from finetree_worker.errors import RankError
from finetree_worker.ranks.alone import Alone, Lacking, Part
from finetree_worker.ranks.membership import Membership
from finetree_worker.ranks.sharing import shares
from finetree_worker.ranks.straggler import Stragglers
from finetree_worker.tokenize.example import Example

Item = TypeVar("Item")
Result = TypeVar("Result")
BUCKET_BYTES = 25 << 20
"""Gradients that are added in one message: the size that DistributedDataParallel has found good."""
COMPARE_EVERY = 50
"""Steps between two comparisons of the ranks' weights."""
_SIGNALS = list(Signal)


class Agreed:
    """Control of a rank that does not speak: the request that the speaker has last passed on."""

    def __init__(self) -> None:
        self.signal = Signal.NONE

    def poll(self) -> Signal:
        """Return it. A checkpoint is asked for by `agree` alone."""
        return self.signal


class Replicated(Alone):
    """One of several ranks with whole weights, in a process group that exists as long as this object."""

    sharding = "replicated"

    def __init__(self, membership: Membership) -> None:
        self.membership = membership
        self.rank, self.count = membership.rank, membership.count
        self._agreed = Agreed()
        self._metrics: list[event_pb2.RankMetrics] = []
        self._stragglers = Stragglers()
        self._alerts: list[event_pb2.Alert] = []
        self._sum_seconds = 0.0

    @property
    def _own(self) -> torch.device:
        """The device that this rank's messages must be on."""
        return self.membership.device

    @property
    def named(self) -> str:
        """This rank as part of a message."""
        return self.name_of(self.rank)

    def name_of(self, rank: int) -> str:
        """Return a rank as part of a message, such as " of rank 1 (cuda:1)"."""
        device = self.membership.device_ids[rank] if self.membership.device_ids else ""
        return f" of rank {rank} ({device})" if device else f" of rank {rank}"

    @property
    def environment(self) -> dict[str, str]:
        """What AttemptStarted says of the ranks."""
        return {"ranks": str(self.count), "sharding": self.sharding, "backend": self.membership.backend}

    @property
    def hardware(self) -> str:
        """How many devices, and what they divide: decides the order of sums."""
        return f" x{self.count} {self.sharding}"

    def device(self, kind: Literal["cpu", "cuda"]) -> torch.device:
        """Return this rank's device."""
        del kind
        return self._own

    def control(self, control: Control) -> Control:
        """Return the control that also tells of lost ranks; on other ranks than the speaker, what it has passed on."""
        return self.membership.watched(control) if self.speaks else self._agreed

    def in_turn(self, work: Callable[[], Result]) -> Result:
        """Do work on the speaker first, then on the others."""
        if self.speaks:
            done = work()
            self.membership.mark("turn")
            return done
        self.membership.wait_for("turn")
        return work()

    def share(self, rows: Sequence[Example]) -> Sequence[Example]:
        """Return this rank's rows of a step."""
        return self.shares(rows)[self.rank]

    def shares(self, rows: Sequence[Example]) -> list[Sequence[Example]]:
        """Divide the rows of a step by their tokens."""
        return list(shares(rows, self.count, len))

    def exchange(self, part: Part) -> Part:
        """Tell all ranks this one's part of a step, and return the sums; added in the order of the ranks by each."""
        lacking = part.lacking or Lacking(0, 0, 0)
        own = [part.loss, part.places, part.tokens, part.seconds, lacking.rows, lacking.longest, lacking.held]
        own += [memory_bytes(self._own), peak_memory_bytes(self._own), part.message_seconds, self._sum_seconds]
        table = self._table(own)
        self._note(table)
        first = next((rank for rank, row in enumerate(table) if row[4]), None)
        return Part(
            loss=sum(row[0] for row in table),
            places=int(sum(row[1] for row in table)),
            tokens=int(sum(row[2] for row in table)),
            seconds=max(row[3] for row in table),
            lacking=None if first is None else _lacking(first, table[first]),
        )

    def _note(self, table: Sequence[Sequence[float]]) -> None:
        longest = max(row[3] + row[9] for row in table)
        names = self.membership.device_ids or [""] * self.count
        self._metrics = [
            event_pb2.RankMetrics(
                rank=rank,
                device_id=names[rank],
                memory_bytes=int(row[7]),
                peak_memory_bytes=int(row[8]),
                compute_seconds=row[3],
                # What the sums took in the step before: those of this one are still to come.
                wait_seconds=longest - row[3] + row[10],
                tokens=int(row[2]),
            )
            for rank, row in enumerate(table)
        ]

    def _table(self, own: Sequence[float]) -> list[list[float]]:
        mine = torch.tensor(own, dtype=torch.float64, device=self._own)
        found = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(found, mine)
        table: list[list[float]] = torch.stack(found).tolist()
        return table

    def sum(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add the gradients of all ranks; those that no rank has stay away, as on one device."""
        started = time.perf_counter()
        has = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8, device=self._own)
        dist.all_reduce(has, dist.ReduceOp.MAX)
        gradients = []
        for parameter, somewhere in zip(parameters, has.tolist(), strict=True):
            if somewhere and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                gradients.append(parameter.grad)
        with torch.no_grad():
            _add_all(gradients)
        self._sum_seconds = time.perf_counter() - started
        self._judge()

    def _judge(self) -> None:
        """Look for a rank that keeps the others waiting."""
        self._alerts = self._stragglers.step(self._metrics)

    def agree(self, signal: Signal, *, save: bool = False) -> tuple[Signal, bool]:
        """Return the speaker's request and whether it wants a checkpoint: one small message."""
        told = torch.tensor([_SIGNALS.index(signal), int(save)], device=self._own)
        dist.broadcast(told, src=0)
        number, wanted = told.tolist()
        self._agreed.signal = Signal.NONE if _SIGNALS[number] is Signal.CHECKPOINT else _SIGNALS[number]
        return _SIGNALS[number], bool(wanted)

    def compare(self, step: int, parameters: Iterable[nn.Parameter]) -> None:
        """Compare checksums of the ranks' weights every COMPARE_EVERY steps. Raises RankError RANK_WEIGHTS_DIFFER."""
        if step % COMPARE_EVERY:
            return
        total = torch.zeros((), dtype=torch.int64, device=self._own)
        for place, parameter in enumerate(parameters):
            # Odd factors, so that two weights which were exchanged do not add up to the same.
            total += _checksum(parameter) * (2 * place + 1)
        found = [torch.empty_like(total) for _ in range(self.count)]
        dist.all_gather(found, total)
        sums = [int(each) for each in found]
        usual = max(sums, key=lambda each: (sums.count(each), each == sums[0]))
        different = [rank for rank, each in enumerate(sums) if each != usual]
        if different:
            names = ", ".join(self.name_of(rank).removeprefix(" of ") for rank in different)
            raise RankError(
                "RANK_WEIGHTS_DIFFER",
                f"After step {step} the weights of {names} differ from those of the other ranks.",
                remedy="The next attempt starts from the last checkpoint. Where it happens again, suspect the memory "
                "of that device, and see that all devices are of one kind.",
            )

    def wait(self) -> None:
        """Wait until every rank is here."""
        dist.all_reduce(torch.zeros(1, device=self._own))

    def part(self, work: Sequence[Item], size: Callable[[Item], int]) -> Sequence[Item]:
        """Return this rank's part of what is to be evaluated."""
        return shares(work, self.count, size)[self.rank]

    def parts(self, found: Result) -> list[Result]:
        """Return what the ranks have found in their parts."""
        return self.gathered(found)

    def gathered(self, value: Result) -> list[Result]:
        """Return the ranks' values; each is pickled by this program and read by this program."""
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found

    @property
    def metrics(self) -> list[event_pb2.RankMetrics]:
        """Numbers of each rank in the last step."""
        return self._metrics

    @property
    def alerts(self) -> list[event_pb2.Alert]:
        """What is to be said after the last step."""
        told, self._alerts = self._alerts, []
        return told


def _lacking(rank: int, row: Sequence[float]) -> Lacking:
    rows, longest, held = map(int, row[4:7])
    return Lacking(rows, longest, held, rank)


def _add_all(gradients: Sequence[Tensor]) -> None:
    """Add tensors over all ranks, in buckets; all are on their way before the first is waited for."""
    waiting = []
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        waiting.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
    for bucket, flat, work in waiting:
        if work is not None:
            work.wait()
        for gradient, summed in zip(bucket, torch.split(flat, [g.numel() for g in bucket]), strict=True):
            gradient.copy_(summed.view_as(gradient))


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for gradient in gradients:
        by_type.setdefault(gradient.dtype, []).append(gradient)
    for same in by_type.values():
        bucket, held = [], 0  # type: list[Tensor], int
        for gradient in same:
            if bucket and held + gradient.nbytes > BUCKET_BYTES:
                yield bucket
                bucket, held = [], 0
            bucket.append(gradient)
            held += gradient.nbytes
        if bucket:
            yield bucket


def _checksum(tensor: Tensor) -> Tensor:
    """Sum a tensor's bits as integers, modulo 2^64."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.detach().contiguous().view(integers).sum(dtype=torch.int64)
