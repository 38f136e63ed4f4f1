# SPDX-License-Identifier: Apache-2.0
"""A worker on a node of the cluster, as the trainer knows it: alive, dead or unknown.

It is dead when its actor, which has waited for it, says so; when its lock is free and this machine has started it since
it booted, so that the kernel here holds the lock; and when its lease is over. That Ray has lost its actor or its node
proves nothing: the worker may live on behind a network that is cut.
"""

import asyncio
import fcntl
import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from finetree_trainer.scheduling.fit import NotPlacedError
from finetree_trainer.workers.process import LOCK, Liveness, WorkerOutput, liveness
from finetree_trainer.workers.ray.node import PLACE, boot_id

WITNESS_SECONDS = 2.0
"""Time that the actor gets to say how a worker ended whose lock is free."""


def runs_here(folder: Path) -> bool:
    """Return whether the worker of a folder was started on this machine, and since its last start."""
    try:
        place = json.loads((folder / PLACE).read_text(encoding="ascii"))
        return bool(place["boot_id"]) and place["boot_id"] == boot_id()
    except (OSError, ValueError, KeyError):
        return False


def is_dead(folder: Path) -> bool:
    """Return whether the worker of a folder is proven dead by its lock."""
    return runs_here(folder) and liveness(folder) is Liveness.DEAD


class RayProcess(WorkerOutput):
    """A worker's process; `send` signals it through its actor, now or when the cluster answers again.

    `node`: the name of the node on which it is to start; "" for one of an earlier run of the service.
    """

    def __init__(self, folder: Path, pid: int, send: Callable[["RayProcess"], None], *, node: str = "") -> None:
        super().__init__(folder)
        self.node = node
        self.pid, self.exit, self.reason = pid, "", ""
        self.overran = self.signalled = self.killed = False
        self.dead = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._send = send
        self._placed: asyncio.Future[None] = self._loop.create_future()

    async def placed(self) -> None:
        """Wait until it runs. Raises NotPlacedError where it cannot be started now."""
        await asyncio.shield(self._placed)

    def on_placed(self, pid: int) -> None:
        """Note that it runs."""
        self.pid = pid
        if not self._placed.done():
            self._placed.set_result(None)
        self.watch_lock()

    def on_refused(self, why: str) -> None:
        """Note that it was not started, and so is nowhere."""
        self.exit = why
        self.dead.set()
        if not self._placed.done():
            self._placed.set_exception(NotPlacedError(why))
            self._placed.exception()  # whoever began it may have ended meanwhile

    def on_exited(self, how: str, *, overran: bool) -> None:
        """Note what the actor has seen."""
        self.exit, self.overran = how, overran
        self.dead.set()

    def on_lost(self) -> None:
        """Note that Ray has its actor no more: which proves nothing."""
        self.exit = self.exit or "its node or its actor was lost"

    def watch_lock(self) -> None:
        """Wait for its lock, where that proves something."""
        if runs_here(self.folder):
            threading.Thread(target=self._await_lock, name=f"worker-{self.folder.name}", daemon=True).start()

    def _await_lock(self) -> None:
        try:
            lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        finally:
            os.close(lock)
        with suppress(RuntimeError):  # the service has stopped meanwhile
            self._loop.call_soon_threadsafe(self._loop.call_later, WITNESS_SECONDS, self.dead.set)

    def activity(self) -> tuple[int, ...] | None:
        """Nothing is known of what it does."""
        return None

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal()

    def kill(self) -> None:
        """End it and everything in its process group."""
        self.killed = True
        self._signal()

    def give_up(self) -> None:
        """End it if that can be; its lease is over, and whatever it still says is refused by its attempt's secret."""
        self.kill()
        self.dead.set()

    def _signal(self) -> None:
        if not self.dead.is_set():
            self.signalled = True
            self._send(self)
