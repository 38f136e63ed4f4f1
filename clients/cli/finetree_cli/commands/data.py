# SPDX-License-Identifier: Apache-2.0
"""`finetree data`: what a file of rows holds, as a model's tokenizer reads it."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from finetree_cli.errors import BadInput, GateFailed
from finetree_cli.options.command import Group, Settings, pass_settings
from finetree_cli.options.types import Label, Threshold

if TYPE_CHECKING:
    from finetree import Client, Job
    from finetree_api.trainer.v1 import event_pb2
    from finetree_api.types.v1 import run_spec_pb2

    from finetree_cli.render.trainer.dataset import Found

DEFAULT_MODEL = "smollm2-135m-instruct"
FINDINGS = ("skipped", "truncated", "no-target", "duplicates", "leak", "prompt-leak")
FILE_FORMATS = ("jsonl", "json", "csv", "tsv", "parquet", "text")
LEARNED = ("completions", "last-completion", "all")


@click.group(cls=Group, examples=("finetree data check train.jsonl", "finetree data preview DATASET"))
def data() -> None:
    """Look at training data before anything is trained on it."""


@data.command(
    examples=(
        "finetree data check train.jsonl --model smollm2-135m-instruct",
        "finetree data check train.jsonl --eval held-out.jsonl --fail-on leak --fail-on truncated=5%",
        "finetree data check train.jsonl --sequence-length 1024 --json | jq .findings",
        "finetree data check corpora/train.jsonl --on-server",
    )
)
@click.argument("file")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Whose tokenizer and template read the rows.")
@click.option("--eval", "held_out", metavar="FILE", help="Held-out rows: also tells which of them are in FILE.")
@click.option("--sequence-length", type=click.IntRange(1), metavar="N", help="Tokens that rows are cut to.")
@click.option("--learn", type=click.Choice(LEARNED), default=LEARNED[0], show_default=True, help="What is learned.")
@click.option(
    "--fail-on",
    "thresholds",
    type=Threshold(FINDINGS),
    multiple=True,
    metavar="FINDING[=SHARE%]",
    help=f"Exit with 3 where more than this share of the rows is so (0 without one): {', '.join(FINDINGS)}.",
)
@click.option(
    "--column",
    "columns",
    type=Label(),
    multiple=True,
    metavar="PART=NAME",
    help="The file's name for a part of a row, such as prompt=question or completion=answers.text.0.",
)
@click.option(
    "--file-format", type=click.Choice(FILE_FORMATS), help="What FILE is written in. [default: its content tells]"
)
@click.option("--skip-bad-rows", is_flag=True, help="Leave wrong rows out, and name them, rather than refuse the file.")
@click.option("--on-server", is_flag=True, help="Files are paths under the trainer's data roots: nothing is uploaded.")
@pass_settings
def check(
    settings: Settings,
    /,
    *,
    file: str,
    model: str,
    held_out: str | None,
    sequence_length: int | None,
    learn: str,
    thresholds: tuple[tuple[str, float], ...],
    columns: tuple[tuple[str, str], ...],
    file_format: str | None,
    skip_bad_rows: bool,
    on_server: bool,
) -> None:
    """Report on FILE: rows, tokens, what is cut, left out, repeated, or known from training, and one row as it is read.

    The file is uploaded (the same content only once) and read with the model's tokenizer by a PREPARE job; a second
    check of the same content tokenises nothing. Exits with 2 where the data is refused, with the row and the field,
    and with 3 where a --fail-on says so.
    """
    from finetree_api.types.v1 import run_spec_pb2

    from finetree_cli.options.spec import model_source
    from finetree_cli.render.trainer import dataset

    spec = run_spec_pb2.RunSpec(model=model_source(model))
    spec.training.loss_tokens = run_spec_pb2.LossTokens.Value(f"LOSS_TOKENS_{learn.upper().replace('-', '_')}")
    if sequence_length is not None:
        spec.training.sequence_length = sequence_length
    if any(name in ("leak", "prompt-leak") for name, _ in thresholds) and held_out is None:
        raise BadInput("--fail-on leak needs held-out rows", remedy="give them with --eval FILE")
    _read_as(spec.dataset.reading, columns, skip_bad_rows=skip_bad_rows)
    if file_format is not None:
        spec.dataset.reading.file_format = run_spec_pb2.FileFormat.Value(f"FILE_FORMAT_{file_format.upper()}")
    if held_out is not None:
        spec.evaluation.dataset.reading.CopyFrom(spec.dataset.reading)
    with settings.client() as client:
        _name(settings, client, spec.dataset, file, on_server=on_server)
        if held_out is not None:
            _name(settings, client, spec.evaluation.dataset, held_out, on_server=on_server)
        job = client.create_job(spec, kind="PREPARE", display_name=f"check {Path(file).name}")
        reports = _reports(settings, job)
        source = spec.dataset.name or spec.dataset.path
    found = dataset.findings(reports, dict(thresholds))
    if settings.out.json:
        settings.out.document(dataset.document(source, job.name, reports, found))
    else:
        dataset.show(settings.out, reports, found)
        settings.out.say(f"`finetree data preview --job {job.name.rpartition('/')[2]}` shows the rows")
    _refuse(found, told=settings.out.json)


def _name(
    settings: Settings, client: "Client", source: "run_spec_pb2.DatasetSource", file: str, *, on_server: bool
) -> None:
    from finetree_cli.commands.train import upload

    if on_server:
        source.path = file
    else:
        source.name = upload(settings, client, Path(file), source.reading)


def _read_as(
    reading: "run_spec_pb2.DatasetReading", columns: tuple[tuple[str, str], ...], *, skip_bad_rows: bool
) -> None:
    """Say how a file is read, where the flags say it. Raises BadInput for a part that rows do not have."""
    from finetree_api.types.v1 import run_spec_pb2

    parts = run_spec_pb2.DatasetColumns.DESCRIPTOR.fields_by_name
    for part, name in columns:
        if part not in parts:
            raise BadInput(f"--column: rows have no part {part!r}", remedy=f"parts are: {', '.join(parts)}")
        setattr(reading.columns, part, name)
    if skip_bad_rows:
        reading.bad_rows = run_spec_pb2.BAD_ROWS_SKIP


def _reports(settings: Settings, job: "Job") -> "list[event_pb2.DatasetReport]":
    """The reports of a job, which is followed to its end. Raises BadInput where it refuses the data."""
    from finetree_api.trainer.v1 import event_pb2, job_pb2

    from finetree_cli.follow import error_reason, refuse_failure

    reports, terminal = [], event_pb2.Terminal()
    for event in job.events():
        if event.WhichOneof("payload") == "dataset_report":
            reports.append(event.dataset_report)
        elif event.WhichOneof("payload") == "terminal":
            terminal = event.terminal
        elif event.WhichOneof("payload") == "state_changed":
            settings.out.say(event.message)
    if terminal.failure_category == job_pb2.FAILURE_CATEGORY_USER:
        raise BadInput(terminal.error.message, reason=error_reason(terminal))
    refuse_failure(job.name, terminal)
    return reports


def _refuse(found: "list[Found]", *, told: bool) -> None:
    failed = [one for one in found if one.failed]
    if failed:
        text = "; ".join(f"{one.name}: {one.count} of {one.rows} rows" for one in failed)
        remedy = "mend the rows, or allow a share: --fail-on NAME=5%"
        raise GateFailed(text, reason="FINDINGS", remedy=remedy, told=told)


@data.command(
    examples=(
        "finetree data preview DATASET",
        "finetree data preview DATASET --only truncated --limit 5",
        "finetree data preview --job JOB --split evaluation --json",
    )
)
@click.argument("dataset", default="")
@click.option("--job", default="", help="A PREPARE job, in place of the dataset.")
@click.option("--only", type=click.Choice(("truncated", "dropped", "no-target")), help="Such rows alone.")
@click.option("--split", type=click.Choice(("train", "evaluation")), help="Rows of one split.")
@click.option("--limit", type=click.IntRange(1), default=10, show_default=True, help="At most so many.")
@pass_settings
def preview(settings: Settings, /, *, dataset: str, job: str, only: str | None, split: str | None, limit: int) -> None:
    """Show rows of DATASET as the model reads them, with what is learned marked and what is cut off.

    `finetree data check` keeps the first rows of a dataset, and the first of each finding.
    """
    from itertools import islice

    from finetree_cli.output import as_dict
    from finetree_cli.render.trainer import dataset as render

    if bool(dataset) == bool(job):
        raise BadInput("name a dataset, or a job with --job", remedy="`finetree datasets list` shows the datasets")
    finding = only.replace("-", "_") if only else 0
    with settings.client() as client:
        pages = client.preview_dataset(dataset, job=job, finding=finding, split=split or "", page_size=min(limit, 100))
        rows = list(islice(pages, limit))
    if settings.out.json:
        settings.out.document({"rows": [as_dict(row) for row in rows]})
        return
    for row in rows:
        render.show_row(settings.out, row)
    if not rows:
        settings.out.say("there are no such rows")
