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

    Other errors, and all errors where there is no job file, pass unchanged.
    """
    try:
        yield
    except FinetreeError as error:
        failure = of_service_error(error)
        if job is None or not error.violations or failure.exit_code != ExitCode.USAGE:
            raise
        problems = job.problems([(item.field, item.description) for item in error.violations])
        count = "1 value" if len(problems) == 1 else f"{len(problems)} values"
        text = f"the service refuses {count} of {job.file}"
        raise BadInput(text, remedy=failure.remedy, reason=failure.reason, problems=problems) from error
