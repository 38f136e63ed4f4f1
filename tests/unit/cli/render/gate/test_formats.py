# SPDX-License-Identifier: Apache-2.0
"""Formats by name: where each goes."""

import json
from pathlib import Path

import gate_reports as sample
import pytest
from finetree_cli.errors import BadInput, FileProblem, Position
from finetree_cli.gate.report import FileError, PlanEntry, read_report
from finetree_cli.output import Output
from finetree_cli.render.gate import formats, github
from finetree_cli.render.gate.formats import Target


def test_several_formats_are_read():
    assert formats.parse_targets("text, json=plan.json,sarif=out/f.sarif") == (
        Target("text"),
        Target("json", Path("plan.json")),
        Target("sarif", Path("out/f.sarif")),
    )
    assert formats.parse_targets("text,github") == (Target("text"), Target("github"))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("xml", "'xml' is no format"),
        ("", "'' is no format"),
        ("json=", "json= names no file"),
        ("text,json", "two formats go to the same place"),
        ("json=a,sarif=a", "two formats go to the same place"),
        ("text,text", "two formats go to the same place"),
    ],
)
def test_what_cannot_be_is_refused(value, problem):
    with pytest.raises(BadInput, match=problem) as refused:
        formats.parse_targets(value)
    assert refused.value.remedy


def test_every_format_goes_to_its_file_and_annotations_to_the_log_with_a_summary(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(formats.SUMMARY, str(tmp_path / "summary.md"))
    report = sample.everything()
    files = [Target(name, tmp_path / name) for name in formats.FORMATS if name != "github"]
    formats.write(report, [*files, Target("text"), Target("github")], Output())
    out = capsys.readouterr().out
    assert "Verdict: FAIL" in out
    assert "::error file=" in out
    assert (tmp_path / "summary.md").read_text(encoding="utf-8").startswith("### finetree: FAIL")
    assert read_report(tmp_path / "json") == report
    assert all((tmp_path / target.format).read_text(encoding="utf-8").endswith("\n") for target in files)


def test_machines_get_the_standard_output_to_the_byte(capsys):
    report = sample.make(sample.entry("a\u202eb.yaml"))
    formats.write(report, [Target("json")], Output())
    assert json.loads(capsys.readouterr().out) == report.to_json()


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"no/plan\.json: No such file") as refused:
        formats.write(sample.make(), [Target("json", tmp_path / "no" / "plan.json")], Output())
    assert refused.value.reason == "OUTPUT_FILE_UNWRITABLE"


@pytest.mark.parametrize("name", formats.FORMATS)
def test_every_format_says_what_to_do_about_a_file_that_cannot_be_read(name):
    error = FileError(reason="JOB_FILE_UNREADABLE", message="no such file", line=1, remedy="name the other file")
    missing = PlanEntry(file="a.yaml", verdict="FAIL", passed=False, error=error)
    for entry in (missing, sample.unreadable(remedy="name the other file")):
        assert "name the other file" in formats.render(sample.make(entry), name)


def test_a_policy_that_stops_the_whole_check_has_its_remedy_in_its_annotation():
    whole = BadInput("no such file", remedy="name the other file")
    inside = BadInput("bad", remedy="name the other file", problems=[FileProblem(Position("p", 2, 3), "limits", "odd")])
    assert github.annotate(whole, "p").endswith("::no such file; name the other file")
    assert github.annotate(inside, "p").endswith("::limits: odd; name the other file")
