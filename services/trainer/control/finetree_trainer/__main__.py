# SPDX-License-Identifier: Apache-2.0
"""`python -m finetree_trainer` starts the trainer's control plane."""

import sys

from finetree_runtime.config.settings import load_or_exit
from finetree_runtime.server.service import run

from finetree_trainer.application import service
from finetree_trainer.settings import Settings


def main() -> int:
    """Serve until SIGTERM, and return the exit code."""
    return run(service(load_or_exit(Settings, "FINETREE_TRAINER")))


if __name__ == "__main__":
    sys.exit(main())
