# SPDX-License-Identifier: Apache-2.0
"""Add positions in the job file to a service's field violations."""

import contextlib
from collections.abc import Iterator

from finetree import FinetreeError

from finetree_cli.errors import BadInput, ExitCode, of_service_error
from finetree_cli.jobfile.job import JobFile


@contextlib.contextmanager
def with_positions(job: JobFile | None) -> Iterator[None]:
    """Replace a service's refusal of values by a BadInput that names file, line and column.

    A path of data that is neither on this machine nor under the trainer's roots is refused likewise. Other errors, and
    all errors where there is no job file, pass unchanged.
    """
    try:
        yield
    except FinetreeError as error:
        if job is not None:
            _refuse_absent_data(job, error)
        failure = of_service_error(error)
        if job is None or not error.violations or failure.exit_code != ExitCode.USAGE:
            raise
        problems = job.problems([(item.field, item.description) for item in error.violations])
        count = "1 value" if len(problems) == 1 else f"{len(problems)} values"
        text = f"the service refuses {count} of {job.file}"
        raise BadInput(text, remedy=failure.remedy, reason=failure.reason, problems=problems) from error


def _refuse_absent_data(job: JobFile, error: FinetreeError) -> None:
    """Raise BadInput if a trainer refuses the path of data that is no file here either."""
    if error.reason not in ("PATH_OUTSIDE_ROOTS", "DATASET_NOT_FOUND"):
        return
    field = error.metadata.get("field") or error.message.partition(":")[0]
    for item in job.absent_data():
        if field.endswith(f"spec.{item.field_path}.path"):
            text = f"{item.path}: no such file here, and the trainer reads none by that path"
            remedy = "correct the path, which begins at the job file, or give the rows with --data FILE"
            problems = job.problems([(field, "no such file")])
            raise BadInput(text, remedy=remedy, reason="DATA_FILE_UNREADABLE", problems=problems) from error
