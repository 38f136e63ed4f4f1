# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 - the environment comes before the imports
"""A worker of whichever release is installed, whose training is counting: `scripted_worker.py SCRIPT WORKER-ARGUMENTS`.

Everything but the training is what that release ships: process, stream, journal, folders, manifests. The script is a
JSON file with `steps` and `hold`, the step before which it waits until the script says otherwise (0: none). Every tenth
step saves a checkpoint, and a run goes on from the newest. Only what both releases have is used.
"""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from finetree_worker.process.log_capture import set_environment

set_environment()

from finetree_api.trainer.v1 import artifact_pb2, event_pb2, job_pb2
from finetree_worker.atomic_files import atomic_folder, manifest_hash, read_manifest
from finetree_worker.control import Signal
from finetree_worker.errors import Cancelled
from finetree_worker.process.process import Process, parse

EVERY = 10
"""Steps between two checkpoints."""


class CountingCore:
    """What the process asks of training."""

    def __init__(self, script: Path) -> None:
        self._script = script

    def warm_up(self) -> None:
        """Nothing is loaded."""

    def train(self, task: Any, reporter: Any, control: Any) -> event_pb2.RunSummary:
        """Count to the script's number of steps, from the newest checkpoint on."""
        script, folder = json.loads(self._script.read_text()), Path(task.folders.checkpoint_dir)
        restored = max((int(path.name.removeprefix("step-")) for path in folder.glob("step-*")), default=0)
        reason = event_pb2.ATTEMPT_REASON_RECOVERED if task.attempt > 1 else event_pb2.ATTEMPT_REASON_FIRST
        reporter.emit(event_pb2.AttemptStarted(restored_step=restored, reason=reason, engine="counting"))
        reporter.emit(event_pb2.PhaseProgress(phase=job_pb2.JOB_PHASE_TRAIN))
        for step in range(restored + 1, script["steps"] + 1):
            while True:
                if control.poll() is not Signal.NONE:
                    raise Cancelled
                if step != json.loads(self._script.read_text())["hold"]:
                    break
                time.sleep(0.05)
            reporter.emit(event_pb2.StepMetrics(step=step, total_steps=script["steps"], loss=1 / step))
            if step % EVERY == 0:
                self._save(folder, step, reporter)
        with atomic_folder(Path(task.folders.artifact_dir) / "adapter", {}) as draft:
            (draft / "weights.bin").write_bytes(b"weights")
        reporter.emit(event_pb2.ArtifactReady(artifact=artifact_pb2.Artifact(name=f"{task.job}/artifacts/adapter")))
        return event_pb2.RunSummary()

    def _save(self, folder: Path, step: int, reporter: Any) -> None:
        target = folder / f"step-{step:08d}"
        if read_manifest(target) is None:
            shutil.rmtree(target, ignore_errors=True)
            with atomic_folder(target, {"step": step}) as draft:
                (draft / "weights.bin").write_bytes(b"weights")
        reporter.emit(event_pb2.CheckpointSaved(step=step, sha256=manifest_hash(target)))


if __name__ == "__main__":
    sys.exit(Process(parse(sys.argv[2:]), CountingCore(Path(sys.argv[1]))).run())  # type: ignore[arg-type]  # has what is asked of a core
