# SPDX-License-Identifier: Apache-2.0
"""`finetree jobs wait`: several jobs at once, without a stream, for CI."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from finetree_cli.errors import JobFailed, StillRunning
from finetree_cli.options.command import Command, Settings, pass_settings
from finetree_cli.options.types import Duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from finetree import Client
    from finetree_api.trainer.v1 import job_pb2, waiting_pb2

ASKED: dict[str, tuple[str, ...]] = {"succeeded": ("succeeded",), "terminal": (), "running": ("running",)}
"""States that are asked for, by what is waited for; none means the terminal ones."""
LONGEST_WAIT = 20
"""Seconds of one call for a single job."""
TURN = 2
"""Seconds of one call where several jobs are waited for: the others are looked at between."""
PAUSE_SECONDS = 0.2
"""Pause between looks when less than a second is left."""


@dataclass(slots=True)
class _Waited:
    """A job, as it was last seen, and whether what was waited for has come."""

    name: str
    job: "job_pb2.Job | None" = None
    reached: bool = False

    @property
    def state(self) -> str:
        """In a word, as commands show it; "" before it was seen."""
        from finetree_cli.render.trainer.jobs import state_name

        return state_name(self.job.state) if self.job is not None else ""

    @property
    def ended(self) -> bool:
        return self.job is not None and self.job.HasField("end_time")


@click.command(
    "wait",
    cls=Command,
    examples=(
        "finetree jobs wait JOB --timeout 2h",
        "finetree jobs wait JOB JOB JOB --for terminal --json | jq '.jobs[].state'",
        "finetree jobs wait JOB --for running --timeout 10m",
    ),
)
@click.argument("job_names", metavar="JOB...", nargs=-1, required=True)
@click.option(
    "--for",
    "awaited",
    type=click.Choice(tuple(ASKED)),
    default="succeeded",
    show_default=True,
    help="What is waited for; a job that has succeeded has been running.",
)
@click.option("--timeout", type=Duration(), help="Longest time in all, such as 2h; the jobs still run. [default: none]")
@pass_settings
def wait(settings: Settings, /, *, job_names: tuple[str, ...], awaited: str, timeout: float | None) -> None:
    """Wait for jobs, by short calls that every proxy lets through.

    Exits with 0 when what was waited for has come for all of them, with 4 when a job has ended otherwise (the others
    are waited for first), with 6 when the time is over.
    """
    from finetree_cli.output import short_name

    jobs = [_Waited(name) for name in dict.fromkeys(job_names)]
    why, reason = "timed out", "TIMED_OUT"
    try:
        with settings.client() as client:
            for done in _wait(client, jobs, awaited, timeout):
                settings.out.say(f"{short_name(done.name)}  {done.state}")
    except KeyboardInterrupt:
        # What has come by now is told all the same: the last job may have ended just before.
        why, reason = "detached", "DETACHED"
    if settings.out.json:
        settings.out.document({"for": awaited, "jobs": [_document(each) for each in jobs]})
    failed = [each for each in jobs if each.ended and not each.reached]
    waiting = [each for each in jobs if not each.ended and not each.reached]
    if failed:
        names = ", ".join(f"{short_name(each.name)} {each.state}" for each in failed)
        remedy = f"`finetree jobs show {short_name(failed[0].name)}` says why"
        raise JobFailed(f"ended otherwise: {names}", remedy=remedy, reason="JOB_FAILED", reported=True)
    if waiting:
        names = ", ".join(f"{short_name(each.name)} {each.state}".strip() for each in waiting)
        remedy = "the same command waits for them again"
        if paused := next((each for each in waiting if each.state == "paused"), None):
            remedy = f"`finetree jobs resume {short_name(paused.name)}` goes on with it; {remedy}"
        raise StillRunning(f"{why}; not there yet: {names}", remedy=remedy, reason=reason, reported=True)


def _wait(client: "Client", jobs: list[_Waited], awaited: str, timeout: float | None) -> "Iterator[_Waited]":
    """Wait for each job; yield it when it is decided, or when nothing is left of the time."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pending = list(jobs)
    while pending:
        left = None if deadline is None else deadline - time.monotonic()
        for place, each in enumerate(list(pending)):
            turn = LONGEST_WAIT if len(pending) == 1 else TURN if place == 0 else 0
            _look(client, each, awaited, turn if left is None else max(0, min(turn, int(left))))
            if each.reached or each.ended:
                pending.remove(each)
                yield each
        if left is not None and left <= 0:
            return
        if left is not None and left < 1:
            time.sleep(min(left, PAUSE_SECONDS))


def _look(client: "Client", each: _Waited, awaited: str, seconds: int) -> None:
    from finetree_api.trainer.v1 import job_pb2

    found: waiting_pb2.WaitJobResponse = client.wait_job(each.name, *ASKED[awaited], wait=seconds)
    each.job = found.job
    ran = awaited == "running" and found.job.state == job_pb2.JOB_STATE_SUCCEEDED
    each.reached = found.reached or ran


def _document(each: _Waited) -> dict[str, Any]:
    from finetree_api.trainer.v1 import job_pb2

    if each.job is None:  # interrupted before it was looked at
        return {"job": each.name, "state": None, "reached": False, "ended": False}
    document: dict[str, Any] = {
        "job": each.job.name,
        "state": job_pb2.JobState.Name(each.job.state),
        "reached": each.reached,
        "ended": each.ended,
    }
    if each.job.error.message:
        document["error"] = each.job.error.message
    return document
