# SPDX-License-Identifier: Apache-2.0
"""`finetree jobs`: list, show, export-log, metrics, cancel, download, report; others have files of their own."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finetree_cli.commands.jobs_checkpoints import checkpoints
from finetree_cli.commands.jobs_compare import compare
from finetree_cli.commands.jobs_delete import delete
from finetree_cli.commands.jobs_export import export
from finetree_cli.commands.jobs_label import label
from finetree_cli.commands.jobs_lineage import lineage
from finetree_cli.commands.jobs_logs import events, logs
from finetree_cli.commands.jobs_move import move
from finetree_cli.commands.jobs_pause import pause, resume
from finetree_cli.commands.jobs_push import push
from finetree_cli.commands.jobs_trace import trace
from finetree_cli.commands.jobs_wait import wait
from finetree_cli.commands.jobs_watch import watch
from finetree_cli.options.command import Group, Settings, pass_settings, report_formats
from finetree_cli.options.types import Duration, Label

if TYPE_CHECKING:
    from finetree import Job
    from finetree_api.trainer.v1 import event_pb2

STATES = (
    "queued",
    "preparing",
    "running",
    "pausing",
    "paused",
    "recovering",
    "cancelling",
    "succeeded",
    "failed",
    "cancelled",
)

TASKS = ("train", "prepare", "evaluate", "export", "serve")

LINE_POINTS = 40
"""Points of a curve that is drawn in a line of text."""


@click.group(
    cls=Group,
    examples=(
        "finetree jobs list --state running",
        "finetree jobs watch JOB",
        "finetree jobs logs JOB",
        "finetree jobs download JOB --output ./adapter",
    ),
)
def jobs() -> None:
    """List, follow, pause, move, cancel and download jobs.

    JOB is a name as `finetree train` and `finetree jobs list` print it.
    """


for _command in (
    watch,
    wait,
    label,
    delete,
    pause,
    resume,
    move,
    checkpoints,
    lineage,
    compare,
    logs,
    events,
    trace,
    export,
    push,
):
    jobs.add_command(_command)


@jobs.command(
    "list",
    examples=(
        "finetree jobs list --state queued --state running",
        "finetree jobs list --task train --label team=search --json | jq '.jobs[].name'",
    ),
)
@click.option(
    "--state", "states", type=click.Choice(STATES), multiple=True, help="Only in this state; may be repeated."
)
@click.option("--task", "tasks", type=click.Choice(TASKS), multiple=True, help="Only with this task; may be repeated.")
@click.option("--label", "labels", type=Label(), multiple=True, metavar="KEY=VALUE", help="Only with this label.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Largest number of jobs.")
@pass_settings
def list_jobs(
    settings: Settings,
    /,
    *,
    states: tuple[str, ...],
    tasks: tuple[str, ...],
    labels: tuple[tuple[str, str], ...],
    limit: int,
) -> None:
    """List jobs, newest first."""
    from itertools import islice

    from finetree_cli.output import as_dict
    from finetree_cli.render.trainer.jobs import show_list

    with settings.client() as client:
        pages = client.list_jobs(states=states, tasks=tasks, labels=dict(labels), page_size=min(limit, 1000))
        found = list(islice(pages, limit))
    if settings.out.json:
        settings.out.document({"jobs": [as_dict(job) for job in found]})
    else:
        show_list(settings.out, found)


@jobs.command(examples=("finetree jobs show JOB", "finetree jobs show JOB --json | jq .progress.fraction"))
@click.argument("job")
@pass_settings
def show(settings: Settings, job: str) -> None:
    """Show a job's present state."""
    from finetree_cli.render.trainer.jobs import show_job

    with settings.client() as client:
        found = client.get_job(job)
    if settings.out.json:
        settings.out.message(found)
    else:
        show_job(settings.out, found)


