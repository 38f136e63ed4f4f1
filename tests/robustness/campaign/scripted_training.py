# SPDX-License-Identifier: Apache-2.0
"""Training without torch: each step's weights are the hash of those before, so that a step lost or done twice shows.

Everything around it is what the shipped worker runs: process, stream, journal, folders, manifests, sealing. A run of
`STEPS` steps saves a checkpoint after every second one and goes on from the newest whole one.
"""

import hashlib
import os
import shutil
import time
from pathlib import Path

from finetree_api.trainer.v1 import artifact_pb2, event_pb2, job_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.weights.checkpoint import folder_name
from finetree_worker import atomic_files
from finetree_worker.control import STOPS, Steering
from finetree_worker.errors import Cancelled

STEPS, EVERY, KEEP = 8, 2, 2
SECONDS = float(os.environ.get("FINETREE_STEP_SECONDS", "0.01"))


def weights_after(content: bytes, steps: int = STEPS) -> bytes:
    """The weights of a run over a dataset after so many steps."""
    weights = hashlib.sha256(content).digest()
    for _ in range(steps):
        weights = hashlib.sha256(weights).digest()
    return weights


class Core:
    """What the process asks of training."""

    def warm_up(self) -> None:
        pass

    def train(self, task: worker_pb2.Task, reporter, control) -> event_pb2.RunSummary:
        folder, steering = Path(task.folders.checkpoint_dir), Steering(control)
        weights, restored = _newest(folder) or (weights_after(Path(task.dataset_file).read_bytes(), 0), 0)
        first = task.attempt <= 1
        reason = event_pb2.ATTEMPT_REASON_FIRST if first else event_pb2.ATTEMPT_REASON_RECOVERED
        reporter.emit(event_pb2.AttemptStarted(restored_step=restored, reason=reason, engine="scripted"))
        reporter.emit(event_pb2.PhaseProgress(phase=job_pb2.JOB_PHASE_TRAIN))
        for step in range(restored + 1, STEPS + 1):
            if steering.signal() in STOPS:
                raise Cancelled
            weights = hashlib.sha256(weights).digest()
            reporter.emit(event_pb2.StepMetrics(step=step, total_steps=STEPS, loss=1 / step))
            if step % EVERY == 0:
                _save(folder, step, weights, reporter)
            time.sleep(SECONDS)
        with atomic_files.atomic_folder(Path(task.folders.artifact_dir) / "adapter", {}) as draft:
            (draft / "weights.bin").write_bytes(weights)
        artifact = artifact_pb2.Artifact(name=f"{task.job}/artifacts/adapter")
        reporter.emit(event_pb2.ArtifactReady(artifact=artifact))
        return event_pb2.RunSummary()


def _save(folder: Path, step: int, weights: bytes, reporter) -> None:
    target = folder / folder_name(step)
    if atomic_files.read_manifest(target) is None:
        shutil.rmtree(target, ignore_errors=True)
        with atomic_files.atomic_folder(target, {"step": step}) as draft:
            (draft / "weights.bin").write_bytes(weights)
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old)
    reporter.emit(event_pb2.CheckpointSaved(step=step, sha256=atomic_files.manifest_hash(target)))


def _newest(folder: Path) -> tuple[bytes, int] | None:
    for path in sorted(folder.glob("step-*"), reverse=True):
        manifest = atomic_files.read_manifest(path)
        if manifest is not None:
            return (path / "weights.bin").read_bytes(), int(manifest["step"])
    return None
