# SPDX-License-Identifier: Apache-2.0
"""What a trainer does now: asked of the trainer and kept up to date by its events, or read from its data folder."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetree_cli.backends.local_process import installed
from finetree_cli.errors import BadInput, CliError, NotAvailable

if TYPE_CHECKING:
    from finetree import Client
    from finetree_api.trainer.v1 import capacity_pb2, event_pb2, job_pb2, metrics_pb2

LIVE = ("queued", "preparing", "running", "pausing", "paused", "recovering", "cancelling")
ENDED = 5
"""Jobs that have ended and are shown all the same, the newest."""
POINTS = 60
"""Most points of a curve that is asked for."""
CURVES = ("loss", "eval_loss")
KINDS = ("state_changed", "queue_changed", "phase_progress", "step_metrics", "eval_metrics", "terminal")
"""Kinds of event that change an overview."""

Curve = list[tuple[int, float]]


@dataclass(slots=True)
class Overview:
    """Devices, jobs by name, and the points (step, value) of their curves by name and metric."""

    capacity: "capacity_pb2.GetCapacityResponse | None"
    jobs: "dict[str, job_pb2.Job]"
    curves: dict[str, dict[str, Curve]] = field(default_factory=dict)
    stored_time: str = ""
    """When anything of a job was last stored, of what was read from a folder; "" while a trainer is asked."""
    stored: bool = False
    use: dict[tuple[str, str], float] = field(default_factory=dict)
    """Share of the time that an accelerator computes, in percent, by node and device; as its job's steps told last."""
    ranks: "dict[str, list[event_pb2.RankMetrics]]" = field(default_factory=dict)
    """What each rank of a job on several devices did in its last step, by the job's name."""

    def take(self, event: "event_pb2.JobEvent") -> bool:
        """Change what an event changes; return whether its job must be asked for again."""
        job = self.jobs.get(event.job)
        if job is None:
            return True
        if event.HasField("step_metrics"):
            self._step(job, event.step_metrics)
        elif event.HasField("eval_metrics") and event.eval_metrics.HasField("loss"):
            job.metrics.eval_loss = event.eval_metrics.loss
            self._point(job.name, "eval_loss", event.eval_metrics.step, event.eval_metrics.loss)
        elif event.HasField("phase_progress"):
            job.progress.phase = event.phase_progress.phase
        elif event.HasField("queue_changed"):
            job.queue_position, job.blocked_by = event.queue_changed.position, event.queue_changed.blocked_by
            job.state_reason.code = event.queue_changed.code
        else:
            return event.HasField("state_changed") or event.HasField("terminal")
        return False

    def refresh(self, client: "Client", name: str) -> None:
        """Ask for a job again; one that was deleted is left out."""
        from finetree import NotFound

        try:
            self.put(client.get_job(name))
        except NotFound:
            self.jobs.pop(name, None)

    def put(self, job: "job_pb2.Job") -> None:
        """Put a job's newest message in, and drop the oldest of those that have ended."""
        self.jobs[job.name] = job
        over = [name for name, known in sorted(self.jobs.items()) if known.HasField("end_time")][:-ENDED]
        for name in over:
            self.jobs.pop(name)
            self.curves.pop(name, None)

    def _step(self, job: "job_pb2.Job", step: "event_pb2.StepMetrics") -> None:
        progress = job.progress
        progress.step, progress.total_steps = step.step, step.total_steps
        if step.HasField("eta_seconds"):
            progress.eta_seconds.CopyFrom(step.eta_seconds)
        self.use |= {(device.node, device.device_id): device.utilization_percent for device in step.devices}
        if step.ranks:
            self.ranks[job.name] = list(step.ranks)
        job.metrics.tokens_per_second = step.tokens_per_second
        job.metrics.peak_memory_bytes = max(job.metrics.peak_memory_bytes, step.peak_memory_bytes)
        if step.HasField("loss"):
            job.metrics.loss = step.loss
            self._point(job.name, "loss", step.step, step.loss)

    def _point(self, job: str, metric: str, step: int, value: float) -> None:
        curve = self.curves.setdefault(job, {}).setdefault(metric, [])
        while curve and curve[-1][0] >= step:  # an attempt that repeats steps
            curve.pop()
        curve.append((step, value))
        if len(curve) > POINTS * 4:
            del curve[1:-1:2]


def live_overview(client: "Client") -> Overview:
    """Ask a trainer for devices, jobs and curves."""
    jobs = {job.name: job for job in client.list_jobs(states=LIVE)}
    jobs |= {job.name: job for job in client.list_jobs(states=("succeeded", "failed", "cancelled"), limit=ENDED)}
    found = Overview(client.capacity(), dict(sorted(jobs.items())))
    for name, job in jobs.items():
        if job.WhichOneof("task") == "train" and job.progress.step:
            found.curves[name] = curves_of(client.job(name).metrics(*CURVES, points=POINTS))
    return found


def curves_of(found: "metrics_pb2.QueryMetricsResponse") -> dict[str, Curve]:
    """Points of the curves of an answer."""
    return {series.name: [(point.last_step, point.mean) for point in series.points] for series in found.series}


def stored_overview(folder: Path) -> Overview:
    """Read the data folder of a trainer, or of `finetree up`, in a child process of the installed trainer.

    Raises:
        NotAvailable: The trainer is not installed.
        BadInput: The folder holds no database, or one that this release does not read.
    """
    from finetree_api.trainer.v1 import job_pb2, metrics_pb2
    from google.protobuf import json_format
    from google.rpc import error_details_pb2  # noqa: F401 - registers the details that errors carry

    if not installed("trainer"):
        raise NotAvailable(
            "reading a data folder needs the trainer in this environment",
            remedy="pip install 'finetree-cli[suite]'",
            reason="TRAINER_NOT_INSTALLED",
        )
    own = folder if (folder / "trainer.db").is_file() else folder / "trainer"
    document = _read(own)
    jobs = [json_format.ParseDict(each, job_pb2.Job()) for each in document["jobs"]]
    curves = {
        name: curves_of(json_format.ParseDict(each, metrics_pb2.QueryMetricsResponse()))
        for name, each in document["curves"].items()
    }
    time = document.get("update_time", "")
    return Overview(None, {job.name: job for job in sorted(jobs, key=lambda job: job.name)}, curves, time, stored=True)


def _read(folder: Path) -> Any:
    # -P: a module in the current folder must not be imported in place of a library.
    command = [sys.executable, "-P", "-m", "finetree_trainer.jobs.stored", str(folder)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    try:
        document = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2] or "no message"
        raise CliError(f"the reader of data folders ended with exit code {done.returncode}: {last}") from None
    if "error" in document:
        raise BadInput(document["error"]["message"], reason=document["error"]["reason"])
    return document


def now() -> str:
    """The time of this machine, as it is shown."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