@jobs.command(
    "export-log",
    examples=(
        "finetree jobs export-log JOB --output run.jsonl",
        "finetree jobs export-log JOB --output run.jsonl && jq -c .event.step_metrics.loss run.jsonl",
    ),
)
@click.argument("job")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write. [default: the job's id, .jsonl]"
)
@pass_settings
def export_log(settings: Settings, job: str, output: Path | None) -> None:
    """Write a job and all of its events to a file, as JSON lines.

    The fake suite of the SDK plays it again: `Suite(replay="run.jsonl")` in a test. Of a job that still runs it is what
    there is so far.
    """
    from finetree.joblog import write_log

    with settings.client() as client:
        found = client.get_job(job)
        target = output or Path(f"{found.uid}.jsonl")
        count = write_log(target, found, _all_events(client.job(found.name), found.last_seq))
    if settings.out.json:
        settings.out.document({"path": str(target), "job": found.name, "events": count})
    else:
        settings.out.text(str(target))


def _all_events(job: "Job", last_seq: int) -> Iterator["event_pb2.JobEvent"]:
    """The events up to a number, oldest first."""
    pages: list[list[event_pb2.JobEvent]] = []
    before = last_seq + 1
    while page := job.list_events(last=1000, before_seq=before):
        pages.append(page)
        before = page[0].seq
        if before == 1:
            break
    return (event for page in reversed(pages) for event in page)


@jobs.command(
    examples=(
        "finetree jobs metrics JOB",
        "finetree jobs metrics JOB loss eval_loss --from-step 100 --points 1000 --csv > loss.csv",
    )
)
@click.argument("job")
@click.argument("metrics", nargs=-1, metavar="[METRIC]...")
@click.option("--from-step", type=click.IntRange(0), default=0, help="First step. [default: the first]")
@click.option("--to-step", type=click.IntRange(0), default=0, help="Last step. [default: the newest]")
@click.option(
    "--points", type=click.IntRange(1, 10000), help="Most points of a curve. [default: 500, as text what fits a line]"
)
@click.option("--csv", "as_table", is_flag=True, help="Write every point as a row of CSV.")
@pass_settings
def metrics(
    settings: Settings,
    /,
    *,
    job: str,
    metrics: tuple[str, ...],
    from_step: int,
    to_step: int,
    points: int | None,
    as_table: bool,
) -> None:
    """Show the curves of a job's metrics: loss, eval_loss, learning_rate, tokens_per_second and others.

    A curve has at most --points points; each keeps the smallest and the largest value of the steps it stands for.
    """
    from finetree_cli.render.trainer.metrics import as_csv, show_metrics

    with settings.client() as client:
        wanted = points or (500 if as_table or settings.out.json else LINE_POINTS)
        found = client.job(job).metrics(*metrics, first_step=from_step, last_step=to_step, points=wanted)
    if settings.out.json:
        settings.out.message(found)
    elif as_table:
        settings.out.text(as_csv(found).removesuffix("\n"))
    else:
        show_metrics(settings.out, found)


@jobs.command(examples=("finetree jobs cancel JOB", "finetree jobs cancel JOB --checkpoint --wait 60s"))
@click.argument("job")
@click.option("--checkpoint", is_flag=True, help="Save a checkpoint first.")
@click.option("--wait", type=Duration(), help="Wait up to this time until it has stopped.")
@pass_settings
def cancel(settings: Settings, job: str, checkpoint: bool, wait: float | None) -> None:
    """Cancel a job. Cancelling a job that has ended changes nothing."""
    from finetree import FinetreeTimeout
    from finetree_api.trainer.v1 import job_pb2

    from finetree_cli.errors import StillRunning
    from finetree_cli.render.trainer.jobs import state_name

    with settings.client() as client:
        handle = client.job(job)
        found = handle.cancel("CHECKPOINT" if checkpoint else "NOW")
        if found.state in (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED):
            settings.out.say("the job had ended already: nothing is cancelled")
        if wait is not None:
            try:
                found = handle.wait(timeout=wait)
            except FinetreeTimeout as error:
                raise StillRunning("the job has not stopped yet", reason="TIMED_OUT") from error
    if settings.out.json:
        settings.out.message(found)
    else:
        settings.out.text(state_name(found.state))


