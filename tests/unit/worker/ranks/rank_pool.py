# SPDX-License-Identifier: Apache-2.0
"""Processes that take part in one group after another: libraries are imported once for many tests.

Run as a program it is a rank other than 0; the test process is rank 0. Orders and answers are pickled, and come through
the standard streams.
"""

import base64
import pickle
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch


class Silence:
    """Reporter and control of ranks other than 0."""

    def emit(self, payload: Any, *, message: str = "", level: int = 0) -> None:
        pass

    def poll(self) -> Any:
        from finetree_worker.control import Signal

        return Signal.NONE


@dataclass(frozen=True)
class Order:
    """What the ranks of a group do: a function of this module, by name, with the ranks, the plan and the reporter."""

    what: str
    count: int
    sharding: str
    folder: Path
    plan: Any
    rank: int = 0


def perform(order: Order, reporter: Any = None) -> Any:
    """Take part in a group as one of its ranks."""
    from finetree_worker.plan import Sharding
    from finetree_worker.ranks.join import join
    from finetree_worker.ranks.membership import Membership, never_lost

    member = Membership(order.rank, order.count, kind="cpu", folder=order.folder, alive=never_lost)
    with join(member, Sharding(order.sharding)) as ranks:
        action: Callable[..., Any] = globals()[order.what]
        return action(ranks, order.plan, reporter or Silence())


def train(ranks: Any, plan: Any, reporter: Any) -> Any:
    from finetree_worker.training.run import train

    return train(plan, reporter, reporter, ranks=ranks)


def held(ranks: Any, plan: Any, _: Any) -> tuple[int, int, int, int]:
    """Bytes of this rank's weights and optimizer states, number of divided weights and of all."""
    import torch
    from finetree_worker.training import optimizers
    from finetree_worker.training.run import adapt, load, trainable
    from torch.distributed.tensor import DTensor

    def held_bytes(tensors: Any) -> int:
        return sum((each.to_local() if isinstance(each, DTensor) else each).nbytes for each in tensors)

    cpu = torch.device("cpu")
    adapted, subject = adapt(plan, load(plan, cpu), cpu)
    ranks.shard(subject.model)
    optimizer = optimizers.build(trainable(adapted).values(), plan.optimization, cpu)
    for parameter in trainable(adapted).values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    states = [tensor for state in optimizer.state.values() for tensor in state.values()]
    parameters = list(adapted.parameters())
    return held_bytes(parameters), held_bytes(states), sum(isinstance(p, DTensor) for p in parameters), len(parameters)


def gathered(ranks: Any, plan: Any, reporter: Any) -> tuple[list[str], list[str]]:
    """Train; the modules that are divided by themselves, and those of them that were gathered on this rank."""
    from finetree_worker.training.run import train
    from torch.distributed.fsdp import FSDPModule

    units: dict[str, Any] = {}
    shard = ranks.shard

    def observed(model: Any) -> None:
        shard(model)
        units.update({name: module for name, module in model.named_modules() if isinstance(module, FSDPModule)})
        for name, module in units.items():
            group = module._get_fsdp_state()._fsdp_param_group
            if group is not None:
                group.unshard = counted(name, group.unshard)

    seen: list[str] = []

    def counted(name: str, unshard: Any) -> Any:
        def gather(*arguments: Any, **named: Any) -> Any:
            seen.append(name)
            return unshard(*arguments, **named)

        return gather

    ranks.shard = observed
    train(plan, reporter, reporter, ranks=ranks)
    return sorted(units), sorted(set(seen))


def short_of_memory(
    ranks: Any, plan: Any, reporter: Any, *, least: int = 2, lacking: Sequence[int] = (1,), since: int = 2
) -> Any:
    """Train, with memory for fewer than `least` rows at once on the ranks `lacking`, from the step `since` on."""
    import torch
    from finetree_worker.training.gradients import Gradients

    whole = Gradients.one

    def one(self: Any, step: int, documents: Any, targets: int, **named: Any) -> Any:
        if ranks.rank in lacking and step >= since and len(documents) >= least:
            raise torch.OutOfMemoryError("not here")
        return whole(self, step, documents, targets, **named)

    Gradients.one = one  # type: ignore[method-assign]  # a device that is too small
    try:
        return train(ranks, plan, reporter)
    finally:
        Gradients.one = whole  # type: ignore[method-assign]  # likewise


