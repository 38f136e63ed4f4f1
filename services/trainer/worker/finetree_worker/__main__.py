# SPDX-License-Identifier: Apache-2.0
"""`python -m finetree_worker`: started by the trainer, one process per task."""

import sys

from finetree_worker.process.log_capture import set_environment

# Libraries read their settings when they are imported, so this comes before everything that imports one.
set_environment()

from finetree_worker.process.core import TrainingCore  # noqa: E402 - see above
from finetree_worker.process.process import Process, parse  # noqa: E402 - see above


def main() -> int:
    """Run the worker; its exit status."""
    return Process(parse(sys.argv[1:]), TrainingCore()).run()


if __name__ == "__main__":
    sys.exit(main())
