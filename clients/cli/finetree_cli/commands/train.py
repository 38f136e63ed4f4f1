# SPDX-License-Identifier: Apache-2.0
"""`finetree train`: run a job file and follow the job."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from finetree_cli.errors import BadInput
from finetree_cli.options.command import Command, Settings, pass_settings
from finetree_cli.options.spec import devices_option, divide, sharding_option, this_machine
from finetree_cli.options.types import Duration, Label

if TYPE_CHECKING:
    from collections.abc import Callable

    from finetree import Client, Job
    from finetree_api.trainer.v1 import dataset_pb2, job_pb2, trainer_pb2
    from finetree_api.types.v1 import model_pb2, run_spec_pb2, training_data_pb2

    from finetree_cli.gate.report import PlanEntry
    from finetree_cli.jobfile.job import JobFile

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainFlags:
    """Options of `finetree train`."""

    plan_file: Path | None
    max_age: float | None
    data: Path | None
    eval_data: Path | None
    init_from: str | None
    count: int | None
    sharding: str | None
    watch: bool
    timeout: float | None
    name: str
    labels: tuple[tuple[str, str], ...]
    priority: str | None
    request_id: str
    accepted: tuple[str, ...]
    no_data_check: bool
    check: bool
    continue_on_error: bool


@click.command(
    cls=Command,
    examples=(
        "finetree train job.yaml --data train.jsonl --eval-data held-out.jsonl --watch",
        "finetree train job.yaml --detach --json | jq -r .name",
        "finetree train job.yaml --timeout 30m --label team=search",
        "finetree train job.yaml --check",
        "finetree train job.yaml --data more.jsonl --init-from JOB",
        "finetree train job.yaml --devices 4 --sharding fsdp",
        "finetree train --plan plan.json training/job.yaml --max-age 7d",
        "finetree train runs/*.yaml --continue-on-error --json",
    ),
)
@click.argument("files", metavar="[FILE]...", nargs=-1)
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Run exactly a plan that `finetree check` let pass; FILE chooses among several.",
)
@click.option(
    "--max-age",
    type=Duration(),
    metavar="TIME",
    help="With --plan: longest time since the check, such as 7d; counted in days.",
)
@click.option("--data", type=click.Path(path_type=Path), metavar="FILE", help="File to upload and train on.")
@click.option("--eval-data", type=click.Path(path_type=Path), metavar="FILE", help="File to upload and evaluate on.")
@click.option(
    "--init-from",
    metavar="WEIGHTS",
    help="Start from a JOB's result, JOB@STEP (a checkpoint), JOB/artifacts/ID, or an adapter's ./FOLDER under a model "
    "root of the trainer.",
)
@devices_option
@sharding_option
@click.option("--watch/--detach", default=True, help="Follow the job to its end, or return once it is accepted.")
@click.option("--timeout", type=Duration(), help="Stop watching after this time, such as 30m; the job still runs.")
@click.option("--name", default="", help="Display name of the job. [default: FILE's, else METHOD of MODEL on DATA]")
@click.option("--label", "labels", type=Label(), multiple=True, metavar="KEY=VALUE", help="Label; may be repeated.")
@click.option(
    "--priority",
    type=click.Choice(("low", "normal", "high")),
    help="Place among the jobs that wait for the same device. [default: that of FILE, or normal]",
)
@click.option("--request-id", default="", help="Idempotency key: the same key always gives the same job.")
@click.option(
    "--accept", "accepted", multiple=True, metavar="CODE", help="Accept a finding of the data, such as UNREAD_COLUMNS."
)
@click.option("--no-data-check", is_flag=True, help="Do not check all rows of large uploads before the job is created.")
@click.option("--check", is_flag=True, help="Check the job and show its resolved plan; create nothing.")
@click.option("--continue-on-error", is_flag=True, help="Of several files, leave out those that are refused.")
@pass_settings
def train(settings: Settings, /, files: tuple[str, ...], **flags: Any) -> None:
    """Train a job file, and follow the job; or several.

    FILE is a job file, or - for stdin. A dataset that it gives by a path on this machine is uploaded first; so are
    --data and --eval-data, and all rows of a large file (16 MiB of content, or Parquet) are checked before the job is
    created, which then tokenizes nothing again. A model that is not prepared yet is prepared first. Ctrl-C stops
    watching, not the job. With --json, stdout has one event on each line; with --detach, the job; with --check, the
    plan.

    Several files are all checked before any is queued; one that is refused stops all, unless --continue-on-error leaves
    it out. They are queued in the order given and followed together, and a table says what has become of each: state,
    best loss, time, cost, artifacts. The exit code is the worst one. With --json, stdout has one object at the end.

    With --init-from, the run starts from trained weights in place of the base model, with a fresh optimizer and
    schedule: another file, more epochs, another learning rate. The model may be left out of FILE, if a job made the
    weights, and so may the method and those of its settings that the weights have their shape by.

    With --devices and --sharding, the run is divided as they say, not as FILE says; a file without hardware trains on
    the trainer's first kind of device.

    With --plan, the job runs as its plan was approved, or not at all: the plan must have passed, its waivers must still
    hold, and job file, data, policy, prices and formulas must be those of the check; otherwise it exits with 3 and
    names what differs. The job keeps the digest and who overrode or waived a limit; `finetree jobs show` shows them.
    """
    given = TrainFlags(**flags)
    if len(files) > 1:
        _train_several(settings, files, given)
    else:
        _train_one(settings, files[0] if files else None, given)


def _train_one(settings: Settings, file: str | None, flags: TrainFlags) -> None:
    from finetree_cli.data_check import check_uploads
    from finetree_cli.jobfile.job import read_job
    from finetree_cli.uploads import upload_job_data

    _refuse_contradictions(file, flags)
    approved = _approved(settings, flags.plan_file, file, max_age=flags.max_age) if flags.plan_file else None
    job = approved.job if approved is not None else read_job(file or "")
    _describe(job.template, flags)
    if flags.accepted:
        accept(job, flags.accepted, evaluates=flags.eval_data is not None)
    with settings.client() as client:
        if flags.init_from:
            _start_from(client, job, flags.init_from)
        files = {"dataset": flags.data, "evaluation.dataset": flags.eval_data}
        uploaded = upload_job_data(settings, client, job, files)
        _divide(client, job.spec, flags)
        if approved is not None:
            _approve(settings, client, approved, uploaded, timeout=flags.timeout)
        if flags.check:
            _check(settings, client, job)
            return
        if not flags.no_data_check:
            check_uploads(settings, client, job, uploaded)
        if not job.template.display_name:
            job.template.display_name = default_name(job.spec, _data_name(client, job.spec.dataset, uploaded))
        handle = create(settings, client, job, request_id=flags.request_id, timeout=flags.timeout)
        _show(settings, handle, watch=flags.watch, timeout=flags.timeout)


def _train_several(settings: Settings, files: tuple[str, ...], flags: TrainFlags) -> None:
    from finetree_cli.commands.train_batch import BatchOptions, train_batch

    for name, flag in _OF_ONE.items():
        if getattr(flags, name):
            raise click.UsageError(f"{flag} is for one job file: name one, or write it into the files")
    if flags.max_age is not None:
        raise click.UsageError("--max-age needs --plan, which is for one job file")
    options = BatchOptions(
        continue_on_error=flags.continue_on_error,
        watch=flags.watch,
        check=flags.check,
        timeout=flags.timeout,
        labels=flags.labels,
        priority=flags.priority,
        accepted=flags.accepted,
        check_data=not flags.no_data_check,
    )
    train_batch(settings, files, options)


_OF_ONE = {
    "plan_file": "--plan",
    "data": "--data",
    "eval_data": "--eval-data",
    "init_from": "--init-from",
    "count": "--devices",
    "sharding": "--sharding",
    "name": "--name",
    "request_id": "--request-id",
}
"""Options that only one job file can have: fields of `TrainFlags`, with their flags."""


def _refuse_contradictions(file: str | None, flags: TrainFlags) -> None:
    if flags.plan_file is not None:
        if flags.data or flags.eval_data:
            raise click.UsageError("--plan trains on the plan's own data: leave --data and --eval-data out")
        if flags.accepted:
            raise click.UsageError("--plan accepts what its job file accepts: leave --accept out")
        if flags.init_from:
            raise click.UsageError("--plan starts from the weights of its job file: leave --init-from out")
        if flags.count or flags.sharding:
            raise click.UsageError("--plan runs on the plan's own devices: leave --devices and --sharding out")
    elif file is None:
        raise click.UsageError("name a job file")
    elif flags.max_age is not None:
        raise click.UsageError("--max-age needs --plan")


def _describe(template: "job_pb2.JobTemplate", flags: TrainFlags) -> None:
    """Set what flags say of the job beside its task; what they leave out stays as in the file."""
    template.display_name = flags.name or template.display_name
    template.labels.update(flags.labels)
    prioritize(template, flags.priority)


def prioritize(template: "job_pb2.JobTemplate", priority: str | None) -> None:
    """Set the priority that `--priority` names; without one that of the file stays."""
    from finetree_api.trainer.v1 import job_pb2

    if priority is not None:
        template.priority = job_pb2.JobPriority.Value(f"JOB_PRIORITY_{priority.upper()}")


def default_name(spec: "run_spec_pb2.RunSpec", data: str) -> str:
    """Return what a job is called that nobody has named: "lora of smollm2-135m-instruct on train.jsonl".

    It is of the request alone, so that a request that is repeated with its id stays the same.
    """
    model = spec.model.name or (spec.model.hub.id or spec.model.path).rstrip("/").rpartition("/")[2] or "a model"
    method = spec.WhichOneof("method")
    return " ".join((*((method, "of") if method else ()), model, *(("on", data) if data else ())))[:256]


def _data_name(
    client: "Client", source: "training_data_pb2.DatasetSource", uploaded: "dict[str, dataset_pb2.Dataset]"
) -> str:
    """Name of the training data for people; empty where there is none."""
    from finetree import NotFound

    if "dataset" in uploaded:
        return uploaded["dataset"].display_name
    if source.WhichOneof("source") == "name":
        try:
            return client.get_dataset(source.name).display_name
        except NotFound:
            return ""  # the trainer refuses it, with its position in the job file
    return source.path.rpartition("/")[2]


def _start_from(client: "Client", job: "JobFile", weights: str) -> None:
    """Have the job start from weights, on the model of the job that made them unless it names one."""
    from finetree.spec import model_of

    spec = job.spec
    spec.init_from.CopyFrom(client.trained_weights(weights))
    parent = (spec.init_from.artifact or spec.init_from.checkpoint).partition("/artifacts/")[0]
    parent = parent.partition("/checkpoints/")[0]
    if parent and not spec.HasField("model"):
        spec.model.CopyFrom(model_of(client.get_job(parent)))


def _divide(client: "Client", spec: "run_spec_pb2.RunSpec", flags: TrainFlags) -> None:
    """Set on how many devices the run is and what is divided over them, where a flag says so."""
    if flags.count is None and flags.sharding is None:
        return
    if spec.hardware.WhichOneof("device") is None:
        # Their number alone names no device.
        spec.hardware.MergeFrom(this_machine(client.capacity()).hardware)
    divide(spec.hardware, count=flags.count, sharding=flags.sharding)


def accept(job: "JobFile", codes: tuple[str, ...], *, evaluates: bool) -> None:
    """Accept findings of the training rows, and of held-out rows where the job has some."""
    job.spec.dataset.reading.accepted_findings.extend(codes)
    if evaluates or job.spec.evaluation.HasField("dataset"):
        job.spec.evaluation.dataset.reading.accepted_findings.extend(codes)


def create(
    settings: Settings, client: "Client", job: "JobFile", *, request_id: str = "", timeout: float | None = None
) -> "Job":
    """Create the job; if it trains and its model is not prepared, prepare the model first."""
    from finetree_cli.jobfile.error_positions import with_positions

    def call() -> "Job":
        with with_positions(job):
            return client.create_job(job.template, request_id=request_id)

    return with_model(settings, client, job, call, timeout=timeout)


def with_model(
    settings: Settings, client: "Client", job: "JobFile", call: "Callable[[], T]", *, timeout: float | None
) -> "T":
    """Call the trainer; if the job's model is not prepared, prepare it and call again."""
    from finetree import FailedPrecondition

    try:
        return call()
    except (FailedPrecondition, BadInput) as error:
        # A refusal that names the model as the field at fault has become one of the job file.
        if error.reason != "MODEL_NOT_PREPARED":
            raise
    prepare(settings, client, job.spec.model, timeout=timeout)
    return call()


