# SPDX-License-Identifier: Apache-2.0
"""Writes docs/examples/pull-request.md anew: `python tests/integration/cli/pull_request_page.py`.

A repository of ten job files, and a branch that changes two, adds one and removes one: what a pull request shows.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "examples" / "pull-request.md"
COMMAND = "finetree check --base main --output text,markdown=comment.md,github=annotations.txt"
POLICY = """\
limits:
  - {metric: fit}
  - {metric: cost, max: 5 USD}
  - {metric: duration_seconds, max: 4h}
"""
JOB = """\
model: {{name: {model}}}
lora: {{rank: {rank}}}
training: {{epochs: {epochs}}}
hardware: {{accelerator: {gpu}}}
dataset: {{profile: {{examples: {rows}, total_tokens: {tokens}}}}}
"""
ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{who}_{what}": "ada@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


def job(number: int, **changes: object) -> str:
    """The job file of that number."""
    rows = 2000 * (number + 1)
    given = {
        "model": ("llama-3.1-8b", "qwen2.5-7b", "mistral-7b-v0.3")[number % 3],
        "rank": 8 << number % 3,
        "epochs": 1 + number % 2,
        "gpu": ("l40s", "a100-80gb")[number % 2],
        "rows": rows,
        "tokens": rows * 400,
    }
    return JOB.format(**{**given, **changes})


def make_repository(folder: Path) -> None:
    """Make the repository in an empty folder, with the branch `work` checked out."""

    def git(*words: str) -> None:
        subprocess.run(["git", *words], cwd=folder, env={**os.environ, **ENVIRONMENT}, check=True, capture_output=True)

    def write(name: str, text: str) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    git("init", "--quiet", "--initial-branch=main")
    write(".finetree/policy.yaml", POLICY)
    for number in range(10):
        write(f"training/team{number}.finetree.yaml", job(number))
    git("add", "--all")
    git("commit", "--quiet", "--message", "Ten jobs")
    git("switch", "--quiet", "--create", "work")
    write("training/team2.finetree.yaml", job(2, rank=64))
    write("training/team7.finetree.yaml", "# More of the same data.\n" + job(7, epochs=30))
    write("training/team10.finetree.yaml", job(1, model="llama-3.2-3b"))
    (folder / "training/team4.finetree.yaml").unlink()
    git("add", "--all")
    git("commit", "--quiet", "--message", "Train longer")


def page(folder: Path) -> str:
    """The page, from the outputs that COMMAND has left in a folder, and what it printed in text.txt."""
    text, comment, annotations = (
        (folder / name).read_text(encoding="utf-8").strip() for name in ("text.txt", "comment.md", "annotations.txt")
    )
    return f"""\
# A pull request

A repository has ten job files and this policy; a branch changes two jobs, adds one and removes one.

```yaml
{POLICY.strip()}
```

`{COMMAND}` exits with 3.

## In the log

```
{text}
```

## As annotations of the changed files

```
{annotations}
```

## As a comment

{comment}
"""


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="finetree-page-") as name:
        make_repository(Path(name))
        words = [sys.executable, "-m", *COMMAND.replace("finetree", "finetree_cli", 1).split()]
        done = subprocess.run(words, cwd=name, capture_output=True, text=True, check=False)
        (Path(name) / "text.txt").write_text(done.stdout, encoding="utf-8")
        PAGE.write_text(page(Path(name)), encoding="utf-8")
