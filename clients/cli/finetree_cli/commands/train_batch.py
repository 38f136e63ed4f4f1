# SPDX-License-Identifier: Apache-2.0
"""`finetree train` with several job files: checked together, queued in their order, followed together, summed up."""

import contextlib
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from finetree import FinetreeError, NotFound
from finetree_api.trainer.v1 import event_pb2, job_pb2

from finetree_cli.backends.project_events import project_events
from finetree_cli.errors import BadInput, CliError, ExitCode, Failure, JobFailed, StillRunning, of_cli_error
from finetree_cli.errors import of_service_error as of_service
from finetree_cli.output import as_dict, short_name
from finetree_cli.render.trainer.results.batch import BatchRow, batch_view, show_batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from finetree import Client
    from finetree_api.trainer.v1 import trainer_pb2

    from finetree_cli.jobfile.job import JobFile
    from finetree_cli.options.command import Settings

LABEL = "finetree.batch"
"""Label that the jobs of one batch share, by which they are followed, and found another day."""
FOLLOWED = (
    *("state_changed", "queue_changed", "phase_progress", "step_metrics", "eval_metrics", "alert", "artifact_ready"),
    "terminal",
)
INTERVAL_SECONDS = 0.5
"""Least time between two batches of events: a person reads no faster."""


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """Flags of `finetree train` that go with several files."""

    continue_on_error: bool
    watch: bool
    check: bool
    timeout: float | None
    labels: "Sequence[tuple[str, str]]"
    priority: str | None
    accepted: "Sequence[str]"
    check_data: bool


@dataclass(slots=True)
class _Entry:
    """A file, and what has become of it."""

    file: str
    job_file: "JobFile | None" = None
    plan: "trainer_pb2.ValidateJobResponse | None" = None
    failure: Failure | None = None
    name: str = ""
    job: job_pb2.Job | None = None
    artifacts: list[str] = field(default_factory=list)
    best_loss: float | None = None
    best_is_evaluation: bool = False

    def take(self, event: event_pb2.JobEvent) -> None:
        """Keep the best loss: of the evaluations, where there are some, else of the training steps."""
        if event.HasField("eval_metrics") and event.eval_metrics.HasField("loss"):
            known = self.best_loss if self.best_is_evaluation else None
            self.best_loss = min(event.eval_metrics.loss, known) if known is not None else event.eval_metrics.loss
            self.best_is_evaluation = True
        elif event.HasField("step_metrics") and event.step_metrics.HasField("loss") and not self.best_is_evaluation:
            loss = event.step_metrics.loss
            self.best_loss = loss if self.best_loss is None else min(loss, self.best_loss)

    @property
    def refused(self) -> bool:
        """Whether something is wrong with the file, so that it has no job."""
        return self.failure is not None

    @property
    def exit_code(self) -> ExitCode:
        """What the command would exit with for this file alone."""
        if self.failure is not None:
            return self.failure.exit_code
        if self.job is None or not self.job.HasField("end_time"):
            return ExitCode.STILL_RUNNING if self.name else ExitCode.OK
        return ExitCode.OK if self.job.state == job_pb2.JOB_STATE_SUCCEEDED else ExitCode.JOB_FAILED


def train_batch(settings: "Settings", files: "Sequence[str]", options: BatchOptions) -> None:
    """Train several job files.

    Raises:
        BadInput: A file is wrong, or was not queued; where `continue_on_error` is not set, nothing was queued.
        JobFailed: A job has ended without success.
        StillRunning: The time is over, or the user pressed Ctrl-C; jobs still run.
    """
    entries = [_Entry(file) for file in files]
    batch = uuid.uuid4().hex[:12]
    with settings.client() as client:
        for entry in entries:
            with _kept(entry):
                _validate(settings, client, entry, batch, options)
        refused = [entry for entry in entries if entry.refused]
        if options.check or (refused and not options.continue_on_error):
            _tell(settings, entries, batch)
            _raise_worst(entries, queued=False)
            return
        _create_all(settings, client, entries, continue_on_error=options.continue_on_error)
        stopped = _follow(settings, client, entries, batch, options.timeout) if options.watch else ""
        for entry in entries:
            _see_end(client, entry)
        _tell(settings, entries, batch)
    judged = entries if options.watch else [entry for entry in entries if entry.refused]
    _raise_worst(judged, queued=True, stopped=stopped)


