# SPDX-License-Identifier: Apache-2.0
"""The fake trainer: jobs that follow a script, a durable log with cursors, and streams that break on request."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import grpc
from finetree_api.trainer.v1 import artifact_pb2, capacity_pb2, event_log_pb2, event_pb2, trainer_pb2
from finetree_api.types.v1 import run_spec_pb2

from finetree._shared import methods
from finetree.errors import (
    AlreadyExists,
    FailedPrecondition,
    FinetreeTimeout,
    InvalidArgument,
    NotFound,
    OutOfRange,
    Unavailable,
)
from finetree.testing.answers import DIGEST, PARAMETERS, invalid, next_token, server
from finetree.testing.log import FakeJob
from finetree.testing.script import Script
from finetree.testing.wire import Wire

BATCH = 10
CHUNK = 16 * 1024


class FakeTrainer:
    """Jobs by name, and what shall go wrong with their streams."""

    def __init__(self, wire: Wire) -> None:
        self.script = Script()
        self.attached = 0
        self._changed = threading.Condition(threading.RLock())
        self._jobs: dict[str, FakeJob] = {}
        self._requests: dict[str, tuple[bytes, FakeJob]] = {}
        self._epoch = 1
        self._stopping = self._silent = False
        self._disconnects: set[int] = set()
        self._holes: set[int] = set()
        self._cut_download: int | None = None
        wire.unary(methods.VALIDATE_JOB, self._validate)
        wire.unary(methods.CREATE_JOB, self._create)
        wire.unary(methods.GET_JOB, lambda r: trainer_pb2.GetJobResponse(job=self._find(r.name).message))
        wire.unary(methods.LIST_JOBS, self._list)
        wire.unary(methods.CANCEL_JOB, self._cancel)
        wire.stream(methods.WATCH_JOB, self._watch)
        wire.unary(methods.LIST_EVENTS, self._events)
        wire.unary(
            methods.LIST_ARTIFACTS,
            lambda r: artifact_pb2.ListArtifactsResponse(artifacts=self._find(r.parent).artifacts()),
        )
        wire.stream(methods.DOWNLOAD_ARTIFACT, self._download)
        wire.unary(methods.GET_CAPACITY, self._capacity)
        wire.unary(methods.TRAINER_INFO, lambda _: trainer_pb2.GetServerInfoResponse(server=server("trainer")))

    def advance(self, name: str, count: int | None = None) -> None:
        """Let a held job store so many events more, all of them for None."""
        with self._changed:
            self._find(name).advance(count)
            self._changed.notify_all()

    def disconnect_after(self, *seqs: int) -> None:
        """Break a stream once, right behind each of these events."""
        with self._changed:
            self._disconnects.update(seqs)

    def skip_once(self, *seqs: int) -> None:
        """Leave these events out of a stream, once each: a hole that is not in the log."""
        with self._changed:
            self._holes.update(seqs)

    def attached_at_least(self, count: int, *, timeout: float = 10.0) -> None:
        """Wait until watchers have attached so many times in all.

        Raises:
            FinetreeTimeout: they have not, in `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.attached >= count, timeout):
                raise FinetreeTimeout(f"{self.attached} watchers attached, not {count}", reason="TIMEOUT")

    def cut_download_after(self, count: int) -> None:
        """Break the next download once so many bytes of a file are sent."""
        self._cut_download = count

    def silence(self, *, silent: bool = True) -> None:
        """Send nothing more on any stream, not even heartbeats, and leave them open."""
        with self._changed:
            self._silent = silent
            self._changed.notify_all()

    def reset_log(self) -> None:
        """Open a new log epoch, as a restore from backup does: old cursors are refused."""
        self._epoch += 1

    def stopping(self, *, now: bool) -> None:
        """End streams (True), or serve them again (False)."""
        with self._changed:
            self._stopping = now
            self._changed.notify_all()

    def _find(self, name: str) -> FakeJob:
        with self._changed:
            if name not in self._jobs:
                raise NotFound(f"no job {name!r}; list_jobs says what there is", reason="JOB_NOT_FOUND")
            return self._jobs[name]

    def _validate(self, request: trainer_pb2.ValidateJobRequest) -> trainer_pb2.ValidateJobResponse:
        _check(request.job.spec)
        return trainer_pb2.ValidateJobResponse(resolved_spec=request.job.spec, plan_digest=DIGEST)

    def _create(self, request: trainer_pb2.CreateJobRequest) -> trainer_pb2.CreateJobResponse:
        body = request.job.SerializeToString(deterministic=True)
        with self._changed:
            if request.request_id in self._requests:
                known, job = self._requests[request.request_id]
                if known != body:
                    raise AlreadyExists("the request_id made another job; take another one", reason="REQUEST_ID_REUSED")
                return trainer_pb2.CreateJobResponse(job=job.message)
            _check(request.job.spec)
            if request.job.plan_digest not in {"", DIGEST}:
                raise FailedPrecondition("the plan is not the approved one", reason="PLAN_DRIFT")
            job = FakeJob(request, self.script)
            self._jobs[job.message.name] = job
            self._requests[request.request_id] = body, job
            return trainer_pb2.CreateJobResponse(job=job.message)

    def _list(self, request: trainer_pb2.ListJobsRequest) -> trainer_pb2.ListJobsResponse:
        with self._changed:
            found = [
                job.message
                for job in reversed(self._jobs.values())
                if job.message.name.startswith(f"{request.parent or 'projects/default'}/")
                and (not request.states or job.message.state in request.states)
                and all(job.message.labels.get(key) == value for key, value in request.labels.items())
            ]
        start, size = int(request.page_token or 0), request.page_size or 50
        return trainer_pb2.ListJobsResponse(
            jobs=found[start : start + size], next_page_token=next_token(start + size, len(found))
        )

    def _cancel(self, request: trainer_pb2.CancelJobRequest) -> trainer_pb2.CancelJobResponse:
        with self._changed:
            job = self._find(request.name)
            job.cancel()
            self._changed.notify_all()
            return trainer_pb2.CancelJobResponse(job=job.message)

    def _watch(
        self, request: event_log_pb2.WatchJobRequest, context: grpc.ServicerContext
    ) -> Iterator[event_log_pb2.WatchJobResponse]:
        job = self._find(request.name)
        context.add_callback(self._wake)
        seq = self._start(request, job)
        with self._changed:
            self.attached += 1
            self._changed.notify_all()
        heartbeat = request.heartbeat.ToNanoseconds() / 1e9 or 10.0
        while context.is_active():
            batch, seq = self._next_batch(job, seq, heartbeat, context)
            shown = [event for event in batch if _wanted(event, request)]
            if context.is_active():
                yield event_log_pb2.WatchJobResponse(
                    events=shown, cursor=f"{self._epoch}.{seq}", min_seq=1, last_seq=len(job.log)
                )
            if seq in self._disconnects:
                self._disconnects.discard(seq)
                raise Unavailable("the server stops; attach again", reason="SHUTTING_DOWN")
            if job.ended and seq == len(job.log):
                return

    def _start(self, request: event_log_pb2.WatchJobRequest, job: FakeJob) -> int:
        start = request.WhichOneof("start")
        if start == "cursor":
            epoch, separator, seq = request.cursor.partition(".")
            if not separator or not seq.isdecimal():
                raise InvalidArgument("cursor: not one of ours", reason="CURSOR_INVALID")
            if epoch != str(self._epoch):
                raise FailedPrecondition("the log was restored; start again", reason="LOG_RESET")
            return int(seq)
        if request.after_seq > len(job.log):
            raise OutOfRange(
                f"the newest event is {len(job.log)}", reason="FUTURE_SEQ", metadata={"last_seq": str(len(job.log))}
            )
        return len(job.log) if start == "now" else request.after_seq

    def _next_batch(
        self, job: FakeJob, seq: int, heartbeat: float, context: grpc.ServicerContext
    ) -> tuple[list[event_pb2.JobEvent], int]:
        deadline = time.monotonic() + heartbeat
        with self._changed:
            while context.is_active():
                if self._stopping:
                    raise Unavailable("the server stops; attach again with the last cursor", reason="SHUTTING_DOWN")
                left = deadline - time.monotonic()
                if not self._silent and (len(job.log) > seq or job.ended or left <= 0):
                    break
                self._changed.wait(max(left, 0.01))
            batch = job.log[seq : seq + BATCH]
            cut = next((index for index, event in enumerate(batch, 1) if event.seq in self._disconnects), len(batch))
            kept = [event for event in batch[:cut] if event.seq not in self._holes]
            self._holes -= {event.seq for event in batch[:cut]}
            return kept, seq + cut

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _events(self, request: event_log_pb2.ListEventsRequest) -> event_log_pb2.ListEventsResponse:
        log = self._find(request.name).log
        chosen = [event for event in log if not request.kinds or event.kind in request.kinds]
        if request.order == event_log_pb2.EVENT_ORDER_DESCENDING:
            chosen.reverse()
        start, size = int(request.page_token or 0), request.page_size or 100
        return event_log_pb2.ListEventsResponse(
            events=chosen[start : start + size], next_page_token=next_token(start + size, len(chosen))
        )

    def _download(
        self, request: artifact_pb2.DownloadArtifactRequest, context: grpc.ServicerContext
    ) -> Iterator[artifact_pb2.DownloadArtifactResponse]:
        job = self._find(request.name.partition("/artifacts/")[0])
        files = job.files.get(request.name, {})
        if request.path not in files:
            raise NotFound(f"no file {request.path!r}", reason="FILE_NOT_FOUND")
        data = files[request.path]
        for offset in range(request.offset, len(data), CHUNK):
            if self._cut_download is not None and offset >= self._cut_download:
                self._cut_download = None
                raise Unavailable("the download was cut", reason="SHUTTING_DOWN")
            if not context.is_active():
                return
            yield artifact_pb2.DownloadArtifactResponse(chunk=data[offset : offset + CHUNK], offset=offset)

    def _capacity(self, request: capacity_pb2.GetCapacityRequest) -> capacity_pb2.GetCapacityResponse:
        device = capacity_pb2.Device(id="cpu", display_name="fake", total_bytes=8 * 2**30, slots=1, free_slots=1)
        rate = 1e12 if request.wait_for_rate.ToNanoseconds() else 0.0
        return capacity_pb2.GetCapacityResponse(devices=[device], host_bf16_flops_per_second=rate)


def _check(spec: run_spec_pb2.RunSpec) -> None:
    name = spec.model.WhichOneof("source")
    if name is None:
        raise invalid("job.spec.model", "name a model")
    if name == "name" and spec.model.name not in PARAMETERS:
        raise NotFound(f"no model {spec.model.name!r}; list_models says what there is", reason="MODEL_NOT_FOUND")


def _wanted(event: event_pb2.JobEvent, request: event_log_pb2.WatchJobRequest) -> bool:
    if request.kinds and event.kind not in request.kinds:
        return False
    return event.level >= request.min_level
