# SPDX-License-Identifier: Apache-2.0
"""Workers as processes of this machine."""

import sys
from pathlib import Path

from finetree_trainer.settings import Settings
from finetree_trainer.workers.confinement import WorkerConfinement
from finetree_trainer.workers.launch.launcher import TOKEN_VARIABLE, Order
from finetree_trainer.workers.process import Liveness, Process, liveness


def worker_command(settings: Settings) -> tuple[str, ...]:
    """The program that runs a task."""
    return settings.worker_command or (sys.executable, "-m", "finetree_worker")


class LocalLauncher:
    """Starts workers beside the service; `threads` is the number that their libraries begin with."""

    keeps_idle = True

    def __init__(self, settings: Settings, confinement: WorkerConfinement, *, threads: int) -> None:
        self._settings, self._confinement, self._threads = settings, confinement, threads

    def start(self, folder: Path, order: Order) -> Process:
        """Start a worker. Raises OSError; then nothing of it is left."""
        layout = self._confinement.layout
        arguments = ["--socket", f"unix:{layout.worker_socket}", "--idle", *(["--measure"] if order.measure else [])]
        variables = self._confinement.environment(folder, **order.reach, threads=self._threads)
        command = [*worker_command(self._settings), *arguments]
        return Process.start(command, variables | {TOKEN_VARIABLE: order.token}, folder, layout.user)

    def find(self, folder: Path, pid: int) -> tuple[Liveness, Process | None]:
        """Find the worker of a folder again, by its lock."""
        alive = liveness(folder)
        return alive, Process.adopt(folder, pid) if alive is Liveness.ALIVE else None