@contextlib.contextmanager
def _kept(entry: _Entry) -> "Iterator[None]":
    """Keep what is wrong with one file with its entry, so that the others are looked at too."""
    try:
        yield
    except CliError as error:
        entry.failure = of_cli_error(error)
    except FinetreeError as error:
        if error.code == "UNAVAILABLE":
            raise  # nobody answers: no file is at fault
        entry.failure = of_service(error)


def _validate(settings: "Settings", client: "Client", entry: _Entry, batch: str, options: BatchOptions) -> None:
    from finetree_cli.commands.train import accept, prioritize, with_model
    from finetree_cli.data_check import check_uploads
    from finetree_cli.jobfile.error_positions import with_positions
    from finetree_cli.jobfile.job import read_job
    from finetree_cli.uploads import upload_job_data

    job = entry.job_file = read_job(entry.file)
    for key, value in (*options.labels, (LABEL, batch)):
        job.template.labels[key] = value
    prioritize(job.template, options.priority)
    if not job.template.display_name:
        job.template.display_name = entry.file
    if options.accepted:
        accept(job, tuple(options.accepted), evaluates=False)
    uploaded = upload_job_data(settings, client, job, {"dataset": None, "evaluation.dataset": None})

    def validate() -> "trainer_pb2.ValidateJobResponse":
        with with_positions(job):
            return client.validate_job(job.template)

    entry.plan = with_model(settings, client, job, validate, timeout=options.timeout)
    if options.check_data and not options.check:
        check_uploads(settings, client, job, uploaded)


def _create_all(
    settings: "Settings", client: "Client", entries: "Sequence[_Entry]", *, continue_on_error: bool
) -> None:
    for entry in entries:
        if entry.refused:
            continue
        created = False
        with _kept(entry):
            _create(settings, client, entry)
            created = True
        if not (created or continue_on_error):
            return


def _see_end(client: "Client", entry: _Entry) -> None:
    if entry.name:
        handle = client.job(entry.name)
        with _kept(entry):  # it may have been deleted
            entry.job = handle.refresh()
            entry.artifacts = [artifact.name for artifact in handle.artifacts()]


def _create(settings: "Settings", client: "Client", entry: _Entry) -> None:
    from finetree_cli.jobfile.error_positions import with_positions

    assert entry.job_file is not None  # noqa: S101 - it was validated
    with with_positions(entry.job_file):
        handle = client.create_job(entry.job_file.template)
    entry.name, entry.job = handle.name, handle.snapshot
    settings.out.say(f"{entry.file} is job {short_name(entry.name)}")


def _follow(
    settings: "Settings", client: "Client", entries: "Sequence[_Entry]", batch: str, timeout: float | None
) -> str:
    """Show the jobs until each has ended; return why that was given up, "" where it was not."""
    live = {entry.name: entry for entry in entries if entry.name}
    by_name = dict(live)

    def look_again() -> None:
        """Events are gone with a job that was deleted: see which jobs have ended meanwhile."""
        for name in list(live):
            with contextlib.suppress(NotFound):
                if not client.get_job(name).HasField("end_time"):
                    continue
            live.pop(name)

    events = project_events(
        client, look_again, kinds=FOLLOWED, labels={LABEL: batch}, min_interval=INTERVAL_SECONDS, timeout=timeout
    )
    try:
        with (
            batch_view(settings.out, {name: entry.file for name, entry in live.items()}) as view,
            contextlib.closing(events),
        ):
            while live:
                found = next(events, None)
                if found is None:
                    return "TIMED_OUT"
                event, _ = found
                entry = by_name.get(event.job)
                if entry is None:
                    continue
                entry.take(event)
                view.show(event)
                if event.HasField("terminal"):
                    live.pop(event.job, None)
    except KeyboardInterrupt:
        return "DETACHED"
    return ""


