# SPDX-License-Identifier: Apache-2.0
"""A job of the fake trainer: its event log, and the state that follows from it."""

from __future__ import annotations

import hashlib
import json
import random
import time
import uuid
from collections.abc import Iterator

from finetree_api.trainer.v1 import artifact_pb2, event_pb2, job_pb2, trainer_pb2

from finetree.testing.script import Script, changed, terminal
from finetree.testing.values import make_plan

ENDED = {job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED}
FILES = {"adapter_config.json": 0, "adapter_model.safetensors": 300_000, "tokenizer/vocab.txt": 20_000, "empty.txt": 0}


class FakeJob:
    """A job and its log. Events are numbered 1, 2, 3 … when they are stored."""

    def __init__(self, request: trainer_pb2.CreateJobRequest, script: Script) -> None:
        uid = str(uuid.uuid4())
        given = request.job
        self.message = job_pb2.Job(
            name=f"{request.parent or 'projects/default'}/jobs/{uid}",
            uid=uid,
            display_name=given.display_name,
            train=given.train if given.HasField("train") else None,
            prepare=given.prepare if given.HasField("prepare") else None,
            export=given.export if given.HasField("export") else None,
            limits=given.limits if given.HasField("limits") else None,
            labels=given.labels,
            annotations=given.annotations,
            suspended=given.suspended,
            trace_context=given.trace_context,
            plan_digest=_digest(given),
            request_id=request.request_id,
            oldest_seq=1,
        )
        self.log: list[event_pb2.JobEvent] = []
        self.files: dict[str, dict[str, bytes]] = {}
        self._script = script
        self._coming = script.events(self._artifacts)
        self.advance(script.hold_at)

    @property
    def kind(self) -> job_pb2.TaskKind.ValueType:
        """Kind of the job's task."""
        return job_pb2.TaskKind.Value(f"TASK_KIND_{(self.message.WhichOneof('task') or 'unspecified').upper()}")

    @property
    def ended(self) -> bool:
        """Whether its Terminal event is stored."""
        return self.message.state in ENDED

    def advance(self, count: int | None) -> None:
        """Store `count` of the coming events, all of them for None."""
        stored = 0
        while (count is None or stored < count) and not self.ended:
            event = next(self._coming, None)
            if event is None:
                return
            self._store(event)
            stored += 1

    def cancel(self) -> None:
        """Cancel the job, unless it has ended."""
        if not self.ended:
            self._store(changed(self.message.state, job_pb2.JOB_STATE_CANCELLING))
            self._store(terminal("CANCELLED", 0))

    def artifacts(self) -> list[artifact_pb2.Artifact]:
        """List the artifacts made so far."""
        ready = [event.artifact_ready.artifact for event in self.log if event.HasField("artifact_ready")]
        return list(ready)

    def _store(self, event: event_pb2.JobEvent) -> None:
        event.job, event.job_uid = self.message.name, self.message.uid
        event.seq, event.attempt = len(self.log) + 1, 1
        event.event_time.FromNanoseconds(time.time_ns())
        event.state = event.state or self.message.state
        self.log.append(event)
        self._follow(event)

    def _follow(self, event: event_pb2.JobEvent) -> None:
        job = self.message
        job.state, job.last_seq, job.attempt = event.state, event.seq, 1
        if event.HasField("step_metrics"):
            step = event.step_metrics
            job.progress.step, job.progress.total_steps = step.step, step.total_steps
            job.progress.fraction = step.step / step.total_steps
            job.metrics.loss = step.loss
        if event.HasField("terminal"):
            job.error.CopyFrom(event.terminal.error)
            job.failure_category = event.terminal.failure_category

    def _artifacts(self) -> list[artifact_pb2.Artifact]:
        name = f"{self.message.name}/artifacts/adapter"
        self.files[name] = dict(_contents(self.message.uid))
        files = [
            artifact_pb2.ArtifactFile(path=path, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            for path, data in self.files[name].items()
        ]
        return [
            artifact_pb2.Artifact(
                name=name,
                kind=artifact_pb2.ARTIFACT_KIND_ADAPTER,
                files=files,
                size_bytes=sum(file.size_bytes for file in files),
                peft_type="LORA",
                attempt=1,
            )
        ]


def _digest(template: job_pb2.JobTemplate) -> str:
    if not template.HasField("train"):
        return ""
    approved = template.train.approved_plan.digest
    return approved or make_plan(template.train.spec).digest


def _contents(seed: str) -> Iterator[tuple[str, bytes]]:
    source = random.Random(seed)
    for path, size in FILES.items():
        config = json.dumps({"peft_type": "LORA", "r": 8}).encode() if path.endswith(".json") else b""
        yield path, config or source.randbytes(size)
