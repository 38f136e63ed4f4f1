# SPDX-License-Identifier: Apache-2.0
"""Ends workers, by command, SIGTERM and SIGKILL, and removes their folders."""

import asyncio
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from finetree_api.worker.v1 import worker_pb2

from finetree_trainer.layout import Layout
from finetree_trainer.store import jobs
from finetree_trainer.store.database import Store
from finetree_trainer.workers.launch.launcher import LaunchedProcess
from finetree_trainer.workers.process import OUTPUT, Liveness, liveness

SHUTDOWN = worker_pb2.AttachResponse(command=worker_pb2.Command(kind=worker_pb2.COMMAND_KIND_SHUTDOWN))
"""The command to a worker of which nothing is needed any more."""
SHUTDOWN_SECONDS = 0.5
"""Time that a worker without a task gets after each way of ending it; all of them fit into the time to stop."""


async def terminate_after(process: LaunchedProcess, grace: float) -> None:
    """Wait for a worker's exit; send SIGTERM after its grace, and SIGKILL to its group after the grace once more."""
    for action in (process.terminate, process.kill):
        if await _died(process, grace):
            return
        action()


async def shut_down(process: LaunchedProcess) -> None:
    """End a worker that was sent the shutdown command: by SIGTERM, then by SIGKILL, and wait for its death."""
    for action in (process.terminate, process.kill):
        if await _died(process, SHUTDOWN_SECONDS):
            return
        action()
    await _died(process, SHUTDOWN_SECONDS)


async def interrupt(processes: Sequence[LaunchedProcess], grace: float) -> None:
    """Ask workers by SIGTERM to save a checkpoint and end, and wait for their deaths, `grace` seconds at most."""
    for process in processes:
        process.terminate()
    await asyncio.gather(*(_died(process, grace) for process in processes))


async def _died(process: LaunchedProcess, seconds: float) -> bool:
    with suppress(TimeoutError):
        await asyncio.wait_for(process.dead.wait(), seconds)
        return True
    return False


def stop_command(
    kind: worker_pb2.CommandKind.ValueType, *, seconds: float, save: bool = False
) -> worker_pb2.AttachResponse:
    """Build a command to end within so many seconds; `save`: a cancelled task with a checkpoint."""
    command = worker_pb2.Command(kind=kind, save_checkpoint=save)
    command.deadline.GetCurrentTime()
    command.deadline.FromNanoseconds(command.deadline.ToNanoseconds() + int(seconds * 1e9))
    return worker_pb2.AttachResponse(command=command)


def remove_folder(folder: Path, keep_in: Path | None) -> None:
    """Remove a worker's folder; its output is moved to `keep_in`, to look into a failure."""
    if keep_in is not None:
        with suppress(OSError):
            (folder / OUTPUT).replace(keep_in / OUTPUT)
    shutil.rmtree(folder, ignore_errors=True)


def remove_drafts(*folders: Path) -> None:
    """Remove what a dead worker has left half written in folders of checkpoints or artifacts.

    Workers write under a name that begins with a dot, and rename what is complete.
    """
    for folder in (each for each in folders if not each.is_symlink()):
        for draft in folder.glob(".*"):
            shutil.rmtree(draft, ignore_errors=True)
            with suppress(OSError):
                draft.unlink()


async def remove_left_drafts(store: Store, layout: Layout, kept: set[str]) -> None:
    """Remove drafts of jobs that have ended but those `kept`: earlier versions left those of killed workers.

    It looks through all jobs, in the background: a start does not wait for it.
    """
    ended = await store.read(jobs.ended)

    def remove() -> None:
        for uid in ended - kept:
            remove_drafts(layout.checkpoints(uid), *(layout.jobs / uid).glob("attempts/*/artifacts"))

    await asyncio.to_thread(remove)


def remove_stale_folders(parent: Path, known: set[str]) -> None:
    """Remove the folders of an earlier run's idle workers that are dead; idle ones end when they ask for work."""
    for folder in parent.iterdir():
        if folder.name not in known and liveness(folder) is not Liveness.ALIVE:
            shutil.rmtree(folder, ignore_errors=True)
