# SPDX-License-Identifier: Apache-2.0
"""Weights & Biases: a folder that `wandb sync` uploads, for each job that has ended.

The library writes the folder, in a process of its own, and keeps runs that cannot be changed afterwards: therefore a
run is written once, from the whole log, and takes its place by a rename. Steps that a later attempt repeats have the
later attempt's values, since a run's steps only go up.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetree_api.trainer.v1 import event_pb2, job_pb2

from finetree_cli.sinks import wandb_program
from finetree_cli.sinks.delivery import Comparison, Delivered, RefusedError, UnreachableError
from finetree_cli.sinks.mlflow import settings_of, tags_of, values_of

SECONDS = 300.0
"""Longest time that the library may take for a run."""
_PREFIX = "offline-run-"


def rows_of(events: Sequence[event_pb2.JobEvent]) -> list[dict[str, Any]]:
    """List what a run logs, a row for each step, in order; of repeated steps the last attempt's."""
    rows: dict[int, dict[str, Any]] = {}
    for event in events:
        if event.WhichOneof("payload") == "attempt_started":
            restored = event.attempt_started.restored_step
            rows = {step: row for step, row in rows.items() if step <= restored}
        for value in values_of(event):
            row = rows.setdefault(value.step, {"step": value.step, "time": value.timestamp / 1000, "values": {}})
            row["values"][value.key] = value.value
    return [rows[step] for step in sorted(rows)]


@dataclass(frozen=True, slots=True)
class WandbFolder:
    """Offline runs of W&B in a folder."""

    folder: Path
    project: str = "finetree"
    entity: str = ""
    python: str = ""
    """Interpreter that has the library; empty: the one that runs this."""
    kinds: Sequence[str] = ("step_metrics", "eval_metrics", "attempt_started")
    whole: bool = True

    def reached(self, job: job_pb2.Job, seq: int) -> int:
        """A run is there or not; what is noted counts."""
        del job
        return seq

    def deliver(self, job: job_pb2.Job, events: Sequence[event_pb2.JobEvent], remote: str) -> Iterator[Delivered]:
        """Write the run beside its place, then give it its place."""
        del remote
        if job.WhichOneof("task") == "train":
            place = self.folder / "wandb" / self._name(job)
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(prefix=".draft-", dir=self.folder) as draft:
                    made = self._write(job, events, Path(draft))
                    shutil.rmtree(place, ignore_errors=True)
                    made.rename(place)
            except OSError as error:
                raise UnreachableError(f"cannot be written: {error.strerror or error}") from error
        yield Delivered(job.last_seq, job.uid)

    def compare(self, job: job_pb2.Job, events: Sequence[event_pb2.JobEvent], remote: str) -> Comparison | None:
        """The run is there; what is in it is the library's format, which it alone reads."""
        del events, remote
        if not (self.folder / "wandb" / self._name(job)).is_dir():
            raise RefusedError("has no run of this job")
        return None

    def _name(self, job: job_pb2.Job) -> str:
        return f"{_PREFIX}{job.create_time.ToDatetime():%Y%m%d_%H%M%S}-{job.uid}"

    def _write(self, job: job_pb2.Job, events: Sequence[event_pb2.JobEvent], draft: Path) -> Path:
        """Have the library write the run, and return its folder."""
        run = {
            "folder": str(draft),
            "id": job.uid,
            "name": job.display_name or job.uid,
            "project": self.project,
            "entity": self.entity,
            "config": settings_of(job) | tags_of(job),
            "rows": rows_of(events),
            "exit_code": 0 if job.state == job_pb2.JOB_STATE_SUCCEEDED else 1,
        }
        python = self.python or sys.executable
        # Its own settings could send the run away, or write elsewhere; the key it never needs.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        try:
            done = subprocess.run(
                [python, wandb_program.__file__],
                input=json.dumps(run).encode(),
                capture_output=True,
                timeout=SECONDS,
                env=environment,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise UnreachableError(f"the library did not end within {SECONDS:.0f} s") from error
        if done.returncode == wandb_program.MISSING:
            raise UnreachableError(
                "wandb is not installed; pip install wandb, or name an interpreter that has it: python"
            )
        found = sorted(draft.glob(f"wandb/{_PREFIX}*"))
        if done.returncode or len(found) != 1:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise UnreachableError(f"the library failed: {lines[-1] if lines else f'exit code {done.returncode}'}")
        return found[0]
