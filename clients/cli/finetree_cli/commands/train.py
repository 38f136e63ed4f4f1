# SPDX-License-Identifier: Apache-2.0
"""`finetree train`: run a job file and follow the job."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from finetree_cli.options.command import Command, Settings, pass_settings
from finetree_cli.options.types import Duration, Label

if TYPE_CHECKING:
    from finetree import Client, Job
    from finetree_api.types.v1 import model_pb2

    from finetree_cli.jobfile.job import JobFile


@click.command(
    cls=Command,
    examples=(
        "finetree train job.yaml --data train.jsonl --eval-data held-out.jsonl --watch",
        "finetree train job.yaml --detach --json | jq -r .name",
        "finetree train job.yaml --timeout 30m --label team=search",
        "finetree train job.yaml --check",
    ),
)
@click.argument("file")
@click.option("--data", type=click.Path(path_type=Path), metavar="FILE", help="File to upload and train on.")
@click.option("--eval-data", type=click.Path(path_type=Path), metavar="FILE", help="File to upload and evaluate on.")
@click.option("--watch/--detach", default=True, help="Follow the job to its end, or return once it is accepted.")
@click.option("--timeout", type=Duration(), help="Stop watching after this time, such as 30m; the job still runs.")
@click.option("--name", default="", help="Display name of the job.")
@click.option("--label", "labels", type=Label(), multiple=True, metavar="KEY=VALUE", help="Label; may be repeated.")
@click.option("--request-id", default="", help="Idempotency key: the same key always gives the same job.")
@click.option("--check", is_flag=True, help="Check the job and show its resolved plan; create nothing.")
@pass_settings
def train(
    settings: Settings,
    /,
    *,
    file: str,
    data: Path | None,
    eval_data: Path | None,
    watch: bool,
    timeout: float | None,
    name: str,
    labels: tuple[tuple[str, str], ...],
    request_id: str,
    check: bool,
) -> None:
    """Train a job file, and follow the job.

    FILE is a job file, or - for stdin. A dataset that it gives by a path on this machine is uploaded first; so are
    --data and --eval-data. A model that is not prepared yet is prepared first. Ctrl-C stops watching, not the job. With
    --json, stdout has one event on each line; with --detach, the job; with --check, the plan.
    """
    from finetree_cli.jobfile.job import read_job
    from finetree_cli.uploads import upload_job_data

    job = read_job(file)
    if name:
        job.template.display_name = name
    for key, value in labels:
        job.template.labels[key] = value
    with settings.client() as client:
        upload_job_data(settings, client, job, {"dataset": data, "evaluation.dataset": eval_data})
        if check:
            _check(settings, client, job)
            return
        handle = create(settings, client, job, request_id=request_id, timeout=timeout)
        settings.out.say(f"job {handle.name}")
        if watch:
            _watch(settings, handle, timeout)
        else:
            _show_created(settings, handle)


def create(
    settings: Settings, client: "Client", job: "JobFile", *, request_id: str = "", timeout: float | None = None
) -> "Job":
    """Create the job; if it trains and its model is not prepared, prepare the model first."""
    from finetree import FailedPrecondition

    from finetree_cli.jobfile.error_positions import with_positions

    with with_positions(job):
        try:
            return client.create_job(job.template, request_id=request_id)
        except FailedPrecondition as error:
            if error.reason != "MODEL_NOT_PREPARED":
                raise
    prepare(settings, client, job.spec.model, timeout=timeout)
    with with_positions(job):
        return client.create_job(job.template, request_id=request_id)


def prepare(
    settings: Settings, client: "Client", model: "model_pb2.ModelSource", *, timeout: float | None = None
) -> None:
    """Prepare a model, and follow the job that does."""
    from finetree_cli.follow import follow

    settings.out.say("preparing the model")
    follow(settings, client.prepare(model=model, display_name="prepare model"), timeout=timeout)


def _check(settings: Settings, client: "Client", job: "JobFile") -> None:
    from finetree_cli.jobfile.error_positions import with_positions
    from finetree_cli.render.trainer.jobs import refuse_failed_checks, show_plan

    with with_positions(job):
        plan = client.validate_job(job.template)
    if settings.out.json:
        settings.out.message(plan)
    else:
        show_plan(settings.out, plan)
    refuse_failed_checks(plan.checks)


def _watch(settings: Settings, handle: "Job", timeout: float | None) -> None:
    from finetree_cli.follow import follow
    from finetree_cli.output import short_name
    from finetree_cli.render.trainer.jobs import show_end

    terminal = follow(settings, handle, timeout=timeout)
    if not settings.out.json:
        show_end(settings.out, terminal.summary, handle.artifacts())
        settings.out.say(f"`finetree jobs download {short_name(handle.name)}` downloads the artifacts")


def _show_created(settings: Settings, handle: "Job") -> None:
    from finetree_cli.output import short_name

    if settings.out.json:
        settings.out.message(handle.snapshot or handle.refresh())
    else:
        settings.out.text(handle.name)
    settings.out.say(f"`finetree jobs watch {short_name(handle.name)}` follows it")
