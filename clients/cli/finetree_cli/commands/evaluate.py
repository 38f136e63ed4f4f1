# SPDX-License-Identifier: Apache-2.0
"""`finetree evaluate`: trained weights beside their base on held-out rows, with intervals and a verdict."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetree_cli.errors import BadInput, GateFailed
from finetree_cli.options.command import Command, Settings, pass_settings, take_flags
from finetree_cli.options.types import Duration, Label

if TYPE_CHECKING:
    from finetree import Client, Job
    from finetree_api.trainer.v1 import evaluation_pb2, event_pb2
    from finetree_api.types.v1 import training_data_pb2

METRICS = (
    *("loss", "perplexity", "token-accuracy", "exact-match", "f1"),
    *("choice-accuracy", "choice-accuracy-norm", "choice-accuracy-per-token", "general-loss"),
)
REQUIRED = ("better", "not-worse")
_SHOWN = frozenset({"phase_progress", "alert", "state_changed", "queue_changed"})
"""Payloads that are shown while the job runs; the others are in the report."""


@dataclass(frozen=True, slots=True)
class EvaluateFlags:
    """Options of `finetree evaluate`; None and empty are not given."""

    subjects: tuple[str, ...]
    rows: str
    model: str | None
    metrics: tuple[str, ...]
    decide_by: str | None
    examples: int | None
    examples_from: str | None
    max_rows: int | None
    max_new_tokens: int | None
    samples: int | None
    seed: int | None
    columns: tuple[tuple[str, str], ...]
    choices: str | None
    on_server: bool
    required: str | None
    detach: bool
    timeout: float | None


@click.command(
    cls=Command,
    examples=(
        "finetree evaluate JOB --data held-out.jsonl",
        "finetree evaluate JOB OTHER_JOB --data held-out.jsonl --few-shot 8",
        "finetree evaluate today=JOB yesterday=OTHER_JOB --data held-out.jsonl --metric exact-match",
        "finetree evaluate JOB --data quiz.jsonl --choices choices",
        "finetree evaluate path:my-adapter --model smollm2-135m-instruct --data held-out.jsonl",
        "finetree evaluate JOB --data held-out.jsonl --require better --json > report.json",
    ),
)
@click.argument("subjects", nargs=-1, required=True, metavar="[LABEL=]SUBJECT...")
@click.option("--data", "rows", required=True, metavar="FILE", help="Held-out rows, in any format of training rows.")
@click.option("--model", metavar="MODEL", help="Base model, where the weights do not say which.")
@click.option(
    "--metric",
    "metrics",
    type=click.Choice(METRICS),
    multiple=True,
    metavar="METRIC",
    help=f"Measure this alone; repeat for more: {', '.join(METRICS)}. [default: all that the rows allow]",
)
@click.option(
    "--decide-by",
    type=click.Choice(METRICS[:-1]),
    metavar="METRIC",
    help="Metric that the verdict rests on. [default: choice-accuracy, f1 or loss, as the rows are]",
)
@click.option(
    "--few-shot",
    "examples",
    type=click.IntRange(0, 32),
    metavar="N",
    help="Examples in the prompt of the base; 0 for none. [default: 4, where training rows are known]",
)
@click.option("--examples", "examples_from", metavar="FILE", help="Rows of the examples. [default: the training rows]")
@click.option("--max-rows", type=click.IntRange(1, 100_000), metavar="N", help="Measure at most N rows.")
@click.option("--max-new-tokens", type=click.IntRange(1, 4096), metavar="N", help="Longest answer. [default: 64]")
@click.option("--samples", type=click.IntRange(0, 50), metavar="N", help="Rows shown side by side. [default: 5]")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), metavar="N", help="Seed of the intervals and of choices.")
@click.option(
    "--column",
    "columns",
    type=Label(),
    multiple=True,
    metavar="PART=NAME",
    help="Name of a part of the row in FILE, such as prompt=question.",
)
@click.option("--choices", metavar="NAME", help="Column of the choices: questions are then answered by likelihood.")
@click.option("--on-server", is_flag=True, help="Files are paths under the trainer's data roots; nothing is uploaded.")
@click.option(
    "--require",
    "required",
    type=click.Choice(REQUIRED),
    help="Exit with 3 unless every subject is better than the base and than its prompt (better), or none is worse.",
)
@click.option("--detach", is_flag=True, help="Start the job, print its name, and do not wait for it.")
@click.option("--timeout", type=Duration(), help="Longest wait, such as 30m; the job goes on when it passes.")
@pass_settings
def evaluate(settings: Settings, /, **flags: Any) -> None:
    """Measure trained weights beside their base model on held-out rows.

    SUBJECT is a job (its trained weights), an artifact, a checkpoint, or path:FOLDER, an adapter under a model root of
    the trainer; up to 8 of one base. The report has each metric with its 95 % interval, paired differences with a
    verdict (better, worse, not told apart), and answers side by side. Its first line says NOT_WORTH_IT where the base
    with a few examples in its prompt does as well. The artifact of the job has all answers. Ctrl-C cancels the job.

    With --json, stdout has one object: the job's name and the report. Exits with 3 if --require is not met.
    """
    _evaluate(settings, take_flags(EvaluateFlags, flags))


def _evaluate(settings: Settings, flags: EvaluateFlags) -> None:
    from finetree_cli.follow import show_created
    from finetree_cli.options.local_rows import require_file
    from finetree_cli.options.spec import model_source

    if flags.detach and flags.required:
        raise BadInput("--require needs the report, and --detach does not wait for it", remedy="leave one of them out")
    files = [file for file in (flags.rows, flags.examples_from) if file is not None]
    if not flags.on_server:
        for file in files:
            require_file(Path(file))
    with settings.client() as client:
        job = client.evaluate(
            *(_subject(given) for given in flags.subjects),
            dataset=_source(settings, client, flags.rows, flags),
            examples_from=None
            if flags.examples_from is None
            else _source(settings, client, flags.examples_from, flags, choices=False),
            model=None if flags.model is None else model_source(flags.model),
            metrics=[_metric(name) for name in flags.metrics],
            decide_by=0 if flags.decide_by is None else _metric(flags.decide_by),
            examples=flags.examples,
            max_rows=flags.max_rows,
            max_new_tokens=flags.max_new_tokens,
            samples=flags.samples,
            seed=flags.seed,
            display_name=f"evaluate {', '.join(map(_shown, flags.subjects))}"[:256],
        )
        if flags.detach:
            show_created(settings, job)
            return
        report = _follow(settings, job, flags.timeout)
    _show(settings, job, report)
    _require(report, flags.required, reported=settings.out.json)


def _subject(given: str) -> Any:
    """Read LABEL=SUBJECT: names of resources and ids hold no "="."""
    label, separator, subject = given.rpartition("=")
    if separator and not (label and subject):
        raise BadInput(f"{given!r} is no subject", remedy="write LABEL=SUBJECT, or the subject alone")
    path = subject.removeprefix("path:")
    weights: Any = {"path": path} if path != subject else subject
    return {"weights": weights, "label": label} if label or path != subject else subject


def _shown(given: str) -> str:
    """A subject in the name of its evaluation: its label, or what tells its job from others."""
    label, _, subject = given.rpartition("=")
    return label or subject.rpartition("/")[2].removeprefix("path:")[-12:]


def _metric(name: str) -> str:
    return name.upper().replace("-", "_")


def _source(
    settings: Settings, client: "Client", file: str, flags: EvaluateFlags, *, choices: bool = True
) -> "training_data_pb2.DatasetSource":
    from finetree_api.types.v1 import training_data_pb2

    from finetree_cli.uploads import upload

    source, parts = training_data_pb2.DatasetSource(), training_data_pb2.DatasetColumns.DESCRIPTOR.fields_by_name
    for part, name in flags.columns:
        if part not in parts:
            raise BadInput(f"--column: unknown part {part!r}", remedy=f"the parts are: {', '.join(parts)}")
        setattr(source.reading.columns, part, name)
    if flags.choices is not None and choices:
        source.reading.columns.choices = flags.choices
    if flags.on_server:
        source.path = file
    else:
        stated = source.reading if source.HasField("reading") else None
        source.name = upload(settings, client, Path(file), stated).name
    return source


def _follow(settings: Settings, job: "Job", timeout: float | None) -> "evaluation_pb2.EvaluationReport":
    """Show how far the job is, on stderr, and return its report; Ctrl-C cancels it."""
    from finetree import FinetreeTimeout

    from finetree_cli.errors import StillRunning
    from finetree_cli.follow import follow_helper, refuse_failure
    from finetree_cli.output import short_name

    report: evaluation_pb2.EvaluationReport | None = None

    def seen(event: "event_pb2.JobEvent") -> None:
        nonlocal report
        if event.HasField("evaluation_report"):
            report = event.evaluation_report

    try:
        terminal = follow_helper(settings, job, seen, kinds=_SHOWN, timeout=timeout)
    except FinetreeTimeout as error:
        remedy = f"`finetree jobs watch {short_name(job.name)}` follows it"
        raise StillRunning("timed out; the job still runs", remedy=remedy, reason="TIMED_OUT") from error
    _refuse(job, terminal)
    refuse_failure(job.name, terminal)
    if report is None:
        raise BadInput(f"job {short_name(job.name)} has ended without a report", reason="REPORT_NOT_FOUND")
    return report


def _refuse(job: "Job", terminal: "event_pb2.Terminal") -> None:
    """Raise BadInput where the rows or the settings are at fault."""
    from finetree_api.trainer.v1 import job_pb2

    from finetree_cli.follow import error_reason
    from finetree_cli.output import short_name

    if terminal.failure_category == job_pb2.FAILURE_CATEGORY_USER:
        text = f"job {short_name(job.name)}: {terminal.error.message}"
        raise BadInput(text, reason=error_reason(terminal))


def _show(settings: Settings, job: "Job", report: "evaluation_pb2.EvaluationReport") -> None:
    from finetree_cli.output import as_dict, short_name
    from finetree_cli.render.trainer.results import evaluation

    if settings.out.json:
        settings.out.document({"job": job.name, "report": as_dict(report)})
        return
    evaluation.show(settings.out, report)
    settings.out.say(f"`finetree jobs download {short_name(job.name)}` gets every answer")


def _require(report: "evaluation_pb2.EvaluationReport", required: str | None, *, reported: bool) -> None:
    """Raise GateFailed unless the report is as it was required to be."""
    from finetree_api.trainer.v1 import evaluation_pb2

    from finetree_cli.render.trainer.results.evaluation import conclusion

    if required is None:
        return
    better, worse = evaluation_pb2.EVALUATION_CONCLUSION_BETTER, evaluation_pb2.EVALUATION_CONCLUSION_WORSE
    failed = [
        one
        for one in report.conclusions
        if (one.conclusion != better if required == "better" else one.conclusion == worse)
    ]
    if failed:
        text = "; ".join(f"{one.label}: {conclusion(one)}" for one in failed)
        raise GateFailed(f"--require {required}: {text}", reason="EVALUATION", reported=reported)
