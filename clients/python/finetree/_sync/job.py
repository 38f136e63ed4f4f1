# SPDX-License-Identifier: Apache-2.0
"""A handle on a job: its state, its events and its artifacts."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO, Unpack

from finetree_api.trainer.v1 import artifact_pb2, event_pb2, job_pb2, metrics_pb2, trainer_pb2

from finetree._shared import rpcs, trainer_requests
from finetree._shared.downloads import Progress
from finetree._shared.follow import Pace, Start, follow_job
from finetree._shared.retry import deadline_after, within
from finetree._shared.trainer import exports
from finetree._shared.trainer.exports import ExportFields
from finetree._shared.trainer.names import project_of
from finetree._shared.trainer.weights import trained_artifact
from finetree._shared.trainer_requests import Mode
from finetree._sync.download import download, read_file
from finetree._sync.events import EventStream
from finetree._sync.pages import Pages
from finetree._sync.trainer import metric_files
from finetree._sync.trainer.job_lifecycle import JobLifecycle
from finetree._sync.trainer.job_logs import JobLogs
from finetree._sync.trainer.job_push import JobPush
from finetree._sync.trainer.waiting import JobWaiting
from finetree._sync.transport import Transport
from finetree.exports.target import ExportFile, Format


class Job(JobPush, JobLifecycle, JobWaiting, JobLogs):
    """A handle on a job.

    Attributes:
        name: resource name.
        snapshot: the job as it was last seen (`create_job`, `refresh`, `update`, `pause`, `wait` …), None before that.
        request_id: idempotency key that created it, "" when this handle did not.
    """

    def __init__(
        self, transport: Transport, name: str, *, snapshot: job_pb2.Job | None = None, request_id: str = ""
    ) -> None:
        self.name = name
        self.snapshot = snapshot
        self.request_id = request_id
        self._transport = transport
        self._last_stream: EventStream | None = None

    def __repr__(self) -> str:
        return f"<Job {self.name}{trainer_requests.seen(self.snapshot)}>"

    def _repr_html_(self) -> str:
        from finetree.display.cards import job_card

        return job_card(self.snapshot or job_pb2.Job(name=self.name)).html()

    @property
    def uid(self) -> str:
        """UUID of the job; empty before the first `refresh`."""
        return self.snapshot.uid if self.snapshot is not None else ""

    @property
    def cursor(self) -> str:
        """Cursor after the event that the newest `events()` delivered last; empty before the first."""
        return self._last_stream.cursor if self._last_stream is not None else ""

    def refresh(self, *, timeout: float | None = None) -> job_pb2.Job:
        """Get the job, and keep it as `snapshot`.

        Args:
            timeout: seconds; None means the client's timeout, else 10.

        Raises:
            NotFound: JOB_NOT_FOUND.
        """
        request = trainer_pb2.GetJobRequest(name=self.name)
        self.snapshot = self._transport.unary(rpcs.GET_JOB, request, timeout=timeout).job
        return self.snapshot

    def update(
        self,
        *,
        display_name: str | None = None,
        labels: Mapping[str, str | None] | None = None,
        annotations: Mapping[str, str | None] | None = None,
        timeout: float | None = None,
        request_id: str = "",
    ) -> job_pb2.Job:
        """Change the job's display name, labels or annotations, in any state; keys that are not named stay.

        Args:
            display_name: name for people, "" for none; None leaves it.
            labels: values by key; None as a value removes the label.
            annotations: values by key; None as a value removes the annotation.
            timeout: seconds; None means the client's timeout, else 10.
            request_id: idempotency key; empty means a new one, made once per call.

        Raises:
            NotFound: JOB_NOT_FOUND.
            InvalidArgument: nothing is named, a key or value is not allowed, or it would have more than 64.
        """
        request = trainer_requests.update_job(
            self.name, display_name=display_name, labels=labels, annotations=annotations, request_id=request_id
        )
        self.snapshot = self._transport.unary(
            rpcs.UPDATE_JOB, request, timeout=timeout, request_id=request.request_id
        ).job
        return self.snapshot

    def cancel(self, mode: Mode = "NOW", *, timeout: float | None = None, request_id: str = "") -> job_pb2.Job:
        """Ask the job to stop; returns at once, `wait` waits until it has. Cancelling an ended job changes nothing.

        Args:
            mode: "NOW", or "CHECKPOINT" to save a checkpoint first.
            timeout: seconds; None means the client's timeout, else 10.
            request_id: idempotency key; empty means a new one, made once per call.

        Raises:
            NotFound: JOB_NOT_FOUND.
        """
        request = trainer_requests.cancel_job(self.name, mode, request_id)
        self.snapshot = self._transport.unary(
            rpcs.CANCEL_JOB, request, timeout=timeout, request_id=request.request_id
        ).job
        return self.snapshot

    def events(
        self,
        *,
        after_seq: int = 0,
        cursor: str = "",
        after_time: datetime | None = None,
        now: bool = False,
        kinds: Sequence[str | int] = (),
        min_level: str | int = 0,
        max_step_events_per_second: int = 0,
        min_interval: float = 0.0,
        heartbeat: float = 10.0,
        timeout: float | None = None,
    ) -> EventStream:
        """Follow the events: each once and in order, live, until the Terminal event; it re-attaches by itself.

        Args:
            after_seq: begin behind this number; 0 means the beginning.
            cursor: begin behind this cursor instead, from `cursor` of a stream or a job.
            after_time: begin behind the events up to this time instead, on the service's clock.
            now: begin behind the newest event instead.
            kinds: only these, such as "step_metrics"; empty means all. The Terminal event ends it in any case.
            min_level: only events at least as important: "debug", "info", "warning", "error".
            max_step_events_per_second: at most so many "step_metrics" of a second of the run; 0 means all.
            min_interval: least seconds between what the service sends, 0 to 60; nothing is lost.
            heartbeat: seconds of silence after which the service sends a sign of life; three missing: re-attach.
            timeout: seconds after which it raises FinetreeTimeout; None means never.

        Raises:
            NotFound: JOB_NOT_FOUND.
            OutOfRange: EVENTS_EXPIRED (`metadata["oldest_seq"]`), FUTURE_SEQ.
            FailedPrecondition: LOG_RESET: the log was restored from a backup, start from the beginning.
            Unavailable: nothing arrived for the client's `reconnect_timeout`.
        """
        follow = follow_job(
            self.name,
            start=Start(after_seq, cursor, after_time, now=now),
            kinds=kinds,
            min_level=min_level,
            pace=Pace(heartbeat, min_interval, max_step_events_per_second),
        )
        self._last_stream = EventStream(self._transport, follow, deadline=deadline_after(timeout))
        return self._last_stream

    def wait(self, *, timeout: float | None = None, check: bool = False, heartbeat: float = 10.0) -> job_pb2.Job:
        """Wait until the job has ended, and return it as it then is.

        Args:
            timeout: seconds; None means for ever. The job continues when it passes.
            check: raise JobFailed when it did not succeed.
            heartbeat: as for `events`.

        Raises:
            FinetreeTimeout: it has not ended in time.
            JobFailed: it ended FAILED or CANCELLED, and `check` was asked for.
            NotFound: JOB_NOT_FOUND.
        """
        follow = follow_job(self.name, kinds=("terminal",), pace=Pace(heartbeat))
        deadline = deadline_after(timeout)
        terminal: event_pb2.Terminal | None = None
        with EventStream(self._transport, follow, deadline=deadline) as stream:
            for event in stream:
                terminal = event.terminal
        job = self.refresh(timeout=within(deadline, self._transport.options.timeout or rpcs.QUICK))
        if check and job.state != job_pb2.JOB_STATE_SUCCEEDED:
            raise trainer_requests.job_failed(job, terminal)
        return job

    def watch(
        self,
        *,
        after_seq: int = 0,
        timeout: float | None = None,
        check: bool = False,
        heartbeat: float = 10.0,
        file: TextIO | None = None,
    ) -> job_pb2.Job:
        """Show the job live until it has ended, and return it as it then is.

        A notebook gets a card that changes in place, a terminal a progress bar below the events, a file or a build's
        log a line for each event, about steps at most every five seconds. Interrupting it does not stop the job.

        Args:
            after_seq: begin behind this event; 0 means the beginning.
            timeout: seconds; None means for ever. The job continues when it passes.
            check: raise JobFailed when it did not succeed.
            heartbeat: as for `events`.
            file: where to write; None means stdout, or the notebook.

        Raises:
            FinetreeTimeout: it has not ended in time.
            JobFailed: it ended FAILED or CANCELLED, and `check` was asked for.
            NotFound: JOB_NOT_FOUND.
        """
        from finetree.display.watch import live_view

        view = live_view(self.name, self.snapshot, file)
        deadline = deadline_after(timeout)
        terminal: event_pb2.Terminal | None = None
        job: job_pb2.Job | None = None
        try:
            with self.events(after_seq=after_seq, timeout=timeout, heartbeat=heartbeat) as stream:
                for event in stream:
                    view.show(event)
                    terminal = event.terminal if event.HasField("terminal") else terminal
            job = self.refresh(timeout=within(deadline, self._transport.options.timeout or rpcs.QUICK))
        finally:
            view.finish(job)
        if check and job.state != job_pb2.JOB_STATE_SUCCEEDED:
            raise trainer_requests.job_failed(job, terminal)
        return job

    def list_events(
        self,
        *,
        last: int = 100,
        kinds: Sequence[str | int] = (),
        before_seq: int = 0,
        timeout: float | None = None,
    ) -> list[event_pb2.JobEvent]:
        """Get the newest events, oldest first, without waiting for more.

        Args:
            last: how many, at most 1000.
            kinds: only these; empty means all.
            before_seq: only events before this number; 0 means up to the newest.
            timeout: seconds; None means the client's timeout, else 10.

        Raises:
            NotFound: JOB_NOT_FOUND.
        """
        request = trainer_requests.list_events(self.name, last, kinds, before_seq)
        return list(reversed(self._transport.unary(rpcs.LIST_EVENTS, request, timeout=timeout).events))

    def metrics(
        self,
        *metrics: str,
        first_step: int = 0,
        last_step: int = 0,
        points: int = 500,
        timeout: float | None = None,
    ) -> metrics_pb2.QueryMetricsResponse:
        """Get the curves of metrics over any range of steps, in at most so many points with their extremes.

        Args:
            metrics: such as "loss", "learning_rate", "tokens_per_second", "eval_loss"; none means all.
            first_step: first step of the range; 0 means the first of the run.
            last_step: last step of the range; 0 means the newest.
            points: most points of a curve, at most 10,000.
            timeout: seconds; None means the client's timeout, else 30.

        Raises:
            NotFound: JOB_NOT_FOUND.
            InvalidArgument: a metric that no job has; the message names the known ones.
        """
        request = trainer_requests.query_metrics(
            self.name, metrics, first_step=first_step, last_step=last_step, points=points
        )
        return self._transport.unary(rpcs.QUERY_METRICS, request, timeout=timeout)

    def export_metrics(
        self,
        folder: str | Path,
        format: Format = "csv",  # noqa: A002 - the word that everybody looks for
        *,
        follow: bool = False,
        timeout: float | None = None,
    ) -> Path:
        """Write the job's metrics as a table or as TensorBoard's event file, from its log; it may still run.

        The file is FOLDER/{uid}/metrics.csv, or the event file there: a folder of several jobs is a log directory of
        TensorBoard. A later call goes on where the file ends, also after a kill, with the same bytes. Steps
        that a later attempt repeats come behind a row "attempt"; TensorBoard shows the later ones.

        Args:
            folder: folder of exports; made when it is not there.
            format: "csv" or "tensorboard".
            follow: go on until the job has ended.
            timeout: seconds for the whole; None means as long as it takes.

        Raises:
            NotFound: JOB_NOT_FOUND.
            OutOfRange: EVENTS_EXPIRED: what the file lacks is no longer kept; delete it to begin with what is.
            FinetreeTimeout: it has not ended in time.
        """
        deadline, kind = deadline_after(timeout), trainer_requests.export_format(format)
        job = self.refresh(timeout=within(deadline, self._transport.options.timeout or rpcs.QUICK))
        target = ExportFile(Path(folder), job, kind)
        return metric_files.write(self._transport, target, follow=follow, deadline=deadline)

    def export(self, *, timeout: float | None = None, request_id: str = "", **fields: Unpack[ExportFields]) -> Job:
        """Create a job that exports what this job has trained, as `Client.export` does.

        Args:
            timeout: seconds for each call; None means the client's timeout, else the usual one.
            request_id: idempotency key; the same one gives the same job, for ever. Empty: a new one, once per call.
            fields: `format`, `weight_type` and the others of `Client.export`.

        Raises:
            NotFound: ARTIFACT_NOT_FOUND: it has no trained weights, or not yet.
            FinetreeError: what `Client.export` raises.
        """
        weights = trained_artifact(self.name, self.artifacts(timeout=timeout))
        template = exports.export_template(weights, fields)
        request = trainer_requests.create_job(project_of(self.name), template, request_id)
        created = self._transport.unary(rpcs.CREATE_JOB, request, timeout=timeout, request_id=request.request_id)
        return Job(self._transport, created.job.name, snapshot=created.job, request_id=request.request_id)

    def artifacts(self, *, timeout: float | None = None) -> list[artifact_pb2.Artifact]:
        """List what the job made: adapter or model folders and reports, each with its files and hashes.

        Args:
            timeout: seconds for each page; None means the client's timeout, else 10.

        Raises:
            NotFound: JOB_NOT_FOUND.
        """
        return list(Pages(self._transport, trainer_requests.list_artifacts(self.name), timeout))

    def download(
        self,
        directory: str | Path,
        *,
        direct: bool = False,
        on_progress: Progress | None = None,
        timeout: float | None = None,
    ) -> dict[str, Path]:
        """Download every file of every artifact into a folder per artifact.

        A cut download continues where it was, in the same call and in a later one. Files are checked against their
        SHA-256 before they get their name; one that is already there and right is kept.

        Args:
            directory: folder to put them in; made when it is not there.
            direct: fetch them by links straight from the trainer's object store; what has no link, or cannot be
                reached by it, comes from the trainer.
            on_progress: called with (bytes so far, bytes in all).
            timeout: seconds for the whole; None means as long as bytes arrive.

        Returns:
            The local folder of each artifact by the artifact's name.

        Raises:
            Internal: ARTIFACT_CORRUPT: a file does not have its hash; UNSAFE_PATH: a file would leave the folder.
            OSError: the folder cannot be made or written, for example since a file has its name.
            Unavailable: nothing arrived for the client's `reconnect_timeout`.
        """
        deadline = deadline_after(timeout)
        pages = Pages(self._transport, trainer_requests.list_artifacts(self.name), None, deadline=deadline)
        return download(
            self._transport, list(pages), Path(directory), on_progress=on_progress, deadline=deadline, direct=direct
        )

    def read_file(self, artifact: str, path: str, *, offset: int = 0, timeout: float | None = None) -> Generator[bytes]:
        """Read a file of an artifact piece by piece; a cut stream continues where it was.

        Args:
            artifact: resource name of the artifact.
            path: path of the file inside of it.
            offset: first byte.
            timeout: seconds for the whole; None means as long as bytes arrive.

        Raises:
            NotFound: ARTIFACT_NOT_FOUND, FILE_NOT_FOUND.
            OutOfRange: OFFSET_BEYOND_END.
            Unavailable: nothing arrived for the client's `reconnect_timeout`.
        """
        yield from read_file(self._transport, artifact, path, offset, deadline=deadline_after(timeout))

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "request_id": self.request_id, "options": self._transport.options.without_secrets()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(Transport(state["options"]), state["name"], request_id=state["request_id"])  # type: ignore[misc]  # pickle makes the object without __init__
