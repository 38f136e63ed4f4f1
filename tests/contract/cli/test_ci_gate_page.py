# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/ci-gate.md, run as they stand there, and the GitHub action on a job of unknown size."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from finetree_cli import __main__ as entry
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[3]
BLOCKS = re.findall(
    r"^```(\w*)\n(.*?)^```", (ROOT / "docs" / "ci-gate.md").read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
)
UNSIZED = "model: {name: llama-3.1-8b}\nlora: {rank: 16}\nhardware: {accelerator: a100-80gb}\n"
JOB = UNSIZED + "dataset: {profile: {examples: 5000, total_tokens: 2000000}}\n"
NEEDS_A_TRAINER = ("finetree train", "finetree jobs")


def commands() -> list[str]:
    """The page's command lines of finetree for a shell, without those that need a trainer."""
    lines = [line for kind, block in BLOCKS if not kind for line in block.splitlines()]
    return [line for line in lines if line.startswith("finetree ") and not line.startswith(NEEDS_A_TRAINER)]


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A repository with the page's own policy."""
    (policy,) = [block for _, block in BLOCKS if block.startswith("# policy.yaml")]
    for name in ("policy.yaml", ".finetree/policy.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(policy, encoding="utf-8")
    (tmp_path / "training").mkdir()
    for name in ("job.yaml", "team.finetree.yaml"):
        (tmp_path / "training" / name).write_text(JOB, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_has_commands():
    assert len(commands()) >= 3


@pytest.mark.parametrize("line", commands())
def test_a_command_does_what_the_page_says(repository, capsys, line):
    # What is behind a pipe is not ours.
    code = entry.run(shlex.split(re.split(r" \| ", line)[0])[1:])
    assert code == 0, capsys.readouterr().err


def test_the_action_stops_a_job_of_unknown_size_and_says_what_decides_it(repository):
    steps = YAML(typ="safe", pure=True).load(ROOT / "action.yml")["runs"]["steps"]
    (body,) = [step["run"] for step in steps if '"$FINETREE" check' in step["run"]]
    (repository / "training" / "job.yaml").write_text(UNSIZED, encoding="utf-8")
    environment = {
        "FINETREE": str(Path(sys.executable).with_name("finetree")),
        "PATHS": "training/job.yaml",
        "POLICY": "policy.yaml",
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", body], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    assert "undecided: cost, duration_seconds" in done.stderr
    assert "give dataset.profile.examples (--examples N)" in done.stderr
    document = json.loads((repository / "plan.json").read_text(encoding="utf-8"))
    assert (document["verdict"], document["passed"]) == ("UNDECIDED", False)
