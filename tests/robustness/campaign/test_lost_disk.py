# SPDX-License-Identifier: Apache-2.0
"""Real training whose machine dies and loses its checkpoints: it goes on from the object store, to the same weights."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from campaign.lost_checkpoints import STEPS, LostCheckpoints


def workers(folder: Path) -> list[int]:
    """Process ids of the workers."""
    return [json.loads(note.read_text())["pid"] for note in folder.glob("data/workers/*/process.json")]


async def kill_workers(folder: Path) -> None:
    """Kill every worker, and wait until none is left; nobody starts another."""
    async with asyncio.timeout(60):
        for pid in workers(folder):
            with contextlib.suppress(ProcessLookupError):
                while True:
                    os.kill(pid, signal.SIGKILL)
                    await asyncio.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_run_whose_checkpoints_are_lost_with_the_disk_goes_on_from_the_store(tmp_path, preloaded, object_store):
    training = LostCheckpoints(tmp_path, [preloaded(kind) for kind in ("trainer", "armed")], object_store)
    newest = 0

    async def lose(job: str) -> None:
        nonlocal newest
        await training.service.kill()
        await kill_workers(tmp_path)
        shutil.rmtree(training.checkpoints(job))
        shutil.rmtree(tmp_path / "data/datasets")
        newest = max(training.stored(job))
        assert newest < STEPS
        assert await training.service.start()

    assert await training.run(lose) == newest