@dataclass(frozen=True, slots=True)
class _Approved:
    """A plan that passed, and its job with the plan's resolved run."""

    entry: "PlanEntry"
    job: "JobFile"


def _approved(settings: Settings, plan_file: Path, file: str | None, *, max_age: float | None) -> _Approved:
    from datetime import UTC, datetime

    from finetree_cli.gate.report import read_report
    from finetree_cli.gate.run import approved as approved_run

    report = read_report(plan_file)
    entry = approved_run.choose_entry(report, file)
    approved_run.require_passed(report, entry, today=datetime.now(UTC).date(), max_age=max_age)
    job = approved_run.read_approved_job(entry, lambda present: _resolve(settings, present))
    for key, value in approved_run.annotations(report, entry).items():
        job.template.annotations[key] = value
    return _Approved(entry, job)


def _resolve(settings: Settings, job: "JobFile") -> "run_spec_pb2.RunSpec | None":
    """Fill in the defaults of a job file's run; None where no estimator answers."""
    from finetree import FinetreeError
    from finetree_api.estimator.v1 import estimate_pb2

    from finetree_cli.backends.estimator import open_estimator
    from finetree_cli.errors import CliError

    try:
        with open_estimator(settings, "EstimateRun") as estimator:
            return estimator.estimate(estimate_pb2.EstimateRunRequest(spec=job.spec)).resolved_spec
    except (CliError, FinetreeError):
        return None


