# SPDX-License-Identifier: Apache-2.0
"""From an export to job files: rows converted and checked, a base model chosen, a recipe recommended."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetree_cli.data_check import read_locally
from finetree_cli.errors import BadInput, finding_remedy
from finetree_cli.jobfile.job import parse_job
from finetree_cli.migrate import base_model
from finetree_cli.migrate.export import Export, OpenAIJob
from finetree_cli.migrate.job_file import (
    Evaluation,
    add_evaluation,
    settings_of,
    sources_of,
    unlabelled,
    write_job,
)
from finetree_cli.migrate.recorded import Recorded, evaluation_rows, read_references
from finetree_cli.migrate.rows import Conversion, convert_file
from finetree_cli.options.spec import Machine, model_source
from finetree_cli.render.trainer.dataset import Found, findings

if TYPE_CHECKING:
    from finetree_api.trainer.v1 import event_pb2
    from finetree_api.types.v1 import run_spec_pb2, training_data_pb2

    from finetree_cli.backends.recommender import Recommender
    from finetree_cli.migrate.comparison import Comparison
    from finetree_cli.options.command import Settings

DATA = "data"
"""Folder of rows, beside the job files."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command was told about every job."""

    output: Path
    model: str = ""
    accepted: tuple[str, ...] = ()
    samples: int = 20
    multiplier: bool = False
    machine: Machine | None = None


@dataclass(slots=True)
class Planned:
    """What became of a job of the export.

    Attributes:
        job: the job.
        model: base model, and why it is that one.
        file: its job file; None: it was refused.
        refusal: why there is no job file, or why training ended without success; empty: neither.
        reason: stable reason of the refusal.
        notes: what was converted, and what was not taken over.
        findings: of the check of its rows.
        method: recommended method.
        records: recorded answers that are asked again.
        references: right answers by the messages before them.
        name: job of the trainer; empty: none.
        comparison: old answers beside new ones; None: there are none.
    """

    job: OpenAIJob
    model: base_model.Choice
    file: Path | None = None
    refusal: str = ""
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    findings: list[Found] = field(default_factory=list)
    method: str = ""
    records: list[Recorded] = field(default_factory=list)
    references: dict[str, str] = field(default_factory=dict)
    name: str = ""
    comparison: "Comparison | None" = None

    def refuse(self, error: BadInput) -> None:
        """Note why there is no job."""
        self.refusal, self.reason = error.message, error.reason
        if error.remedy:
            self.refusal += f"; {error.remedy}"


@dataclass(slots=True)
class _Rows:
    """Rows of a job in the output, and what was found in them."""

    training: Path
    held_out: Evaluation | None
    reports: "list[event_pb2.DatasetReport]" = field(default_factory=list)


def plan(settings: "Settings", recommender: "Recommender", export: Export, wishes: Wishes) -> list[Planned]:
    """Write a job file for each job of the export that can be trained; the others say why they cannot."""
    planned = []
    for job in export.jobs:
        chosen = base_model.Choice(wishes.model, "as --model says") if wishes.model else base_model.choose(job.model)
        found = Planned(job, chosen)
        try:
            _plan(settings, recommender, export, wishes, found)
        except BadInput as error:
            found.refuse(error)
        planned.append(found)
    return planned


def _plan(settings: "Settings", recommender: "Recommender", export: Export, wishes: Wishes, found: Planned) -> None:
    job = found.job
    if job.method != "supervised":
        text = f"it was trained with {job.method}, and only supervised fine-tuning is trained here"
        raise BadInput(text, reason="METHOD_UNSUPPORTED")
    training = _convert(export, job.training_file, wishes, found)
    if training is None:
        text = f"its training file {job.training_file} is not in the export"
        remedy = f"put it there as {job.training_file}.jsonl: client.files.content({job.training_file!r})"
        raise BadInput(text, remedy=remedy, reason="FILE_MISSING")
    validation = _convert(export, job.validation_file, wishes, found) if job.validation_file else None
    if job.validation_file and validation is None:
        found.notes.append(f"its validation file {job.validation_file} is not in the export, and left out")
    held_out = _held_out(export, wishes, found, validation)
    rows = _Rows(training, held_out)
    _check(settings, wishes, found, rows)
    text = _job_file(recommender, wishes, found, rows)
    found.file = wishes.output / f"{_file_name(job.id)}.yaml"
    parse_job(text, str(found.file))  # what is written is a job file, whatever the export says
    found.file.write_text(text, encoding="utf-8")


def _convert(export: Export, name: str, wishes: Wishes, found: Planned) -> Path | None:
    """Write a file's rows into the output. Raises BadInput for rows that cannot be trained on."""
    source = export.file(name)
    if source is None:
        return None
    target = wishes.output / DATA / f"{_file_name(Path(name).stem)}.jsonl"
    if target.resolve() == source.resolve():
        raise BadInput(f"{source}: the output would overwrite the export", remedy="give another --output")
    conversion: Conversion = convert_file(source, target)
    found.notes += [f"{source.name}: {note}" for note in conversion.notes]
    if conversion.problems:
        target.unlink()
        text = f"{source.name}: {conversion.refusal()}"
        raise BadInput(text, remedy="take these rows out of the file", reason="ROWS_UNSUPPORTED")
    return target


