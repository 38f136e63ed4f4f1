# SPDX-License-Identifier: Apache-2.0
"""How workers are ended: with a word, with SIGTERM, with SIGKILL; and what is done with their folders."""

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path

from finetree_api.trainer.v1 import worker_pb2

from finetree_trainer.workers.process import OUTPUT, Liveness, liveness
from finetree_trainer.workers.session import Worker

DISMISS_SECONDS = 0.5
"""Time that a needless worker gets for each way of ending it; all of them fit into the runtime's time to stop."""


async def expect_exit(worker: Worker, grace: float) -> None:
    """Give a worker its grace, then SIGTERM, then SIGKILL to all of its group."""
    process = worker.process
    if process is None:
        return
    for action in (process.terminate, process.kill):
        with suppress(TimeoutError):
            await asyncio.wait_for(process.dead.wait(), grace)
            return
        action()


async def dismiss(worker: Worker) -> None:
    """End a worker that nobody needs: with a word, with SIGTERM, with SIGKILL."""
    process = worker.process
    if process is None:
        return
    for action in (process.terminate, process.kill, lambda: None):
        with suppress(TimeoutError):
            await asyncio.wait_for(process.dead.wait(), DISMISS_SECONDS)
            return
        action()


def cancel_command(*, save: bool, seconds: float) -> worker_pb2.AttachResponse:
    """The command to stop, with a checkpoint or without, and how long it may take."""
    command = worker_pb2.Command(kind=worker_pb2.COMMAND_KIND_CANCEL, save_checkpoint=save)
    command.deadline.GetCurrentTime()
    command.deadline.FromNanoseconds(command.deadline.ToNanoseconds() + int(seconds * 1e9))
    return worker_pb2.AttachResponse(command=command)


def remove_folder(folder: Path, keep_in: Path | None) -> None:
    """Remove a worker's folder; its output goes to `keep_in`, for whoever looks into a failure."""
    if keep_in is not None:
        with suppress(OSError):
            (folder / OUTPUT).replace(keep_in / OUTPUT)
    shutil.rmtree(folder, ignore_errors=True)


def sweep_folders(parent: Path, known: set[str]) -> None:
    """Remove what waiting workers of an earlier run left, once they are dead; they end as soon as they ask for work."""
    for folder in parent.iterdir():
        if folder.name not in known and liveness(folder) is not Liveness.ALIVE:
            shutil.rmtree(folder, ignore_errors=True)
