# SPDX-License-Identifier: Apache-2.0
"""`python -m finetree_trainer` starts the trainer's control plane."""

import sys

from finetree_runtime.config.settings import SettingsError, load_or_exit
from finetree_runtime.server.service import run

from finetree_trainer.application import service
from finetree_trainer.settings import Settings


def main() -> int:
    """Serve until SIGTERM, and return the exit code."""
    settings = load_or_exit(Settings, "FINETREE_TRAINER")
    try:
        built = service(settings)
    except SettingsError as error:
        # What settings name besides themselves: files of limits and of retention, the user of the workers.
        print(f"{error.reason}: {error}", file=sys.stderr)  # noqa: T201  # before logging is configured
        return 2
    return run(built)


if __name__ == "__main__":
    sys.exit(main())
