# SPDX-License-Identifier: Apache-2.0
"""The fake trainer: jobs that follow a script, a durable log with cursors, and streams that break on request."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import grpc
from finetree_api.trainer.v1 import artifact_pb2, capacity_pb2, event_log_pb2, event_pb2, job_pb2, trainer_pb2
from finetree_api.types.v1 import hardware_pb2, method_pb2

from finetree._shared import rpcs
from finetree.errors import (
    AlreadyExists,
    FailedPrecondition,
    FinetreeTimeout,
    InvalidArgument,
    NotFound,
    OutOfRange,
    Unavailable,
    Violation,
)
from finetree.testing.datasets import FakeDatasets
from finetree.testing.handlers import Handlers
from finetree.testing.job import FakeJob
from finetree.testing.script import Script
from finetree.testing.values import USABLE_BYTES, make_plan, page, parameters, server

BATCH = 10
CHUNK = 16 * 1024


class FakeTrainer:
    """Jobs by name, and failures of their streams on request.

    Attributes:
        script: what the next jobs do.
        attached: how many watchers have attached so far.
    """

    def __init__(self, handlers: Handlers, datasets: FakeDatasets) -> None:
        self.script = Script()
        self._datasets = datasets
        self.attached = 0
        self._changed = threading.Condition(threading.RLock())
        self._jobs: dict[str, FakeJob] = {}
        self._requests: dict[str, tuple[bytes, FakeJob]] = {}
        self._epoch = 1
        self._stopping = self._silent = False
        self._disconnects: set[int] = set()
        self._holes: set[int] = set()
        self._cut_download: int | None = None
        handlers.unary(rpcs.VALIDATE_JOB, self._validate)
        handlers.unary(rpcs.CREATE_JOB, self._create)
        handlers.unary(rpcs.GET_JOB, lambda r: trainer_pb2.GetJobResponse(job=self._find(r.name).message))
        handlers.unary(rpcs.LIST_JOBS, self._list)
        handlers.unary(rpcs.CANCEL_JOB, self._cancel)
        handlers.stream(rpcs.WATCH_JOB, self._watch)
        handlers.unary(rpcs.LIST_EVENTS, self._events)
        handlers.unary(
            rpcs.LIST_ARTIFACTS,
            lambda r: artifact_pb2.ListArtifactsResponse(artifacts=self._find(r.parent).artifacts()),
        )
        handlers.stream(rpcs.DOWNLOAD_ARTIFACT, self._download)
        handlers.unary(rpcs.GET_CAPACITY, self._capacity)
        handlers.unary(rpcs.TRAINER_INFO, lambda _: trainer_pb2.GetServerInfoResponse(server=server("trainer")))

    def advance(self, name: str, count: int | None = None) -> None:
        """Let a held job store `count` more events, all of them for None."""
        with self._changed:
            self._find(name).advance(count)
            self._changed.notify_all()

    def disconnect_after(self, *seqs: int) -> None:
        """Break a stream once, right after each of these events."""
        with self._changed:
            self._disconnects.update(seqs)

    def skip_once(self, *seqs: int) -> None:
        """Leave these events out of a stream, once each, although the log has them."""
        with self._changed:
            self._holes.update(seqs)

    def attached_at_least(self, count: int, *, timeout: float = 10.0) -> None:
        """Wait until watchers have attached `count` times in all.

        Raises:
            FinetreeTimeout: they have not, in `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.attached >= count, timeout):
                raise FinetreeTimeout(f"{self.attached} watchers attached, not {count}", reason="TIMEOUT")

    def cut_download_after(self, count: int) -> None:
        """Break the next download once `count` bytes of a file are sent."""
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
        """End all streams (`now`), or serve them again."""
        with self._changed:
            self._stopping = now
            self._changed.notify_all()

    def _find(self, name: str) -> FakeJob:
        with self._changed:
            if name not in self._jobs:
                raise NotFound(f"no job {name!r}; list_jobs shows all", reason="JOB_NOT_FOUND")
            return self._jobs[name]

    def _validate(self, request: trainer_pb2.ValidateJobRequest) -> trainer_pb2.ValidateJobResponse:
        self._check(request.job)
        if not request.job.HasField("train"):
            return trainer_pb2.ValidateJobResponse(
                prepare=request.job.prepare if request.job.HasField("prepare") else None,
            )
        return trainer_pb2.ValidateJobResponse(train=request.job.train, plan=make_plan(request.job.train.spec))

    def _check(self, job: job_pb2.JobTemplate) -> None:
        _check(job)
        if job.HasField("train"):
            self._datasets.require_accepted(job.train.spec)

    def _create(self, request: trainer_pb2.CreateJobRequest) -> trainer_pb2.CreateJobResponse:
        body = request.job.SerializeToString(deterministic=True)
        with self._changed:
            if request.request_id in self._requests:
                known, job = self._requests[request.request_id]
                if known != body:
                    raise AlreadyExists("the request_id made another job; take another one", reason="REQUEST_ID_REUSED")
                return trainer_pb2.CreateJobResponse(job=job.message)
            self._check(request.job)
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
                and (not request.tasks or job.kind in request.tasks)
                and all(job.message.labels.get(key) == value for key, value in request.labels.items())
            ]
        jobs, token = page(found, request)
        return trainer_pb2.ListJobsResponse(jobs=jobs, next_page_token=token)

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
                raise Unavailable("the server stops; attach again", reason="SERVER_STOPPING")
            if job.ended and seq == len(job.log):
                return

    def _start(self, request: event_log_pb2.WatchJobRequest, job: FakeJob) -> int:
        start = request.WhichOneof("start")
        if start == "cursor":
            base, mark, seen = request.cursor.rpartition("~")
            if mark and not base and seen.isdecimal():
                return int(seen)
            epoch, separator, seq = (base or request.cursor).partition(".")
            if not separator or not seq.isdecimal():
                raise InvalidArgument("cursor: not one of ours", reason="CURSOR_INVALID")
            if epoch != str(self._epoch):
                raise FailedPrecondition("the log was restored; start again", reason="LOG_RESET")
            return max(int(seq), int(seen)) if mark else int(seq)
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
                    raise Unavailable("the server stops; attach again with the last cursor", reason="SERVER_STOPPING")
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
        chosen = [
            event
            for event in log
            if (not request.kinds or event.kind in request.kinds)
            and request.after_seq < event.seq
            and (not request.before_seq or event.seq < request.before_seq)
        ]
        if request.order == event_log_pb2.EVENT_ORDER_DESCENDING:
            chosen.reverse()
        events, token = page(chosen, request, size=100)
        return event_log_pb2.ListEventsResponse(events=events, next_page_token=token)

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
                raise Unavailable("the download was cut", reason="SERVER_STOPPING")
            if not context.is_active():
                return
            yield artifact_pb2.DownloadArtifactResponse(chunk=data[offset : offset + CHUNK], offset=offset)

    def _capacity(self, request: capacity_pb2.GetCapacityRequest) -> capacity_pb2.GetCapacityResponse:
        device = capacity_pb2.Device(
            id="cpu",
            hardware=hardware_pb2.Hardware(cpu=hardware_pb2.CpuDevice(), count=1),
            display_name="fake",
            total_bytes=USABLE_BYTES["cpu"],
            slots=1,
            free_slots=1,
        )
        node = capacity_pb2.Node(name="fake", devices=[device], cpu_name="fake")
        if request.wait_for_rate.ToNanoseconds():
            node.matrix_rates.bf16_flops_per_second = node.matrix_rates.fp32_flops_per_second = 1e12
        capabilities = capacity_pb2.TrainingCapabilities(
            tasks=[job_pb2.TASK_KIND_TRAIN, job_pb2.TASK_KIND_PREPARE],
            methods=[method_pb2.METHOD_LORA],
            max_devices=1,
            max_nodes=1,
        )
        return capacity_pb2.GetCapacityResponse(nodes=[node], capabilities=capabilities)


def _check(job: job_pb2.JobTemplate) -> None:
    """Refuse a job that names no known model, that is not offered, or whose plan is not the approved one."""
    if job.HasField("export"):
        raise InvalidArgument("job.export: this server exports nothing", reason="TASK_NOT_SUPPORTED")
    if job.HasField("prepare"):
        return
    spec = job.train.spec
    parameters(spec, "job.train.spec.model")
    if job.train.HasField("approved_plan") and job.train.approved_plan.spec != spec:
        violation = Violation("spec", "the run differs from the approved one")
        raise FailedPrecondition("the plan is not the approved one", reason="PLAN_DRIFT", violations=(violation,))


def _wanted(event: event_pb2.JobEvent, request: event_log_pb2.WatchJobRequest) -> bool:
    if request.kinds and event.kind not in request.kinds:
        return False
    return event.level >= request.min_level