def _held_out(export: Export, wishes: Wishes, found: Planned, validation: Path | None) -> Evaluation | None:
    """Choose what is evaluated on: the recorded questions where there are some, else the validation file."""
    found.records = export.answers_of(found.job)[: wishes.samples]
    if not found.records:
        return Evaluation(f"{DATA}/{validation.name}") if validation is not None else None
    found.references = read_references(validation) if validation is not None else {}
    path = wishes.output / DATA / f"{_file_name(found.job.id)}-recorded.jsonl"
    rows = evaluation_rows(found.records, found.references)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    found.notes.append(f"evaluated on {len(found.records)} recorded questions, whose answers are asked again")
    longest = max(len(row["messages"][-1]["content"]) for row in rows)
    return Evaluation(f"{DATA}/{path.name}", len(found.records), longest)


def _check(settings: "Settings", wishes: Wishes, found: Planned, rows: _Rows) -> None:
    """Check the rows as `finetree data check` does. Raises BadInput for a finding that stops training."""
    from finetree_api.trainer.v1 import job_pb2

    task = job_pb2.PrepareTask()
    task.dataset.path = str(rows.training.absolute())
    task.dataset.reading.accepted_findings.extend(wishes.accepted)
    if rows.held_out is not None:
        task.evaluation_dataset.path = str((wishes.output / rows.held_out.path).absolute())
        task.evaluation_dataset.reading.CopyFrom(task.dataset.reading)
    rows.reports = read_locally(settings, task).reports
    found.findings = findings(rows.reports, {})
    failed = next((one for one in found.findings if one.failed), None)
    if failed is not None:
        raise BadInput(failed.message, reason=failed.name, remedy=finding_remedy(failed.message, failed.name))


def _job_file(recommender: "Recommender", wishes: Wishes, found: Planned, rows: _Rows) -> str:
    """Ask for a recipe, and write the job's settings over it."""
    from finetree_api.recommender.v1 import recommendation_pb2
    from finetree_api.types.v1 import run_spec_pb2

    request = recommendation_pb2.RecommendRequest(
        model=model_source(found.model.name), dataset_profile=_profile(rows.reports)
    )
    if wishes.machine is not None:
        request.hardware.CopyFrom(wishes.machine.hardware)
        if wishes.machine.matrix_rates is not None:
            request.matrix_rates.CopyFrom(wishes.machine.matrix_rates)
    answer = recommender.recommend(request)
    method = answer.spec.WhichOneof("method")
    if method is None:
        remedy = "name a smaller model with --model, or other hardware with --gpu"
        raise BadInput(answer.verdict.headline, remedy=remedy, reason="NO_METHOD_TRAINS")
    found.method = method
    spec = run_spec_pb2.RunSpec()
    spec.CopyFrom(answer.spec)
    spec.dataset.Clear()
    spec.dataset.path = f"{DATA}/{rows.training.name}"
    spec.dataset.reading.accepted_findings.extend(wishes.accepted)
    found.notes += settings_of(found.job, spec, multiplier=wishes.multiplier)
    found.notes += [f"metadata {key!r} cannot be a label and is left out" for key in unlabelled(found.job)]
    if rows.held_out is not None:
        add_evaluation(spec, rows.held_out, wishes.samples)
        spec.evaluation.dataset.reading.CopyFrom(spec.dataset.reading)
    _leave_out_empty(spec)
    header = [
        f"From OpenAI's {found.job.id or 'file'} on {found.job.model or 'an unnamed model'}.",
        f"Base model {found.model.name}: {found.model.rule}.",
        f"Method: {answer.verdict.headline}",
        *found.notes,
    ]
    return write_job(found.job, spec, sources_of(answer.spec, spec, answer.setting_sources), header)


def _leave_out_empty(spec: "run_spec_pb2.RunSpec") -> None:
    for source in (spec.dataset, spec.evaluation.dataset):
        if source.HasField("reading") and not source.reading.ByteSize():
            source.ClearField("reading")
    if not spec.evaluation.ByteSize():
        spec.ClearField("evaluation")
    elif not spec.evaluation.dataset.ByteSize():
        spec.evaluation.ClearField("dataset")


def _profile(reports: "list[event_pb2.DatasetReport]") -> "training_data_pb2.DatasetProfile | None":
    return reports[0].profile if reports else None


def _file_name(name: str) -> str:
    """Make a file name of an id, which may hold anything."""
    return "".join(char if char.isascii() and (char.isalnum() or char in "-_") else "_" for char in name) or "job"


def document(planned: Planned) -> dict[str, Any]:
    """Build the JSON object of a job."""
    from dataclasses import asdict

    return {
        "openai": {key: value for key, value in asdict(planned.job).items() if value not in (None, "", {})},
        "model": planned.model.name,
        "model_rule": planned.model.rule,
        "method": planned.method or None,
        "file": str(planned.file) if planned.file is not None else None,
        "refusal": {"reason": planned.reason, "message": planned.refusal} if planned.refusal else None,
        "notes": planned.notes,
        "findings": [asdict(one) for one in planned.findings if one.count],
        "recorded_answers": len(planned.records),
        "job": planned.name or None,
        "comparison": planned.comparison.document() if planned.comparison is not None else None,
    }
