# SPDX-License-Identifier: Apache-2.0
"""What a replica does to lead the cluster: it tells workers and nodes so, and ends what the one before has left."""

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path

from finetree_data.exchange.leader_file import SCHEME, Leader
from finetree_runtime.server.logging import get_logger

from finetree_trainer.disk import private_folder

LOOK_SECONDS = 5.0
"""Pause between two looks at the file."""
LAST_WORKER_SECONDS = 120.0
"""Time after which a replica that led before starts no worker any more, those among them that a node is late with."""


class Leading:
    """This process as one that leads a cluster, or will. `alone`: it has no other replicas, and needs no file."""

    def __init__(self, file: Path, worker_address: str, *, alone: bool) -> None:
        self._file, self._alone = file, alone
        self._leader = Leader("" if alone else secrets.token_hex(8), worker_address)

    @property
    def mark(self) -> dict[str, str]:
        """By what a node knows whether this process leads: arguments of `leads`."""
        return {"name": self._leader.name, "file": str(self._file.absolute())}

    @property
    def address(self) -> str:
        """Where workers find the replica that leads."""
        return self._leader.address if self._alone else f"{SCHEME}{self._file.absolute()}"

    def begin(self) -> None:
        """Tell workers and nodes that this process leads. Blocks; raises OSError."""
        if not self._alone:
            private_folder(self._file.parent)
            self._leader.write(self._file)

    async def run(self, require_lead: Callable[[], None], end_strays: Callable[[], None]) -> None:
        """Keep the file this process's, since one that led before may write it last; until cancelled.

        `require_lead` raises where this process leads no more. `end_strays` ends workers that it knows nothing of.
        """
        began = asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if await asyncio.to_thread(self._is_ours):
                if began and asyncio.get_running_loop().time() - began > LAST_WORKER_SECONDS:
                    began = 0.0
                    end_strays()
                continue
            await asyncio.to_thread(require_lead)
            await asyncio.to_thread(self.begin)
            get_logger().warning("leader_file_taken_back")

    def _is_ours(self) -> bool:
        try:
            return Leader.read(self._file) == self._leader
        except OSError:
            return False
