# SPDX-License-Identifier: Apache-2.0
"""Programs that are recorded: the service under two clients, and a worker; both mark what they have acknowledged.

`python power_workloads.py service|worker FOLDER`. A mark is a line of JSON in FOLDER/.marks.
"""

import asyncio
import hashlib
import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parents[1]
sys.path[:0] = [str(each) for each in (HERE, HERE.parent / "campaign", TESTS / "contract/trainer", TESTS)]


class Marks:
    """Writes marks; each is one write, after what it says has been acknowledged."""

    def __init__(self, root: Path) -> None:
        self._file = os.open(root / ".marks", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __call__(self, kind: str, **fields: object) -> None:
        os.write(self._file, (json.dumps({"kind": kind} | fields) + "\n").encode())


async def serve(root: Path, mark: Marks) -> None:
    """Two datasets, one of them in two calls; three jobs, one cancelled; a dataset deleted."""
    from finetree_api.trainer.v1 import dataset_pb2
    from harness import ROWS, jsonl, trainer, write_whole_script

    # Workers that the service itself starts, without the recorder: one forked here would write into the same record.
    command = write_whole_script(root.parent, {"steps": 12, "delay": 0.005})
    async with trainer(root.parent, worker_command=command, data_dir=root, cpu_slots=2) as talk:

        async def follow(name: str) -> None:
            async for batch in talk.stub.WatchJob(watch(name)):
                for event in batch.events:
                    content = hashlib.sha256(event.SerializeToString(deterministic=True)).hexdigest()
                    mark("event", job=name.rpartition("/")[2], seq=event.seq, sha256=content)

        async def upload(count: int) -> str:
            content = jsonl(ROWS[:count])
            made = await talk.create_dataset(content)
            mark("dataset", uid=made.uid)
            half = len(content) // 2
            for pieces in ([(0, content[:half])], [(half, content[half:])]):
                shown = await talk.write(made.name, pieces)
                ready = shown.state == dataset_pb2.DATASET_STATE_READY
                mark("upload", uid=made.uid, committed=shown.committed_bytes, ready=ready, sha256=shown.sha256)
            return made.name

        async def job(dataset: str, number: int) -> None:
            made = await talk.train(dataset=dataset, request_id=f"r{number}")
            mark("job", uid=made.uid, request=f"r{number}")
            following = asyncio.create_task(follow(made.name))
            if number == 2:
                await talk.until(made.name, lambda event: event.step_metrics.step >= 3)
                await talk.cancel(made.name)
                mark("cancel", uid=made.uid)
            await following

        first, second = await upload(5), await upload(9)
        await asyncio.gather(job(first, 1), job(second, 2))
        await job(first, 3)
        mark("deleting", uid=second.rpartition("/")[2])
        await talk.stub.DeleteDataset(dataset_pb2.DeleteDatasetRequest(name=second))
        mark("deleted", uid=second.rpartition("/")[2])


def watch(name: str):
    from finetree_api.trainer.v1 import event_log_pb2

    return event_log_pb2.WatchJobRequest(name=name)


def work(root: Path, mark: Marks) -> None:
    """A run of scripted training with the shipped journal, folders and sealing."""
    from finetree_api.worker.v1 import worker_pb2
    from finetree_worker.control import Signal
    from finetree_worker.events.journal import Journal
    from finetree_worker.events.reporter import JournalReporter
    from finetree_worker.process import outcome, runner
    from scripted_training import Core

    (root.parent / "rows").write_bytes(b"rows")
    attempt = root / "jobs/j/attempts/1"
    task = worker_pb2.Task(job="projects/p/jobs/j", attempt=1, dataset_file=str(root.parent / "rows"))
    task.folders.work_dir, task.folders.artifact_dir = str(attempt), str(attempt / "artifacts")
    task.folders.checkpoint_dir = str(root / "jobs/j/checkpoints")

    class Control:
        def poll(self) -> Signal:
            return Signal.NONE

    journal = Journal(attempt)
    reporter = JournalReporter(journal, attempt=1, on_written=lambda: None, on_phase=lambda _: None)

    class Marking:
        def emit(self, payload, **more: object) -> None:
            reporter.emit(payload, **more)
            kind = type(payload).__name__
            if kind == "CheckpointSaved":
                mark("checkpoint", step=payload.step, seq=journal.last_seq)
            elif kind == "ArtifactReady":
                mark("artifact", sha256=payload.artifact.sha256, seq=journal.last_seq)

    summary = Core().train(task, runner.Sealing(Marking(), task), Control())
    assert reporter.finish(outcome.succeeded(summary))
    mark("outcome", seq=journal.last_seq)
    journal.close()


if __name__ == "__main__":
    place = Path(sys.argv[2])
    if sys.argv[1] == "service":
        asyncio.run(serve(place, Marks(place)))
    else:
        work(place, Marks(place))
