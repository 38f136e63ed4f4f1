# SPDX-License-Identifier: Apache-2.0
"""Writes the outputs in docs/recommendations.md anew: `python tests/unit/recommender/recommendations_page.py`.

A comment names the command whose output stands in the block below it; `| head -N` keeps the first lines.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "recommendations.md"
BLOCK = re.compile(
    r"<!-- output: (?P<command>finetree [^|\n]*?)(?: \| head -(?P<lines>\d+))? -->\n```\n(?P<text>.*?)```\n", re.DOTALL
)


def output(command: str, lines: str | None) -> str:
    """What a command prints, without what pads its lines."""
    words = [sys.executable, "-m", "finetree_cli", *shlex.split(command)[1:]]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    printed = [line.rstrip() for line in done.stdout.rstrip().splitlines()]
    return "\n".join(printed[: int(lines)] if lines else printed) + "\n"


def renewed(text: str) -> str:
    """The page with every output as it is today."""

    def block(found: re.Match[str]) -> str:
        return found[0].replace(found["text"], output(found["command"], found["lines"])) if found["text"] else found[0]

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
