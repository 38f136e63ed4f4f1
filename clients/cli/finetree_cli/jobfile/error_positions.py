# SPDX-License-Identifier: Apache-2.0
"""A service's field violations, with the lines of the job file that they are about."""

import contextlib
from collections.abc import Iterator

from finetree import FinetreeError

from finetree_cli.errors import BadInput, ExitCode, of_service_error
from finetree_cli.jobfile.job import JobFile


@contextlib.contextmanager
def placed(job: JobFile | None) -> Iterator[None]:
    """Turn a service's refusal of values into one that names file, line and column, where there is a file."""
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
