# SPDX-License-Identifier: Apache-2.0
"""`python -m finetree_trainer`: serve."""

import sys

from finetree_runtime.config.settings import SettingsError, load_or_exit, refuse_start
from finetree_runtime.server.service import run

from finetree_trainer.application import service
from finetree_trainer.settings import ENV_PREFIX, Settings


def main() -> int:
    """Serve until a signal; return the exit code."""
    settings = load_or_exit(Settings, ENV_PREFIX)
    try:
        built = service(settings)
    except SettingsError as error:
        # What settings name besides themselves: files of limits and of retention, the user of the workers.
        return refuse_start(error)
    return run(built)


if __name__ == "__main__":
    sys.exit(main())
