# SPDX-License-Identifier: Apache-2.0
"""A service's field violations, with the lines of the job file that they are about."""

from finetree import InvalidArgument

from finetree_cli.errors import BadInput
from finetree_cli.job_file import JobFile


def placed(job: JobFile | None, error: InvalidArgument) -> Exception:
    """The same error with file, line and column; unchanged when there is no file or nothing that points into it."""
    if job is None or not error.violations:
        return error
    violations = [(item.field, item.description) for item in error.violations]
    message = " ".join(error.message.split())
    return BadInput(message, reason=error.reason or error.code, problems=job.problems(violations))
