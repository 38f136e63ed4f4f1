# SPDX-License-Identifier: Apache-2.0
"""Checks as GitHub's annotations and summary."""

import pytest
from finetree_api.estimator.v1 import check_plan_pb2, estimate_pb2
from finetree_api.types.v1 import check_pb2, evidence_pb2
from finetree_cli.jobfile.job import parse_job
from finetree_cli.output import Output
from finetree_cli.render.estimator import github
from google.protobuf import struct_pb2

JOB = "model: {name: small}\nlora:\n  rank: 8\nhardware:\n  accelerator: rtx-4090\n"


def answer(verdict: int = check_pb2.CHECK_VERDICT_FAIL, message: str = "too much") -> check_plan_pb2.CheckPlanResponse:
    patch = check_pb2.SpecPatch(field_path="training.micro_batch_size", value=struct_pb2.Value(number_value=1))
    check = check_pb2.Check(rule_id="cost", verdict=verdict, field_path="hardware", message=message, fix=patch)
    remedy = estimate_pb2.Remedy(patches=[patch], summary="one row at a time: 9 GiB")
    revision = evidence_pb2.Revision(engine=evidence_pb2.RevisionComponent(id="engine-9"))
    remark = check_pb2.Remark(code="A_NOTE", message="a note")
    estimate = estimate_pb2.Estimate(plan_digest="sha256:ab", revision=revision, remarks=[remark])
    return check_plan_pb2.CheckPlanResponse(verdict=verdict, checks=[check], remedies=[remedy], estimate=estimate)


@pytest.mark.parametrize(
    ("verdict", "failed", "kind"),
    [
        (check_pb2.CHECK_VERDICT_FAIL, True, "::error "),
        (check_pb2.CHECK_VERDICT_UNDECIDED, False, "::warning "),
        (check_pb2.CHECK_VERDICT_UNDECIDED, True, "::error "),
        (check_pb2.CHECK_VERDICT_PASS, False, ""),
    ],
)
def test_an_annotation_stands_at_the_setting_that_it_is_about(capsys, verdict, failed, kind):
    job = parse_job(JOB, "a,b.yaml")
    github.show(Output(), answer(verdict), job, failed=failed)
    out = capsys.readouterr().out
    assert out.startswith(kind) if kind else out == ""
    assert not kind or "file=a%2Cb.yaml,line=4,col=1,title=cost%3A " in out


def test_an_annotation_is_one_line_whatever_the_text(capsys):
    job = parse_job(JOB, "job.yaml")
    github.show(Output(), answer(message="50 %\n::warning::forged"), job, failed=True)
    (line,) = capsys.readouterr().out.splitlines()
    assert "50 %25%0A::warning::forged" in line


def test_the_summary_is_appended_and_is_no_markup(monkeypatch, tmp_path, capsys):
    file = tmp_path / "summary.md"
    file.write_text("before\n", encoding="utf-8")
    monkeypatch.setenv(github.SUMMARY, str(file))
    github.show(Output(), answer(message="a | b <img>\nnext"), parse_job(JOB, "job.yaml"), failed=True)
    content = file.read_text(encoding="utf-8")
    assert content.startswith("before\n### finetree check: FAIL")
    assert "| `cost` | FAIL | a \\| b &lt;img> next |" in content
    assert "sha256:ab" in content
    monkeypatch.setenv(github.SUMMARY, str(tmp_path / "no" / "folder"))
    github.show(Output(), answer(), parse_job(JOB, "job.yaml"), failed=True)
    assert "No such file or directory" in capsys.readouterr().err


def test_a_job_from_stdin_has_no_file_to_annotate(capsys):
    github.show(Output(), answer(), parse_job(JOB, github.STDIN), failed=True)
    assert capsys.readouterr().out.startswith("::error title=")
