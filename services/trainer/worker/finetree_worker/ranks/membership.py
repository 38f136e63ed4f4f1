# SPDX-License-Identifier: Apache-2.0
"""A rank's place among the others: its number, its device, and the process group that they talk in.

Ranks meet at a file in a private folder and talk over the loopback interface: gloo on CPUs, NCCL on GPUs. Nothing
listens where another machine could reach it.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from finetree_worker.control import Control, Signal

LONGEST_WAIT = timedelta(minutes=30)
"""How long ranks wait for one another in a message: ends a deadlock. One that stands still is found long before."""
_STORE = "store"
_POLL_SECONDS = 0.1
_LOOPBACK = "lo"
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


class Membership:
    """One rank's membership in a process group. `folder` is private to the ranks of one attempt."""

    def __init__(
        self,
        rank: int,
        count: int,
        *,
        kind: str,
        folder: Path,
        device_ids: Sequence[str] = (),
        alive: Callable[[], None],
    ) -> None:
        """`alive` raises RankError where another rank is known to be lost; it is called during waits."""
        self.rank, self.count = rank, count
        self.device_ids = list(device_ids)
        self.device = torch.device("cuda", rank) if kind == "cuda" else torch.device("cpu")
        self.backend = "nccl" if kind == "cuda" else "gloo"
        self._alive, self._folder = alive, folder

    def join(self) -> None:
        """Form the group, once all ranks have come. Raises RankError."""
        self.mark("here")
        self.wait_for("here", self.count)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        with _over_loopback():
            dist.init_process_group(
                self.backend,
                store=FileStore(str(self._folder / _STORE), self.count),
                rank=self.rank,
                world_size=self.count,
                timeout=LONGEST_WAIT,
                device_id=self.device if self.device.type == "cuda" else None,
            )

    def leave(self) -> None:
        """Leave the group."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def abort(self) -> None:
        """Make messages that wait for a lost rank fail: gloo's fail by themselves, since its connections close."""
        if self.backend == "nccl" and dist.is_initialized():
            dist.distributed_c10d._abort_process_group()  # noqa: SLF001 - torch has no public name for it yet

    def mark(self, place: str) -> None:
        """Note that this rank has come to a place."""
        (self._folder / f"{place}-{self.rank}").touch()

    def wait_for(self, place: str, ranks: int = 1) -> None:
        """Wait until the first `ranks` ranks have come to a place, however long that takes. Raises RankError."""
        while not all((self._folder / f"{place}-{rank}").exists() for rank in range(ranks)):
            self._alive()
            time.sleep(_POLL_SECONDS)

    def watched(self, control: Control) -> Control:
        """Return a control that raises RankError where another rank is lost, before it asks the given one."""
        return _Watched(control, self._alive)


class _Watched:
    def __init__(self, control: Control, alive: Callable[[], None]) -> None:
        self._control, self._alive = control, alive

    def poll(self) -> Signal:
        self._alive()
        return self._control.poll()


@contextmanager
def _over_loopback() -> Iterator[None]:
    """Have gloo and NCCL listen on the loopback interface alone; they read it when a group is formed."""
    before = {name: os.environ.get(name) for name in _INTERFACES}
    os.environ.update(dict.fromkeys(_INTERFACES, _LOOPBACK))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def never_lost() -> None:
    """Return: a rank that does not speak ends with the speaker's process, and watches nobody."""
