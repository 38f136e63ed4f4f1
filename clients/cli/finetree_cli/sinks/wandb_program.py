# SPDX-License-Identifier: Apache-2.0
"""Write one offline run with the wandb library: JSON on standard input, exit code 3 where the library is missing.

It is a program of its own, imports nothing of this package, and runs under any interpreter that has the library.
"""

import json
import sys
from typing import Any

MISSING = 3
"""Exit code: the library is not installed."""


def main() -> int:
    """Read a run and write it."""
    run: dict[str, Any] = json.load(sys.stdin)
    try:
        import wandb  # type: ignore[import-not-found]  # not among what this package needs
    except ImportError:
        return MISSING
    quiet = wandb.Settings(
        silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True, x_disable_meta=True
    )
    made = wandb.init(
        mode="offline",
        dir=run["folder"],
        id=run["id"],
        name=run["name"],
        project=run["project"],
        entity=run["entity"] or None,
        config=run["config"],
        settings=quiet,
    )
    for row in run["rows"]:
        made.log({**row["values"], "_timestamp": row["time"]}, step=row["step"])
    made.finish(exit_code=run["exit_code"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
