# SPDX-License-Identifier: Apache-2.0
"""Processes that take part in one group after another: libraries are imported once for many tests.

Run as a program it is a rank other than 0; the test process is rank 0. Orders and answers are pickled, and come through
the standard streams.
"""

import base64
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

CLEAR = ("OMP_NUM_THREADS", "1")


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
            child.stdin.close()  # type: ignore[union-attr]
            child.wait(30)
            child.stdout.close()  # type: ignore[union-attr]


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
