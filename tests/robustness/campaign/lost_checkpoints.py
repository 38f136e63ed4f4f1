# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC110 - what is waited for is an upload of another process
"""Real training that loses its checkpoints in the middle, beside a run that nothing interrupts."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from campaign.campaign import Client, Service, rows, tiny_training
from campaign.history import History, violations
from finetree_api.trainer.v1 import event_pb2, job_pb2
from preloaded import Preloaded

STEPS = 120
"""So many that the run goes on for seconds after its first checkpoint is uploaded."""


class LostCheckpoints:
    """A trainer with real workers and an object store, and the run that loses its checkpoints.

    `programs`: what runs the trainer and the workers; `settings` are the trainer's.
    """

    def __init__(self, folder: Path, programs: list[Preloaded], object_store, **settings: object) -> None:
        self.folder, self._store, self._bucket = folder, object_store, object_store.new_bucket()
        settings["object_store"] = f"s3://{self._bucket}/finetree"
        settings["object_store_options_file"] = object_store.options_file(folder)
        trainer, worker = (each.wait() for each in programs)
        self.service, self._history = Service(folder, trainer, worker, **settings), History()
        worker.make_tiny_model(folder / "models/small")
        self._client = Client(self.service, self._history, 1, content=rows)
        self._client.template = {"model": "small", "task": tiny_training(STEPS, every=10)}

    def stored(self, job: str) -> list[int]:
        """Steps of a job's checkpoints that are whole in the store."""
        below = f"finetree/manifests/jobs/{job.rpartition('/')[2]}/checkpoints/"
        return [int(key[-13:-5]) for key in self._store.keys(self._bucket) if key.startswith(below)]

    def checkpoints(self, job: str) -> Path:
        """The folder of a job's checkpoints."""
        return self.folder / "data/jobs" / job.rpartition("/")[2] / "checkpoints"

    async def run(self, lose: Callable[[str], Awaitable[None]]) -> int:
        """Train alone, then with `lose` after the first upload, to the same weights; the step it went on from."""
        client = self._client
        assert await self.service.start()
        try:
            dataset = await client.upload(rows(1))
            whole = await client.create(dataset, "whole")
            wanted = await client.download(await client.follow(whole))
            job = await client.create(dataset, "interrupted")
            async with asyncio.timeout(120):
                while not self.stored(job):
                    await asyncio.sleep(0.02)
            await lose(job)
            events = await client.follow(job)
            assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED, events[-1].message
            began = [event.attempt_started for event in events if event.kind == event_pb2.EVENT_KIND_ATTEMPT_STARTED]
            assert len(began) == 2
            assert await client.download(events) == wanted
            for name in (whole, job):
                await client.whole(name)
        finally:
            await self.service.kill()
        assert not violations(self._history)
        return began[-1].restored_step
