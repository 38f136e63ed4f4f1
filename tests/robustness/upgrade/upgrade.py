# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402, T201 - the harness is found by its folder; a program that says what it has seen
"""Upgrades a trainer while it works: `python tests/robustness/upgrade/upgrade.py [FOLDER]` (`make upgrade`).

Installs the previous release and this tree side by side, has the previous one finish a job, run a second and queue a
third, and starts this one on its folder: after SIGTERM, after kill -9 of the service, and after kill -9 of everything;
once, the job that runs is paused and resumed then. Then the way back: the previous release must refuse the folder and
change nothing of it, and go on from the backup that was made before the upgrade. Prints what was seen, one JSON object
on a line, and ends at the first promise that is broken.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(each) for each in (TESTS / "contract" / "trainer", Path(__file__).parent, TESTS)]

import grpc.aio
from finetree_api.trainer.v1 import event_log_pb2, event_pb2, job_pb2, trainer_pb2_grpc
from harness import OPTIONS, ROWS, Talker, assert_whole, folders, jsonl, states, steps
from releases import PREVIOUS, Release, install

STEP = event_pb2.EVENT_KIND_STEP_METRICS
WORKER = Path(__file__).with_name("scripted_worker.py")
STEPS = 300
"""Steps of the job that runs through the upgrade."""
HELD = 35
"""Step before which it waits for the new release."""
EVERY = 10
"""Steps between two of its checkpoints (scripted_worker.py)."""


@dataclass(slots=True)
class Trainer:
    """A trainer of one release after another on one folder."""

    folder: Path
    process: "subprocess.Popen[bytes] | None" = None
    channel: grpc.aio.Channel | None = None
    logs: Path = field(init=False)

    def __post_init__(self) -> None:
        folders(self.folder)
        self.logs = self.folder / "trainer.log"

    @property
    def database(self) -> Path:
        return self.folder / "data" / "trainer.db"

    def script(self, count: int, *, hold: int = 0) -> None:
        """What workers do from now on; replaced as a whole, since they read it before every step."""
        draft = self.folder / "script.draft"
        draft.write_text(json.dumps({"steps": count, "hold": hold}))
        draft.replace(self.folder / "script.json")

    def launch(self, release: Release) -> None:
        (self.folder / "ready.json").unlink(missing_ok=True)
        flags = {
            "address": "127.0.0.1:0",
            "data-dir": self.folder / "data",
            "model-roots": self.folder / "models",
            "data-roots": self.folder / "rows",
            "worker-command": f"{release.python},{WORKER},{self.folder / 'script.json'}",
            "estimator-address": "127.0.0.1:1",
            "worker-heartbeat": "2s",
            "drain-time": "2s",
            "exit-grace": "1s",
            "ready-file": self.folder / "ready.json",
        }
        words = [f"--{name}={value}" for name, value in flags.items()]
        with self.logs.open("ab") as log:
            self.process = subprocess.Popen(
                [str(release.python), "-m", "finetree_trainer", *words, "--no-prewarm"], stdout=log, stderr=log
            )

    async def start(self, release: Release) -> Talker:
        self.launch(release)
        assert self.process is not None
        async with asyncio.timeout(60):
            while not (self.folder / "ready.json").exists():
                assert self.process.poll() is None, self.logs.read_text()[-2000:]
                await asyncio.sleep(0.05)
        address = json.loads((self.folder / "ready.json").read_text())["address"]
        self.channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        return Talker(trainer_pb2_grpc.TrainerServiceStub(self.channel))

    async def end(self, number: signal.Signals) -> None:
        assert self.process is not None
        if self.channel is not None:
            await self.channel.close()
        self.process.send_signal(number)
        await asyncio.to_thread(self.process.wait, 60)

    def kill_workers(self) -> None:
        for note in (self.folder / "data" / "workers").glob("*/process.json"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.killpg(json.loads(note.read_text())["pid"], signal.SIGKILL)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.kill_workers()


@contextlib.asynccontextmanager
async def trainer_in(folder: Path) -> AsyncIterator[Trainer]:
    made = Trainer(folder)
    try:
        yield made
    finally:
        made.close()


async def watched(talk: Talker, name: str, last: int) -> tuple[list[event_pb2.JobEvent], str]:
    """Events up to a step, and the cursor after them."""
    found: list[event_pb2.JobEvent] = []
    call = talk.stub.WatchJob(event_log_pb2.WatchJobRequest(name=name))
    async with asyncio.timeout(60):
        async for batch in call:
            found.extend(batch.events)
            if any(event.kind == STEP and event.step_metrics.step >= last for event in found):
                call.cancel()
                return found, batch.cursor
    raise AssertionError(f"the stream of {name} ended")


async def after(talk: Talker, name: str, cursor: str) -> list[event_pb2.JobEvent]:
    found: list[event_pb2.JobEvent] = []
    async with asyncio.timeout(120):
        async for batch in talk.stub.WatchJob(event_log_pb2.WatchJobRequest(name=name, cursor=cursor)):
            found.extend(batch.events)
    return found


async def upgrade(folder: Path, old: Release, new: Release, *, how: str) -> dict[str, Any]:
    """One upgrade. `how`: "stopped" (SIGTERM), "killed" (kill -9 of the service) "lost" (of the workers too), or
    "paused" (SIGTERM, and the job that runs is paused and resumed by this release)."""
    async with trainer_in(folder) as running:
        running.script(5)
        talk = await running.start(old)
        before_schema = schema_of(running.database)
        dataset = (await talk.upload(jsonl(ROWS))).name
        ended = await talk.train(dataset=dataset, request_id="ended")
        history = await talk.events(ended.name)
        running.script(STEPS, hold=HELD)
        busy = await talk.train(dataset=dataset, request_id="busy")
        waiting = await talk.train(dataset=dataset, request_id="waiting")
        seen, cursor = await watched(talk, busy.name, 25)
        await running.end(signal.SIGTERM if how in ("stopped", "paused") else signal.SIGKILL)
        if how == "lost":
            running.kill_workers()
        backups = folder / "backups"
        backup(new, "create", backups, "--data-dir", folder / "data")

        talk = await running.start(new)
        assert await talk.events(ended.name) == history, "the history of an ended job is another one"
        if how == "paused":  # a command of this release to a worker of the previous one
            await talk.pause(busy.name)
            await talk.until(busy.name, lambda e: e.state_changed.current == job_pb2.JOB_STATE_PAUSED, 60)
            await talk.resume(busy.name)
        running.script(STEPS)
        rest = await after(talk, busy.name, cursor)
        events = seen + rest
        assert_whole(events)
        attempts = {attempt for attempt, _ in steps(events)}
        if how in ("lost", "paused"):
            assert attempts == {1, 2}, states(events)
            assert [step for attempt, step in steps(events) if attempt == 2][-1] == STEPS
        else:  # the worker of the previous release attached to this one, and lost no step
            assert steps(events) == [(1, step) for step in range(1, STEPS + 1)]
        assert_whole(await talk.events(waiting.name))
        assert (await talk.train(dataset=dataset, request_id="busy")).name == busy.name
        after_schema = schema_of(running.database)
        assert (await talk.upload(jsonl(ROWS))).name == dataset
        await running.end(signal.SIGTERM)

        refusal = refused(running, old) if after_schema > before_schema else ""
        if how == "stopped":
            backup(new, "restore", backups, "--to", folder / "back" / "data")
            await rolled_back(folder / "back", old, history, busy.name, seen)
        return {
            "how": how,
            "schema": [before_schema, after_schema],
            "events_before": len(seen),
            "events": len(events),
            "attempts": len(attempts),
            "way_back": refusal,
        }


async def rolled_back(
    folder: Path, old: Release, history: list[event_pb2.JobEvent], busy: str, seen: list[event_pb2.JobEvent]
) -> None:
    """Start the previous release on the backup that was made before the upgrade: it goes on from there."""
    async with trainer_in(folder) as running:
        running.script(STEPS)
        talk = await running.start(old)
        assert await talk.events(history[0].job) == history
        events = await talk.events(busy)
        assert_whole(events)
        assert events[: len(seen)] == seen
        restored = next(
            e.attempt_started.restored_step for e in events if e.attempt == 2 and e.HasField("attempt_started")
        )
        assert restored >= EVERY, "it began anew in place of at its newest checkpoint"
        await running.end(signal.SIGTERM)


def backup(release: Release, *words: object) -> None:
    """Run a release's backup program."""
    command = [str(release.python), "-m", "finetree_trainer.backup", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def refused(running: Trainer, old: Release) -> str:
    """Start the previous release on the folder; return its last line, having seen that it changed nothing."""
    before = contents(running.folder / "data")
    running.logs.write_bytes(b"")
    running.launch(old)
    assert running.process is not None
    assert running.process.wait(60) == 2, running.logs.read_text()[-2000:]
    assert contents(running.folder / "data") == before, "the refused release has changed the folder"
    line = running.logs.read_text().strip().splitlines()[-1]
    assert line.startswith("DATA_DIR_TOO_NEW: "), line
    return line


def contents(folder: Path) -> dict[str, str]:
    """Hash by path of everything in a folder but what SQLite keeps beside a database."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in (".db-shm", ".db-wal")
    }


def schema_of(database: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()[0])


async def main(folder: Path) -> None:
    old, new = install(folder / "previous", commit=PREVIOUS), install(folder / "this")
    for how in ("stopped", "killed", "lost", "paused"):
        print(json.dumps(await upgrade(folder / how, old, new, how=how)), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(main(Path(sys.argv[1]).resolve()))
    else:
        place = Path(tempfile.mkdtemp(prefix="finetree-upgrade-"))
        try:
            asyncio.run(main(place))
        finally:
            shutil.rmtree(place, ignore_errors=True)
