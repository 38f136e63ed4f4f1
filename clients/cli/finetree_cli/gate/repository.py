# SPDX-License-Identifier: Apache-2.0
"""Files that a repository keeps for the gate, and where they are looked for: its policy and its lock."""

from pathlib import Path

FOLDER = ".finetree"
"""Folder of these files, at the top of a repository or of a part of it."""
DEFAULT = "here or in a folder around this one, up to the top of the repository"
"""Where such a file is looked for, for the help of options."""
PLACES = "the current folder or one around it, up to the top of the repository"
"""The same, for messages."""


def find_upwards(file: str, *, folder: Path | None = None) -> str | None:
    """Return the nearest file or folder of this name, in a folder and those around it, up to the top of the repository.

    The top is the nearest folder with `.git`, which is a file in a submodule or linked worktree. A folder above it may
    be somebody else's and is not looked at; outside of a repository only the folder itself is.

    Args:
        file: its path from the folder that has it, such as ".finetree/policy.yaml".
        folder: where to begin; None is the current folder.

    Returns:
        Its path from where the search begins, such as "../.finetree/policy.yaml"; None where there is none.
    """
    here = (folder or Path()).absolute()
    around = (here, *here.parents)
    top = next((each for each in around if (each / ".git").exists()), here)
    steps = range(around.index(top) + 1)
    return next(("../" * step + file for step in steps if (around[step] / file).exists()), None)
