# SPDX-License-Identifier: Apache-2.0
"""Follow a job to its end, and turn its end into an exit code."""

from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING

from finetree import FinetreeError, FinetreeTimeout
from finetree_api.trainer.v1 import event_pb2, job_pb2

from finetree_cli.errors import JobFailed, StillRunning
from finetree_cli.options.command import Settings
from finetree_cli.output import short_name
from finetree_cli.render.trainer.events import messages_view, view

if TYPE_CHECKING:
    from finetree import Job, Serving

Seen = Callable[[event_pb2.JobEvent], None]


def follow(
    settings: Settings,
    job: "Job",
    *,
    timeout: float | None = None,
    after_seq: int = 0,
    seen: Seen | None = None,
    aside: bool = False,
) -> event_pb2.Terminal:
    """Show a job's events until its end and return the last; `seen` is called with each event.

    `aside`: it is not the job that was asked for, so stdout is left to that one, as JSON too.

    Raises:
        StillRunning: The timeout has passed, or the user pressed Ctrl-C; the job still runs, or is paused.
        JobFailed: It ended without success.
    """
    terminal, state = event_pb2.Terminal(), job_pb2.JOB_STATE_UNSPECIFIED
    try:
        with messages_view(settings.out) if aside else view(settings.out) as shown:
            for event in job.events(after_seq=after_seq, timeout=timeout):
                shown.show(event)
                state = event.state
                if seen is not None:
                    seen(event)
                if event.WhichOneof("payload") == "terminal":
                    terminal = event.terminal
    except KeyboardInterrupt:
        raise _left(job, "detached", state, reason="DETACHED") from None
    except FinetreeTimeout as error:
        raise _left(job, "timed out", state, reason="TIMED_OUT") from error
    refuse_failure(job.name, terminal)
    return terminal


def follow_helper(
    settings: Settings, job: "Job", seen: Seen, *, kinds: Collection[str], timeout: float | None = None
) -> event_pb2.Terminal:
    """Follow a job for which nobody else waits, on stderr, and return its last event; Ctrl-C cancels the job.

    `seen` is called with each event; those with a payload of `kinds` are shown. Raises FinetreeTimeout.
    """
    terminal = event_pb2.Terminal()
    try:
        with messages_view(settings.out) as shown:
            for event in job.events(timeout=timeout):
                payload = event.WhichOneof("payload")
                seen(event)
                if payload == "terminal":
                    terminal = event.terminal
                elif payload in kinds:
                    shown.show(event)
    except KeyboardInterrupt:
        with suppress(FinetreeError):
            job.cancel()
        settings.out.say(f"cancelled job {short_name(job.name)}")
        raise
    return terminal


def wait_ready(settings: Settings, serving: "Serving", *, timeout: float | None = None) -> None:
    """Show on stderr how a base model is loaded, until it answers.

    Raises:
        FinetreeTimeout: It was not ready in time.
        JobFailed: It could not be loaded.
    """
    with messages_view(settings.out) as shown:
        for event in serving.job.events(timeout=timeout):
            shown.show(event)
            if event.HasField("terminal"):
                refuse_failure(serving.job.name, event.terminal)
            if event.state == job_pb2.JOB_STATE_RUNNING:
                break
    serving.wait_ready(timeout=timeout)


def refuse_failure(name: str, terminal: event_pb2.Terminal) -> None:
    """Raise JobFailed unless the job succeeded."""
    if terminal.state == job_pb2.JOB_STATE_SUCCEEDED:
        return
    if terminal.state == job_pb2.JOB_STATE_CANCELLED:
        raise JobFailed(f"job {short_name(name)} was cancelled", reason="CANCELLED")
    reason = error_reason(terminal)
    text = terminal.error.message or "no reason given"
    remedy = (
        "the failure may be temporary: try again"
        if terminal.retryable
        else f"`finetree jobs logs {short_name(name)}` shows its log"
    )
    raise JobFailed(f"job {short_name(name)} failed: {text}", remedy=remedy, reason=reason)


def error_reason(terminal: event_pb2.Terminal) -> str:
    """Return the stable reason of a failure; JOB_FAILED without one."""
    from google.rpc import error_details_pb2

    info = error_details_pb2.ErrorInfo()
    for detail in terminal.error.details:
        if detail.Unpack(info):
            return info.reason
    return "JOB_FAILED"


def show_created(settings: Settings, job: "Job") -> None:
    """Print a job that is left to itself."""
    if settings.out.json:
        settings.out.message(job.snapshot or job.refresh())
    else:
        settings.out.text(job.name)
    settings.out.say(f"`finetree jobs watch {short_name(job.name)}` follows it")


def _left(job: "Job", why: str, state: job_pb2.JobState.ValueType, *, reason: str) -> StillRunning:
    """Say how a job stands that is not followed any more."""
    name = short_name(job.name)
    if state == job_pb2.JOB_STATE_PAUSED:
        remedy = f"`finetree jobs resume {name}` goes on with it, `finetree jobs cancel {name}` ends it"
        return StillRunning(f"{why}; the job is paused", remedy=remedy, reason=reason)
    remedy = f"`finetree jobs watch {name}` follows it again, `finetree jobs cancel {name}` stops it"
    return StillRunning(f"{why}; the job still runs", remedy=remedy, reason=reason)
