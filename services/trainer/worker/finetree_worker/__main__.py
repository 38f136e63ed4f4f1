# SPDX-License-Identifier: Apache-2.0
"""`python -m finetree_worker`: started by the trainer, one process per task."""

import sys

from finetree_data.confinement.confine import Confinement, ConfinementError

from finetree_worker.process.confinement import confine_process
from finetree_worker.process.log_capture import set_environment

EXIT_NOT_CONFINED = 77
"""Exit status (EX_NOPERM of sysexits.h) of a worker that must be confined where that is not possible."""


def confined() -> Confinement | None:
    """Confine this process, or end it where that is required and cannot be."""
    try:
        return confine_process()
    except ConfinementError as error:
        sys.stderr.write(f"finetree-worker: not confined: {error}\n")
        sys.exit(EXIT_NOT_CONFINED)


# A process is confined as a whole while it has a single thread, and libraries start threads when they are imported.
_CONFINEMENT = confined()
# Libraries read their settings when they are imported, so this comes before everything that imports one.
set_environment()

from finetree_worker.process.core import TrainingCore  # noqa: E402 - see above
from finetree_worker.process.process import Process, parse  # noqa: E402 - see above


def main() -> int:
    """Run the worker; its exit status."""
    return Process(parse(sys.argv[1:]), TrainingCore(), _CONFINEMENT).run()


if __name__ == "__main__":
    sys.exit(main())
