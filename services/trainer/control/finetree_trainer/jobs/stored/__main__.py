# SPDX-License-Identifier: Apache-2.0
"""`python -m finetree_trainer.jobs.stored DATA_DIR` prints what the folder holds as one JSON object, and exits.

An error is {"error": {"reason": …, "message": …}} and the exit code 1.
"""

import sys
from pathlib import Path

from finetree_runtime.config.settings import SettingsError
from finetree_runtime.errors import DomainError

from finetree_trainer.jobs.stored.database import opened
from finetree_trainer.jobs.stored.overview import overview
from finetree_trainer.layout import Layout
from finetree_trainer.program_output import refuse, write


def main(arguments: list[str]) -> int:
    """Print what a folder holds, and return the exit code."""
    try:
        with opened(Layout(Path(arguments[0])).database) as connection:
            document = overview(connection)
    except SettingsError as error:
        return refuse(error)
    except DomainError as error:
        return refuse(SettingsError(error.reason, error.message))
    write(document)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
