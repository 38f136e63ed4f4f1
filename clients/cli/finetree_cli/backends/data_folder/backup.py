# SPDX-License-Identifier: Apache-2.0
"""Backups are made and restored by the installed trainer."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from finetree_cli.backends.data_folder import program


def run(
    command: str, folder: Path, flags: Sequence[str] = (), on_progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Run `python -m finetree_trainer.backup`, and return what it found (program.run says what is raised)."""
    return program.run("finetree_trainer.backup", [command, str(folder), *flags], on_progress)
