# SPDX-License-Identifier: Apache-2.0
"""One rank: a run on one device, which divides nothing and waits for nobody.

The loop speaks to its ranks by these methods alone, so that it reads the same for one device and for many.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from finetree_api.trainer.v1 import event_pb2
from torch import Tensor, nn

from finetree_worker.control import Control, Signal
from finetree_worker.tokenize.example import Example

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Lacking:
    """A micro-batch that a device's memory did not hold: its rows, tokens of the longest, tokens computed in all."""

    rows: int
    longest: int
    held: int
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """What a rank computed of a step: its share of the mean loss (nats), places with padding, tokens, seconds.

    `message_seconds` come on top of `seconds`: in them the pass waited for other ranks.
    """

    loss: float = 0.0
    places: int = 0
    tokens: int = 0
    seconds: float = 0.0
    message_seconds: float = 0.0
    lacking: Lacking | None = None
    """The micro-batch that did not fit; the other numbers mean nothing then."""


class Alone:
    """The only rank of a run."""

    rank = 0
    count = 1
    lockstep = False
    """Whether all ranks must make the same forward passes, since they gather each other's weights in them."""

    @property
    def message_seconds(self) -> float:
        """Seconds since the start in messages of forward and backward passes, where this process sees them."""
        return 0.0

    @property
    def speaks(self) -> bool:
        """Whether this rank reports events and writes files: rank 0."""
        return self.rank == 0

    @property
    def named(self) -> str:
        """This rank as part of a message, such as " of rank 1 (cuda:1)"; empty for a run on one device."""
        return ""

    def name_of(self, rank: int) -> str:
        """Return any rank's `named`."""
        del rank
        return ""

    @property
    def environment(self) -> dict[str, str]:
        """What AttemptStarted says of the ranks."""
        return {}

    @property
    def hardware(self) -> str:
        """What a checkpoint's environment says after the name of the device."""
        return ""

    def device(self, kind: Literal["cpu", "cuda"]) -> torch.device:
        """Return this rank's device."""
        return torch.device(kind)

    def loading_device(self, device: torch.device) -> torch.device:
        """Return the device that the base is loaded on, before `shard`."""
        return device

    def control(self, control: Control) -> Control:
        """Return what this rank polls for requests, given the control of the worker."""
        return control

    def in_turn(self, work: Callable[[], Result]) -> Result:
        """Do work on the speaker first, then on the others, which find in the cache what it has made."""
        return work()

    def shard(self, model: nn.Module) -> None:
        """Divide the model's weights among the ranks, in place."""

    def forward(self, model: nn.Module, compute: Callable[..., Result], *args: Any, **named: Any) -> Result:
        """Run a computation that reads the model's weights, also those of modules that it does not call."""
        del model
        return compute(*args, **named)

    def inference(self) -> AbstractContextManager[object]:
        """Return the context of forward passes without gradients."""
        return torch.inference_mode()

    def share(self, rows: Sequence[Example]) -> Sequence[Example]:
        """Return this rank's rows of a step."""
        return rows

    def shares(self, rows: Sequence[Example]) -> list[Sequence[Example]]:
        """Return the rows of each rank."""
        return [rows]

    def exchange(self, part: Part) -> Part:
        """Return the sums over the ranks' parts of a step; `lacking` is that of the first rank whose memory ran out."""
        return part

    def sum(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add the gradients of all ranks, so that each has the sum."""

    def number(self, tensor: Tensor) -> float:
        """Return the value of a scalar, equal on all ranks."""
        return float(tensor)

    def agree(self, signal: Signal, *, save: bool = False) -> tuple[Signal, bool]:
        """Return the speaker's request and whether it wants a checkpoint, on every rank."""
        return signal, save

    def agree_midway(self, signal: Signal) -> Signal:
        """Return the request that holds in the middle of a phase; only ranks in lockstep need to agree there."""
        return signal

    def compare(self, step: int, parameters: Iterable[nn.Parameter]) -> None:
        """Check now and then that ranks which hold whole weights hold the same ones. Raises RankError."""

    def wait(self) -> None:
        """Wait until every rank is here."""

    def part(self, work: Sequence[Item], size: Callable[[Item], int]) -> Sequence[Item]:
        """Return this rank's part of what is to be evaluated, `size` being the work of an item."""
        del size
        return work

    def parts(self, found: Result) -> list[Result]:
        """Return what the ranks have found in their parts, so that each has all of it."""
        return [found]

    def gathered(self, value: Result) -> list[Result]:
        """Return the ranks' values, in the order of the ranks."""
        return [value]

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors as one device has them, in the speaker's main memory where they are divided.

        Ranks that do not speak get none.
        """
        return dict(tensors)

    def place(self, whole: Tensor, like: Tensor) -> Tensor:
        """Return this rank's part of a whole tensor, divided as `like` is."""
        del like
        return whole

    def unite(self, model: nn.Module, *, everything: bool) -> None:
        """Put whole trained weights into the speaker's model, of which nothing is computed afterwards.

        `everything`: those that were not trained, too.
        """

    @property
    def metrics(self) -> list[event_pb2.RankMetrics]:
        """Numbers of each rank in the last step; empty for one device."""
        return []

    @property
    def alerts(self) -> list[event_pb2.Alert]:
        """What is to be said after the last step: a rank that keeps the others waiting, once."""
        return []