def short_of_memory_everywhere(ranks: Any, plan: Any, reporter: Any) -> Any:
    """Do so with this little memory on every rank, from a step on in which each has two rows; end as a worker does.

    Nobody waits for another one then. A worker kills a rank that does, and this pool lives on.
    """
    from finetree_worker.ranks.halving import halves_next

    with halves_next(plan, reporter) if ranks.speaks else nullcontext():
        return short_of_memory(ranks, plan, reporter, lacking=(0, 1), since=1)


def out_of_memory(ranks: Any, plan: Any, reporter: Any) -> Any:
    return short_of_memory(ranks, plan, reporter, least=1)


def slow(ranks: Any, plan: Any, reporter: Any) -> Any:
    """Train on ranks that are judged every six steps; rank 1 takes 0.3 s more for each micro-batch."""
    from finetree_worker.ranks import straggler
    from finetree_worker.training.gradients import Gradients

    whole = Gradients.one

    def one(self: Any, step: int, documents: Any, targets: int, **named: Any) -> Any:
        if ranks.rank == 1:
            time.sleep(0.3)  # a slower device
        return whole(self, step, documents, targets, **named)

    with patch.object(Gradients, "one", one), patch.object(straggler, "WINDOW", 6):
        ranks._stragglers = straggler.Stragglers()  # of the shorter window
        return train(ranks, plan, reporter)


def differing(ranks: Any, plan: Any, reporter: Any) -> Any:
    """Train, with one bit of rank 2's weights flipped before the first step."""
    import torch
    from finetree_worker.ranks import replicated

    whole = replicated.COMPARE_EVERY
    replicated.COMPARE_EVERY = 2
    shard = type(ranks).shard

    def flip(self: Any, model: Any) -> None:
        if self.rank == 2:
            first = next(p for p in model.parameters() if p.requires_grad)
            first.data.view(torch.int32).view(-1)[3] ^= 1
        shard(self, model)

    type(ranks).shard = flip
    try:
        return train(ranks, plan, reporter)
    finally:
        type(ranks).shard, replicated.COMPARE_EVERY = shard, whole


class Pool:
    """Three other ranks."""

    def __init__(self) -> None:
        self._children = [
            subprocess.Popen(
                [sys.executable, __file__, str(rank)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for rank in (1, 2, 3)
        ]
        self._groups = 0

    def run(self, what: str, plan: Any, reporter: Any, *, count: int, sharding: str, folder: Path) -> list[Any]:
        """Perform on `count` ranks; returns what each returned, or raises the first rank's own error."""
        self._groups += 1
        own = folder / f"group-{self._groups}"
        own.mkdir(parents=True)
        order = Order(what, count, sharding, own, plan)
        others: Sequence[Any] = self._children[: count - 1]
        for rank, child in enumerate(others, start=1):
            child.stdin.write(base64.b64encode(pickle.dumps(replace(order, rank=rank))).decode() + "\n")
            child.stdin.flush()
        failed: BaseException | None = None
        found = None
        try:
            found = perform(order, reporter)
        except BaseException as error:  # noqa: BLE001 - the others' answers are read first
            failed = error
        answers = [pickle.loads(base64.b64decode(child.stdout.readline())) for child in others]
        if failed is not None:
            failed.add_note(f"other ranks: {answers}")
            raise failed
        bad = [answer for answer in answers if isinstance(answer, str)]
        assert not bad, "\n".join(bad)
        return [found, *(answer[0] for answer in answers)]

    def close(self) -> None:
        for child in self._children:
            child.stdin.close()  # type: ignore[union-attr]  # started with pipes
        for child in self._children:
            child.wait(60)
            child.stdout.close()  # type: ignore[union-attr]  # likewise


def main() -> None:
    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        order: Order = pickle.loads(base64.b64decode(line))
        try:
            answer: Any = (perform(order),)
        except BaseException:  # noqa: BLE001 - told to the test
            answer = traceback.format_exc()
        sys.stdout.write(base64.b64encode(pickle.dumps(answer)).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    # Pickles name the classes of this file by the module's name in the test process.
    sys.modules["rank_pool"] = sys.modules["__main__"]
    main()
