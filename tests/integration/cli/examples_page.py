# SPDX-License-Identifier: Apache-2.0
"""Writes the files of docs/examples anew: `python tests/integration/cli/examples_page.py`.

The commands are those of its README: a row names a file and the command whose output it is.
"""

import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parents[3] / "docs" / "examples"
ROW = re.compile(r"^\| (?P<files>\[.*\)) \| `finetree (?P<words>[^`]+)` \|$", re.MULTILINE)
NAME = re.compile(r"\]\((?P<name>[\w.-]+)\)")


def commands() -> Iterator[tuple[list[str], list[str]]]:
    """Names of files in the folder, and the words of the command that writes them; the rest is what it prints."""
    for row in ROW.finditer((FOLDER / "README.md").read_text(encoding="utf-8")):
        yield NAME.findall(row["files"]), shlex.split(row["words"])


def outputs(names: list[str], words: list[str]) -> dict[str, str]:
    """The files of a command by name, without what pads their lines."""
    with tempfile.TemporaryDirectory(prefix="finetree-examples-") as folder:
        command = [sys.executable, "-m", "finetree_cli", *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        return {name: _plain(Path(folder) / name, done.stdout) for name in names}


def _plain(file: Path, printed: str) -> str:
    text = file.read_text(encoding="utf-8") if file.exists() else printed
    return "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"


if __name__ == "__main__":
    for names, words in commands():
        for name, text in outputs(names, words).items():
            (FOLDER / name).write_text(text, encoding="utf-8")
