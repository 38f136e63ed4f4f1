# SPDX-License-Identifier: Apache-2.0
"""`--output`: which formats go where."""

import json
from pathlib import Path

import pytest
from finetree_cli.errors import BadInput
from finetree_cli.gate.report import PlanEntry, Revisions, make_report
from finetree_cli.output import Output
from finetree_cli.render.gate.formats import FORMATS, Target, parse_targets, render, write

REPORT = make_report([PlanEntry(file="a.yaml", verdict="PASS", passed=True)], as_of="2026-11-28", revisions=Revisions())


def test_formats_with_and_without_files():
    found = parse_targets("text, json=a/plan.json,github")
    assert found == (Target("text"), Target("json", Path("a/plan.json")), Target("github"))


@pytest.mark.parametrize(
    ("value", "problem"), [("yaml", "'yaml' is no format"), ("json,text", "same place"), ("json=", "names no file")]
)
def test_wrong_formats_are_refused(value, problem):
    with pytest.raises(BadInput, match=problem):
        parse_targets(value)


def test_each_format_renders_a_report():
    assert all(isinstance(render(REPORT, name), str) for name in FORMATS)


def test_files_are_written_and_stdout_gets_the_rest(tmp_path, capsys):
    write(REPORT, parse_targets(f"json={tmp_path}/plan.json,text"), Output())
    assert json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))["passed"] is True
    assert "a.yaml: PASS" in capsys.readouterr().out
    with pytest.raises(BadInput) as refused:
        write(REPORT, parse_targets(f"json={tmp_path}/no/plan.json"), Output())
    assert refused.value.reason == "OUTPUT_FILE_UNWRITABLE"
