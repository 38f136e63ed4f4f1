# SPDX-License-Identifier: Apache-2.0
"""Checks of a plan as text."""

from finetree_api.estimator.v1 import check_plan_pb2, estimate_pb2
from finetree_api.types.v1 import check_pb2, evidence_pb2
from finetree_cli.jobfile.job import parse_job
from finetree_cli.output import Output
from finetree_cli.render.estimator import check as text
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


def test_the_text_has_the_limit_the_remedy_and_the_versions(capsys):
    text.show(Output(), answer())
    out = capsys.readouterr().out
    for part in ("FAIL", "cost", "too much", "training.micro_batch_size: 1", "9 GiB", "a note", "engine-9"):
        assert part in out
    assert "Plan: sha256:ab" in out


def test_without_a_remedy_text_and_summary_have_the_reason(monkeypatch, tmp_path, capsys):
    found = answer()
    found.ClearField("remedies")
    found.no_remedy = "none of 3 changes that were tried: cost may still take 5 USD"
    text.show(Output(), found)
    assert found.no_remedy in capsys.readouterr().out
    monkeypatch.setenv(github.SUMMARY, str(tmp_path / "summary.md"))
    github.show(Output(), found, parse_job(JOB, "job.yaml"), failed=True)
    assert found.no_remedy in (tmp_path / "summary.md").read_text(encoding="utf-8")