def _approve(
    settings: Settings,
    client: "Client",
    approved: _Approved,
    uploaded: "dict[str, dataset_pb2.Dataset]",
    *,
    timeout: float | None,
) -> None:
    """Give the job its approved plan; what the trainer says of uploaded data replaces what the check knew of it."""
    from finetree import PlanDrift

    from finetree_cli.gate.run import approved as approved_run
    from finetree_cli.jobfile.error_positions import with_positions

    job, entry = approved.job, approved.entry
    task = job.template.train
    task.approved_plan.CopyFrom(approved_run.approved_plan(entry))

    def validate() -> "trainer_pb2.ValidateJobResponse":
        with with_positions(job):
            return client.validate_job(job.template)

    try:
        with_model(settings, client, job, validate, timeout=timeout)
    except BadInput as error:
        if any("approved_plan" in problem.field_path for problem in error.problems):
            text = f"the plan of {entry.file} is not the one that its digest was made of: it has been edited"
            raise BadInput(text, remedy="take plan.json as `finetree check` wrote it", reason="PLAN_EDITED") from error
        raise
    except PlanDrift as error:
        violations = [(item.field, item.description) for item in error.violations]
        task.ClearField("approved_plan")
        present = validate()
        approved_run.require_same_but_data(entry, violations, present, uploaded)
        # Held from here on: nothing may change between this answer and the job.
        task.approved_plan.CopyFrom(present.plan)


def prepare(
    settings: Settings, client: "Client", model: "model_pb2.ModelSource", *, timeout: float | None = None
) -> None:
    """Prepare a model, and show on stderr how far the job is that does."""
    from finetree_cli.follow import follow

    settings.out.say("preparing the model")
    follow(settings, client.prepare(model=model, display_name="prepare model"), timeout=timeout, aside=True)


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


def _show(settings: Settings, handle: "Job", *, watch: bool, timeout: float | None) -> None:
    from finetree_cli.follow import show_created

    settings.out.say(f"job {handle.name}")
    if watch:
        _watch(settings, handle, timeout)
    else:
        show_created(settings, handle)


def _watch(settings: Settings, handle: "Job", timeout: float | None) -> None:
    from finetree_cli.follow import follow
    from finetree_cli.output import short_name
    from finetree_cli.render.trainer.jobs import show_end

    terminal = follow(settings, handle, timeout=timeout)
    if not settings.out.json:
        show_end(settings.out, terminal.summary, handle.artifacts())
        settings.out.say(f"`finetree jobs download {short_name(handle.name)}` downloads the artifacts")
