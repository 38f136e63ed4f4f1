# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/ci-gate.md, run as they stand there; tests/integration/cli/test_wrappers.py runs its pipelines."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from finetree_cli import __main__ as entry
from finetree_cli.gate.report import Revisions, make_report
from ruamel.yaml import YAML

PAGE = (Path(__file__).parents[3] / "docs" / "ci-gate.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
UNSIZED = "model: {name: llama-3.1-8b}\nlora: {rank: 16}\nhardware: {accelerator: a100-80gb}\n"
JOB = UNSIZED + "dataset: {profile: {examples: 5000, total_tokens: 2000000}}\n"
ELSEWHERE = ("finetree train", "finetree jobs", "finetree costs", "finetree comment")
"""Commands that need a trainer or a token."""


def steps() -> list[str]:
    """What the page's pipelines run: `run:` of GitHub's steps, and `script:` of GitLab's jobs."""
    found: list[str] = []
    for kind, block in BLOCKS:
        document: Any = YAML(typ="safe", pure=True).load(block) if kind == "yaml" else {}
        for job in [*document.get("jobs", {}).values(), *document.values()]:
            if isinstance(job, dict):
                found += [step["run"] for step in job.get("steps", ()) if "run" in step]
                found += job.get("script", ())
    return found


def commands() -> list[str]:
    """Every command line of finetree that this page lets somebody copy, without those of ELSEWHERE."""
    shell = [line for kind, block in BLOCKS if not kind for line in block.splitlines()]
    lines = [line.strip() for text in [*shell, *steps()] for line in text.splitlines()]
    return [line for line in lines if line.startswith("finetree ") and not line.startswith(ELSEWHERE)]


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A repository with the page's own policy, and a plan.json."""
    (policy,) = [block for _, block in BLOCKS if block.startswith("# policy.yaml")]
    (tmp_path / "training").mkdir()
    for name in ("policy.yaml", "training/policy.yaml", ".finetree/policy.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(
            policy.replace("job: training", "job: ../training" if "training/" in name else "job: training")
        )
    for name in ("job.yaml", "team.finetree.yaml"):
        (tmp_path / "training" / name).write_text(JOB, encoding="utf-8")
    report = make_report([], as_of="2026-11-28", revisions=Revisions())
    (tmp_path / "plan.json").write_text(report.to_text(), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    return tmp_path


def run(line: str) -> int:
    """Run a command line; a pipe's other end is left to the reader's machine."""
    return int(entry.run(shlex.split(re.split(r" \| ", line)[0])[1:]))


def test_the_page_has_commands_for_the_shell_and_for_both_pipelines():
    assert len(commands()) >= 5
    assert steps()
    assert all(
        step.startswith(("finetree ", "pip install ", "pipx run --spec finetree-cli finetree ")) for step in steps()
    )


@pytest.mark.parametrize("line", commands())
def test_a_command_does_what_the_page_says(repository, capsys, line):
    assert run(line) == 0, capsys.readouterr().err


@pytest.mark.parametrize("line", [each for each in commands() if each.startswith("finetree check training/job.yaml")])
def test_a_pipeline_stops_a_job_of_unknown_size(repository, capsys, line):
    (repository / "training" / "job.yaml").write_text(UNSIZED, encoding="utf-8")
    assert run(line) == 3
    said = capsys.readouterr()
    assert "undecided: cost, duration_seconds [CHECK_UNDECIDED]" in said.err
    assert "give dataset.profile.examples (--examples N)" in said.err
    (repository / "plan.json").unlink(missing_ok=True)
    assert run("finetree check training/job.yaml --policy policy.yaml --output json=plan.json") == 3
    document = json.loads((repository / "plan.json").read_text(encoding="utf-8"))
    assert (document["verdict"], document["passed"]) == ("UNDECIDED", False)