@jobs.command(
    examples=(
        "finetree jobs download JOB --output ./out",
        "finetree jobs download JOB --json",
        "finetree jobs download JOB --direct",
        "finetree jobs download JOB --links",
    )
)
@click.argument("job")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    show_default="the current folder",
    help="Folder for the artifacts; each gets a folder of its own.",
)
@click.option(
    "--direct",
    is_flag=True,
    help="Fetch the files straight from the trainer's object store, and from the trainer what cannot be.",
)
@click.option(
    "--links",
    is_flag=True,
    help="Print a URL for each file, from which anybody can fetch it until it expires, and download nothing.",
)
@pass_settings
def download(settings: Settings, /, *, job: str, output: Path, direct: bool, links: bool) -> None:
    """Download a job's artifacts, and say what loads them; an interrupted download is resumed."""
    if links:
        if direct or output != Path():
            raise click.UsageError("--links downloads nothing: leave --output and --direct out.")
        _print_links(settings, job)
        return
    from finetree_cli.errors import BadInput
    from finetree_cli.render.trainer.artifacts import show_next
    from finetree_cli.render.transfer import transfer

    try:
        with settings.client() as client, transfer(settings.out, "downloading") as on_progress:
            handle = client.job(job)
            folders = handle.download(output, direct=direct, on_progress=on_progress)
            artifacts = handle.artifacts()
    except OSError as error:
        raise BadInput(f"{output}: {error.strerror or error}", remedy="give a writable folder with --output") from error
    if settings.out.json:
        settings.out.document({"artifacts": [{"name": name, "path": str(path)} for name, path in folders.items()]})
        return
    for artifact in artifacts:
        if artifact.name in folders:
            settings.out.text(str(folders[artifact.name]))
            show_next(settings.out, artifact, folders[artifact.name])
    if not folders:
        settings.out.say("the job has no artifacts")


def _print_links(settings: Settings, job: str) -> None:
    """Print URLs alone on stdout, one a line, and on stderr what each is of and until when."""
    with settings.client() as client:
        handle = client.job(job)
        found = [handle.artifact_link(made.name, file.path) for made in handle.artifacts() for file in made.files]
    if settings.out.json:
        shown = [
            {
                "artifact": link.artifact,
                "path": link.file.path,
                "size_bytes": link.file.size_bytes,
                "sha256": link.file.sha256,
                "url": link.url,
                "expire_time": link.expire_time.isoformat().replace("+00:00", "Z"),
            }
            for link in found
        ]
        settings.out.document({"links": shown})
        return
    for link in found:
        settings.out.say(f"{link.file.path}: sha256 {link.file.sha256}, until {link.expire_time:%Y-%m-%d %H:%M:%S} UTC")
        settings.out.text(link.url)
    if not found:
        settings.out.say("the job has no artifacts")


@jobs.command(
    examples=(
        "finetree jobs report JOB --plan plan.json",
        "finetree jobs report JOB --plan plan.json --output text,json=plan.json",
    )
)
@click.argument("job_names", metavar="JOB...", nargs=-1, required=True)
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="The plan file that `finetree train --plan` has run.",
)
@report_formats
@pass_settings
def report(settings: Settings, /, *, job_names: tuple[str, ...], plan_file: Path, output: str) -> None:
    """Compare what ended jobs have taken with what their plans expected: memory, time and cost.

    The JSON output is the plan file with `actual` filled in; the other formats show the plans of these jobs alone.
    """
    from finetree_cli.gate.report import read_report, replace_plans
    from finetree_cli.gate.run.actual import with_actual
    from finetree_cli.render.gate.formats import parse_targets, write

    targets = parse_targets("json" if settings.out.json else output)
    found, shown = read_report(plan_file), {}
    with settings.client() as client:
        for name in job_names:
            found, entry = with_actual(client, found, name)
            shown[entry.file] = entry
    for target in targets:
        whole = target.format == "json"
        write(found if whole else replace_plans(found, shown.values()), (target,), settings.out)
