# SPDX-License-Identifier: Apache-2.0
"""Check all rows of training files: by a job of the trainer, or on this machine."""

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from finetree_api.trainer.v1 import dataset_pb2, event_pb2, job_pb2
from finetree_api.types.v1 import check_pb2, training_data_pb2

from finetree_cli.errors import BadInput, finding_remedy
from finetree_cli.follow import error_reason, follow_helper, refuse_failure
from finetree_cli.render.trainer.events import messages_view

if TYPE_CHECKING:
    from finetree import Client, Job

    from finetree_cli.jobfile.job import JobFile
    from finetree_cli.options.command import Settings

CHECKED_BYTES = 16 << 20
"""Bytes of content that the trainer checks at the end of an upload (docs/training-files.md)."""
COMPRESSION = 16
"""Bytes of content for a byte of a compressed file: text compresses to a fifth or a twentieth."""
_SHOWN = ("state_changed", "queue_changed", "phase_progress")


@dataclass(frozen=True, slots=True)
class Checked:
    """Reports by split, the first training rows, and the job that made them; "" for none."""

    reports: list[event_pb2.DatasetReport] = field(default_factory=list)
    rows: list[dataset_pb2.PreviewRow] = field(default_factory=list)
    job: str = ""


def read_locally(settings: "Settings", task: job_pb2.PrepareTask) -> Checked:
    """Read the files that a task names by path on this machine. Raises BadInput where one is refused."""
    from finetree_cli.backends.data_reader import ReadFile, read_files

    checked = Checked()
    with messages_view(settings.out) as shown, contextlib.closing(read_files(task)) as told:
        for one in told:
            if isinstance(one, ReadFile):
                checked.reports.append(one.report)
                checked.rows.extend(row for row in one.rows if row.split == training_data_pb2.SPLIT_TRAIN)
            else:
                shown.show(event_pb2.JobEvent(phase_progress=one))
    return checked


def follow_check(settings: "Settings", job: "Job") -> Checked:
    """Follow a job that reads rows to its end and return its reports; Ctrl-C cancels it: nobody else waits for it.

    Raises:
        BadInput: The rows are refused.
        JobFailed: The job ended without success.
    """
    checked = Checked(job=job.name)

    def seen(event: event_pb2.JobEvent) -> None:
        if event.HasField("dataset_report"):
            checked.reports.append(event.dataset_report)

    terminal = follow_helper(settings, job, seen, kinds=_SHOWN)
    if terminal.failure_category == job_pb2.FAILURE_CATEGORY_USER:
        raise BadInput(terminal.error.message, reason=error_reason(terminal))
    refuse_failure(job.name, terminal)
    return checked


def check_uploads(
    settings: "Settings", client: "Client", job: "JobFile", uploaded: dict[str, dataset_pb2.Dataset]
) -> None:
    """Check all rows of what was uploaded for a job, with its model, where the upload's check has not read them all.

    The tokens are kept: the job itself tokenizes nothing again.

    Raises:
        BadInput: Rows are refused, or a finding is an error that the job does not accept.
        JobFailed: The job that reads them ended without success.
    """
    large = [dataset for dataset in uploaded.values() if not read_whole(dataset)]
    if not large:
        return
    spec = job.spec
    task = job_pb2.PrepareTask(
        model=spec.model,
        dataset=spec.dataset,
        evaluation_dataset=spec.evaluation.dataset if spec.evaluation.HasField("dataset") else None,
        sequence_length=spec.training.sequence_length if spec.training.HasField("sequence_length") else None,
        loss_tokens=spec.training.loss_tokens,
        append_eos=spec.training.append_eos if spec.training.HasField("append_eos") else None,
    )
    settings.out.say(
        f"checking all rows of {', '.join(dataset.display_name for dataset in large)}; --no-data-check skips"
    )
    checked = follow_check(settings, client.create_job(task, display_name=f"check {large[0].display_name}"[:256]))
    for report in checked.reports:
        for found in report.findings:
            if found.severity == check_pb2.SEVERITY_ERROR and not found.accepted:
                raise BadInput(found.message, reason=found.code, remedy=finding_remedy(found.message, found.code))


def read_whole(dataset: dataset_pb2.Dataset) -> bool:
    """Tell whether the check at the end of the upload has read all rows of a dataset."""
    if dataset.file_format == training_data_pb2.FILE_FORMAT_PARQUET:
        return False
    packed = dataset.compression in (training_data_pb2.COMPRESSION_GZIP, training_data_pb2.COMPRESSION_ZSTD)
    return dataset.size_bytes * (COMPRESSION if packed else 1) <= CHECKED_BYTES
