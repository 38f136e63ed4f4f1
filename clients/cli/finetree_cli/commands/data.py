# SPDX-License-Identifier: Apache-2.0
"""`finetree data`: check and preview training rows as a model's tokenizer sees them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetree_cli.errors import BadInput, GateFailed, column_flags
from finetree_cli.options.command import Group, Settings, pass_settings, take_flags
from finetree_cli.options.types import Label, Threshold

if TYPE_CHECKING:
    from finetree import Client, Job
    from finetree_api.trainer.v1 import dataset_pb2, job_pb2
    from finetree_api.types.v1 import training_data_pb2

    from finetree_cli.data_check import Checked
    from finetree_cli.render.trainer.dataset import Found

DEFAULT_MODEL = "smollm2-135m-instruct"
FINDINGS = ("error", "warning", "skipped", "truncated", "no-target", "duplicates", "leak", "prompt-leak")
FILE_FORMATS = ("jsonl", "json", "csv", "tsv", "parquet", "text")
SHOWN_ROWS = 3
"""Rows that a report shows as the model sees them."""
LOSS_TOKENS = ("completions", "last-completion", "all")


@dataclass(frozen=True, slots=True)
class CheckFlags:
    """Options of `finetree data check`; None and empty are not given."""

    file: str
    model: str
    held_out: str | None
    sequence_length: int | None
    loss_tokens: str
    thresholds: tuple[tuple[str, float], ...]
    columns: tuple[tuple[str, str], ...]
    accepted: tuple[str, ...]
    ignored: tuple[str, ...]
    file_format: str | None
    skip_bad_rows: bool
    on_server: bool
    local: bool
    detach: bool


@click.group(cls=Group, examples=("finetree data check train.jsonl", "finetree data preview DATASET"))
def data() -> None:
    """Check and preview training data."""


@data.command(
    examples=(
        "finetree data check train.jsonl --model smollm2-135m-instruct",
        "finetree data check train.jsonl --eval held-out.jsonl --fail-on leak --fail-on truncated=5%",
        "finetree data check train.jsonl --sequence-length 1024 --json | jq .findings",
        "finetree data check train.jsonl --local --eval held-out.jsonl --fail-on leak",
        "finetree data check corpora/train.jsonl --on-server",
    )
)
@click.argument("file")
@click.option(
    "--model", default=DEFAULT_MODEL, show_default=True, help="Model whose tokenizer and chat template are used."
)
@click.option("--eval", "held_out", metavar="FILE", help="Held-out rows; those that are also in FILE are reported.")
@click.option(
    "--sequence-length", type=click.IntRange(1), metavar="N", help="Longest row in tokens; longer ones are truncated."
)
@click.option(
    "--loss-tokens",
    type=click.Choice(LOSS_TOKENS),
    default=LOSS_TOKENS[0],
    show_default=True,
    help="Tokens that enter the loss.",
)
@click.option(
    "--fail-on",
    "thresholds",
    type=Threshold(FINDINGS),
    multiple=True,
    metavar="FINDING[=SHARE%]",
    help=f"Exit with 3 if more than this share of the rows (default 0 %) has the finding: {', '.join(FINDINGS)}. What "
    "`finetree train` refuses (error) always does, unless it is accepted.",
)
@click.option(
    "--column",
    "columns",
    type=Label(),
    multiple=True,
    metavar="PART=NAME",
    help="Name of a part of the row in FILE, such as prompt=question or completion=answers.text.0.",
)
@click.option("--accept", "accepted", multiple=True, metavar="CODE", help="Accept a finding, such as UNREAD_COLUMNS.")
@click.option("--ignore-column", "ignored", multiple=True, metavar="NAME", help="Column that may be left out.")
@click.option("--file-format", type=click.Choice(FILE_FORMATS), help="Format of FILE. [default: from its content]")
@click.option("--skip-bad-rows", is_flag=True, help="Skip malformed rows and list them; without it, they are an error.")
@click.option("--on-server", is_flag=True, help="FILE is a path under the trainer's data roots; nothing is uploaded.")
@click.option("--local", is_flag=True, help="Use no server, even if an address is given: lengths are then estimates.")
@click.option("--detach", is_flag=True, help="Start the trainer's job, print its name, and do not wait for it.")
@pass_settings
def check(settings: Settings, /, **flags: Any) -> None:
    """Report on the rows of FILE: what is asked, learned and left out, in three rows; then lengths, cuts and leaks.

    All rows are read. A trainer gets the file as an upload (the same content once), and a job of it tokenizes the rows
    with the model's tokenizer and chat template; a second check of that content reuses the result, and so does
    training. Ctrl-C cancels the job. Where no trainer is found, or with --local, the file is read here: rows and
    findings are the same, but no chat template is applied (turns are marked by their roles), --model is not used, and
    lengths are estimated from characters and messages. Parquet files are then read with pyarrow, where that is there.

    Exits with 2 if the data is malformed, with row and field, and with 3 if a finding is an error that is not accepted,
    or a --fail-on applies.
    """
    _check(settings, take_flags(CheckFlags, flags))


def _check(settings: Settings, flags: CheckFlags) -> None:
    from finetree_cli.backends.discovery import reads_locally
    from finetree_cli.data_check import read_locally
    from finetree_cli.options.local_rows import require_file

    if flags.held_out is None and any(name in ("leak", "prompt-leak") for name, _ in flags.thresholds):
        raise BadInput("--fail-on leak needs held-out rows", remedy="add --eval FILE")
    if flags.local and (flags.on_server or flags.detach):
        other = "--on-server" if flags.on_server else "--detach"
        raise BadInput(f"--local uses no server, and {other} needs one", remedy="leave one of them out")
    task = _task(flags)
    if not flags.on_server:
        for path in filter(None, (flags.file, flags.held_out)):
            require_file(Path(path))
    if flags.on_server or flags.detach or not reads_locally(settings, local=flags.local):
        _check_on_server(settings, task, flags)
        return
    task.dataset.path = str(Path(flags.file).absolute())
    if flags.held_out is not None:
        task.evaluation_dataset.path = str(Path(flags.held_out).absolute())
    _show(settings, read_locally(settings, task), flags.file, dict(flags.thresholds))


def _task(flags: CheckFlags) -> "job_pb2.PrepareTask":
    """Build the task without its files."""
    from finetree_api.trainer.v1 import job_pb2
    from finetree_api.types.v1 import training_data_pb2, training_pb2

    targets = training_pb2.LossTokens.Value(f"LOSS_TOKENS_{flags.loss_tokens.upper().replace('-', '_')}")
    task = job_pb2.PrepareTask(sequence_length=flags.sequence_length, loss_tokens=targets)
    reading = task.dataset.reading
    _set_reading(reading, flags.columns, skip_bad_rows=flags.skip_bad_rows)
    reading.accepted_findings.extend(flags.accepted)
    reading.ignored_columns.extend(flags.ignored)
    if flags.file_format is not None:
        reading.file_format = training_data_pb2.FileFormat.Value(f"FILE_FORMAT_{flags.file_format.upper()}")
    if flags.held_out is not None:
        task.evaluation_dataset.reading.CopyFrom(reading)
    return task


def _check_on_server(settings: Settings, task: "job_pb2.PrepareTask", flags: CheckFlags) -> None:
    from finetree_cli.data_check import follow_check
    from finetree_cli.follow import show_created
    from finetree_cli.options.spec import model_source

    task.model.CopyFrom(model_source(flags.model))
    with settings.client() as client:
        _set_source(settings, client, task.dataset, flags.file, on_server=flags.on_server)
        if flags.held_out is not None:
            _set_source(settings, client, task.evaluation_dataset, flags.held_out, on_server=flags.on_server)
        job = client.create_job(task, display_name=f"check {Path(flags.file).name}"[:256])
        if flags.detach:
            show_created(settings, job)
            return
        checked = follow_check(settings, job)
        if not settings.out.json:
            checked.rows.extend(_first_rows(client, job))
    _show(settings, checked, task.dataset.name or task.dataset.path, dict(flags.thresholds))


def _show(settings: Settings, checked: "Checked", source: str, thresholds: dict[str, float]) -> None:
    """Print what was found in a source of rows. Raises GateFailed where a threshold is exceeded."""
    from finetree_cli.output import short_name
    from finetree_cli.render.trainer import dataset

    found = dataset.findings(checked.reports, thresholds)
    if settings.out.json:
        settings.out.document(dataset.document(source, checked.job, checked.reports, found))
    else:
        dataset.show(settings.out, checked.reports, found, checked.rows)
        if checked.job:
            settings.out.say(f"`finetree data preview --job {short_name(checked.job)}` shows the rows")
    _refuse(found, reported=settings.out.json)


def _set_source(
    settings: Settings, client: "Client", source: "training_data_pb2.DatasetSource", file: str, *, on_server: bool
) -> None:
    from finetree_cli.uploads import upload

    if on_server:
        source.path = file
    else:
        source.name = upload(settings, client, Path(file), source.reading).name


def _set_reading(
    reading: "training_data_pb2.DatasetReading", columns: tuple[tuple[str, str], ...], *, skip_bad_rows: bool
) -> None:
    """Set how a file is read. Raises BadInput for an unknown part of a row."""
    from finetree_api.types.v1 import training_data_pb2

    parts = training_data_pb2.DatasetColumns.DESCRIPTOR.fields_by_name
    for part, name in columns:
        if part not in parts:
            raise BadInput(f"--column: unknown part {part!r}", remedy=f"the parts are: {', '.join(parts)}")
        setattr(reading.columns, part, name)
    if skip_bad_rows:
        reading.bad_rows = training_data_pb2.BAD_ROWS_SKIP


def _first_rows(client: "Client", job: "Job") -> "list[dataset_pb2.PreviewRow]":
    """Return the first training rows as the model sees them; none where the job kept none."""
    from itertools import islice

    from finetree import FailedPrecondition

    try:
        return list(islice(client.preview_dataset(job=job.name, split="train", page_size=SHOWN_ROWS), SHOWN_ROWS))
    except FailedPrecondition:
        return []


def _refuse(found: "list[Found]", *, reported: bool) -> None:
    failed = [one for one in found if one.failed]
    if failed:
        text = "; ".join(f"{one.name}: {one.count} of {one.rows} rows" for one in failed)
        codes = [one.name for one in failed if one.name.isupper()]
        remedy = "correct the rows, or allow a share: --fail-on NAME=5%"
        if codes:
            offers = column_flags(" ".join(one.message for one in failed))
            remedy = f"{offers}{'; ' * bool(offers)}to go on as it is: {' '.join(f'--accept {code}' for code in codes)}"
        raise GateFailed(text, reason="FINDINGS", remedy=remedy, reported=reported)


@data.command(
    examples=(
        "finetree data preview DATASET",
        "finetree data preview DATASET --only truncated --limit 5",
        "finetree data preview --job JOB --split evaluation --json",
    )
)
@click.argument("dataset", default="")
@click.option("--job", default="", help="A job that has checked a dataset, in place of its name.")
@click.option("--only", type=click.Choice(("truncated", "dropped", "no-target")), help="Only rows with this finding.")
@click.option("--split", type=click.Choice(("train", "evaluation")), help="Only rows of this split.")
@click.option("--limit", type=click.IntRange(1), default=10, show_default=True, help="Largest number of rows.")
@pass_settings
def preview(settings: Settings, /, *, dataset: str, job: str, only: str | None, split: str | None, limit: int) -> None:
    """Show rows of DATASET as the model sees them, with target tokens and truncated text marked.

    Shown are the rows that `finetree data check` has kept: the first ones, and the first of each finding.
    """
    from itertools import islice

    from finetree_cli.output import as_dict
    from finetree_cli.render.trainer import dataset as render

    if bool(dataset) == bool(job):
        raise BadInput("give either a dataset or --job", remedy="`finetree datasets list` lists the datasets")
    finding = only.replace("-", "_") if only else 0
    with settings.client() as client:
        pages = client.preview_dataset(dataset, job=job, finding=finding, split=split or 0, page_size=min(limit, 100))
        rows = list(islice(pages, limit))
    if settings.out.json:
        settings.out.document({"rows": [as_dict(row) for row in rows]})
        return
    for row in rows:
        render.show_row(settings.out, row)
    if not rows:
        settings.out.say("no such rows")