def _tell(settings: "Settings", entries: "Sequence[_Entry]", batch: str) -> None:
    """Print the sum: a table, or one object."""
    for entry in entries:
        if entry.failure is not None and not settings.out.json:
            for line in entry.failure.lines():
                settings.out.say(f"{entry.file}: {line}")
    if settings.out.json:
        settings.out.document({"batch": batch, "jobs": [_document(entry) for entry in entries]})
    else:
        show_batch(settings.out, [_row(entry) for entry in entries])
        if any(entry.name for entry in entries):
            settings.out.say(f"`finetree jobs list --label {LABEL}={batch}` lists them again")


def _row(entry: _Entry) -> BatchRow:
    refused = entry.failure.reason or "refused" if entry.failure is not None else ""
    return BatchRow(
        file=entry.file,
        job=entry.job,
        refused=refused,
        checked=entry.plan is not None,
        best_loss=entry.best_loss,
        of_evaluation=entry.best_is_evaluation,
        artifacts=[short_name(name) for name in entry.artifacts],
    )


def _document(entry: _Entry) -> dict[str, Any]:
    document: dict[str, Any] = {"file": entry.file, "exit_code": int(entry.exit_code)}
    if entry.failure is not None:
        document |= entry.failure.document()
    if entry.job is not None:
        document |= {"job": as_dict(entry.job), "artifacts": entry.artifacts}
    elif entry.plan is not None:
        document["plan"] = as_dict(entry.plan)
    if entry.best_loss is not None:
        document |= {"best_loss": entry.best_loss, "best_loss_of": "evaluation" if entry.best_is_evaluation else "step"}
    return document


def _raise_worst(entries: "Sequence[_Entry]", *, queued: bool, stopped: str = "") -> None:
    """Raise for the file with the worst end: one that failed, one that was refused, one that still runs."""
    failed = [entry for entry in entries if entry.exit_code == ExitCode.JOB_FAILED]
    refused = [entry for entry in entries if entry.failure is not None]
    running = [entry for entry in entries if entry.exit_code == ExitCode.STILL_RUNNING]
    if failed:
        text = f"{len(failed)} of {len(entries)} jobs did not succeed: {_files(failed)}"
        raise JobFailed(text, remedy="`finetree jobs show JOB` says why", reason="JOB_FAILED", reported=True)
    if refused:
        raise _Refused(refused, total=len(entries), queued=queued)
    if queued and running:
        text = f"{'detached' if stopped == 'DETACHED' else 'timed out'}; still running: {_files(running)}"
        remedy = "`finetree jobs wait JOB…` waits for them"
        raise StillRunning(text, remedy=remedy, reason=stopped or "TIMED_OUT", reported=True)


class _Refused(BadInput):
    """Files that were refused; the exit code is that of the first one's refusal."""

    def __init__(self, refused: "Sequence[_Entry]", *, total: int, queued: bool) -> None:
        text = f"{len(refused)} of {total} files were refused: {_files(refused)}"
        remedy = "" if queued else "nothing was queued; correct them, or leave them out with --continue-on-error"
        super().__init__(text, remedy=remedy, reason="FILES_REFUSED")
        self.reported = True
        worst = max((entry.failure.exit_code for entry in refused if entry.failure is not None), default=self.exit_code)
        self.exit_code = worst  # type: ignore[misc]  # of this one error, not of its class


def _files(entries: "Sequence[_Entry]") -> str:
    return ", ".join(entry.file for entry in entries)
