# SPDX-License-Identifier: Apache-2.0
"""The action, the component, the hook and the documented pipelines: valid for their sites, and run as they run them."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_jsonschema import main as check_jsonschema
from click.testing import CliRunner
from finetree_cli import __main__ as entry

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
DEMO = runpy.run_path(str(Path(__file__).with_name("pull_request_page.py")))
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
COMPONENT: list[dict[str, Any]] = list(yaml.safe_load_all((ROOT / "templates/check.yml").read_text(encoding="utf-8")))
(HOOK,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs/ci-gate.md").read_text(encoding="utf-8")
SNIPPETS: list[str] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
WORKFLOWS = [text for text in SNIPPETS if "runs-on:" in text]
PIPELINES = [text for text in SNIPPETS if "component:" in text]


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    DEMO["make_repository"](folder)
    return folder


def validate(schema: str, *files: Path) -> None:
    """Validate files against a schema that comes with check-jsonschema."""
    done = CliRunner().invoke(check_jsonschema, ["--builtin-schema", schema, *map(str, files)])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("file", ["action.yml", "templates/check.yml", ".pre-commit-hooks.yaml"])
def test_a_wrapper_is_short(file):
    assert len((ROOT / file).read_text(encoding="utf-8").splitlines()) <= 30


def test_wrappers_and_documented_pipelines_are_valid(tmp_path):
    parts = {f"component{number}.yml": yaml.safe_dump(part) for number, part in enumerate(COMPONENT)}
    parts |= {f"pipeline{number}.yml": text for number, text in enumerate(PIPELINES)}
    workflows = {f"workflow{number}.yml": text for number, text in enumerate(WORKFLOWS)}
    for name, text in (parts | workflows).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert (len(PIPELINES), len(WORKFLOWS)) == (1, 2)
    validate("vendor.github-actions", ROOT / "action.yml")
    validate("vendor.github-workflows", *(tmp_path / name for name in workflows))
    validate("vendor.gitlab-ci", *(tmp_path / name for name in parts))


def test_the_action_and_the_documented_workflows_have_no_known_weakness(tmp_path):
    folder = tmp_path / ".github/workflows"
    folder.mkdir(parents=True)
    for number, text in enumerate(WORKFLOWS):
        pinned = re.sub(r"@(v\d+|REF)\b", f"@{'a' * 40}", text)  # a policy may want hashes; a page wants to be read
        (folder / f"{number}.yml").write_text(pinned, encoding="utf-8")
    (tmp_path / "action.yml").write_text((ROOT / "action.yml").read_text(encoding="utf-8"), encoding="utf-8")
    command = [BIN / "zizmor", "--offline", "--no-progress", "--format=plain", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    (folder / "0.yml").write_text(WORKFLOWS[0].replace("on: pull_request", "on: pull_request_target"), encoding="utf-8")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0, "it looks"


def run_step(
    step: dict[str, Any], inputs: dict[str, str], folder: Path, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a step of the action as the runner does; inputs that are not given have their defaults."""
    given = {name: inputs.get(name, item["default"]) for name, item in ACTION["inputs"].items()}
    values = {"runner.temp": str(folder), **{f"inputs.{name}": value for name, value in given.items()}}
    environment = {
        name: re.sub(r"\$\{\{ ([\w.]+) \}\}", lambda match: values[match[1]], text)
        for name, text in step.get("env", {}).items()
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FINETREE_", "GITHUB_", "GIT_"))}
    script = folder / "step.sh"
    script.write_text(step["run"], encoding="utf-8")
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", script],
        env={**clean, **DEMO["ENVIRONMENT"], **environment, **more},
        cwd=more["GITHUB_WORKSPACE"],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("inputs", "code", "said"),
    [
        ({"base": "main"}, 3, ["Jobs: 1 new, 2 changed, 1 removed", "::error file=training/team7.finetree.yaml,line="]),
        ({"paths": "training/team1*.yaml", "arguments": "--as-of 2026-11-28"}, 0, ["Verdict: PASS: 2 jobs checked"]),
        ({"paths": "$(touch hacked)", "policy": "`touch hacked`"}, 2, ["No such file"]),
        ({"base": "gone"}, 2, ["gone: no commit of this repository"]),
    ],
    ids=["base", "globs", "injection", "no base"],
)
def test_the_action_checks(repository, tmp_path, inputs, code, said):
    program = tmp_path / "finetree/bin/finetree"
    program.parent.mkdir(parents=True)
    program.symlink_to(BIN / "finetree")
    places = {"GITHUB_WORKSPACE": str(repository), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    done = run_step(ACTION["runs"]["steps"][1], inputs, tmp_path, **places)
    assert done.returncode == code, done.stdout + done.stderr
    for text in said:
        assert text in done.stdout + done.stderr
    assert not (repository / "hacked").exists()
    if code != 2:
        assert json.loads((repository / ACTION["outputs"]["plan"]["value"]).read_text(encoding="utf-8"))["plans"]
        assert (tmp_path / "summary.md").read_text(encoding="utf-8").startswith("### finetree: ")


def test_the_action_installs_what_its_lock_has(tmp_path):
    """The programs that fetch packages are put in place of; what they are asked is what is looked at."""
    step = ACTION["runs"]["steps"][0]
    (tmp_path / "bin").mkdir()
    fake = '#!/bin/sh\necho "$(basename $0) $*" >> "$LOG"\n'
    made = f'mkdir -p "$3/bin"; cp "{tmp_path}/bin/python3" "$3/bin/pip"; cp "{tmp_path}/bin/python3" "$3/bin/uv"\n'
    (tmp_path / "bin/python3").write_text(f'{fake}[ "$2" != venv ] || {{ {made.strip()}; }}\n', encoding="utf-8")
    (tmp_path / "bin/python3").chmod(0o755)
    log = tmp_path / "log"
    places = {"GITHUB_WORKSPACE": str(tmp_path), "GITHUB_ACTION_PATH": str(ROOT), "LOG": str(log)}
    done = run_step(step, {}, tmp_path, PATH=f"{tmp_path}/bin:{os.environ['PATH']}", **places)
    assert done.returncode == 0, done.stderr
    asked = log.read_text(encoding="utf-8")
    assert "pip install --quiet uv>=0.13.9,<0.14" in asked
    assert "uv sync --quiet --frozen --inexact --no-dev --package finetree-cli --extra local" in asked


def test_the_component_checks(repository, tmp_path):
    header, body = COMPONENT
    inputs = {name: item["default"] for name, item in header["spec"]["inputs"].items()} | {"paths": "training"}
    job = body["finetree-check"]
    lines = [re.sub(r"\$\[\[ inputs\.(\w+) \]\]", lambda match: inputs[match[1]], line) for line in job["script"]]
    assert lines[0] == 'pip install --quiet "finetree-cli[local]"'
    environment = {**os.environ, **DEMO["ENVIRONMENT"], "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", "\n".join(lines[1:])],
        env={**environment, "CI_MERGE_REQUEST_DIFF_BASE_SHA": "main"},
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    for name in (*job["artifacts"]["paths"], *job["artifacts"]["reports"].values()):
        assert (repository / name).stat().st_size > 0


def test_the_hook_is_for_the_files_that_a_folder_is_searched_for(repository, monkeypatch):
    pattern = re.compile(HOOK["files"])
    for file in ("finetree.yaml", "a/finetree.yml", "team1.finetree.yaml", "a/b.c.finetree.yml"):
        assert pattern.search(file), file
    for file in (
        "xfinetree.yaml",
        "finetree.yaml.bak",
        "a/.finetree/policy.yaml",
        "finetree.json",
        "finetree/job.yaml",
    ):
        assert not pattern.search(file), file
    assert (HOOK["entry"].split()[0], HOOK["language"]) == ("finetree", "system")
    monkeypatch.chdir(repository)
    assert entry.run([*HOOK["entry"].split()[1:], "training/team1.finetree.yaml"]) == 0
