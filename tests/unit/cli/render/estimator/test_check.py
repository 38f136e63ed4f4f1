# SPDX-License-Identifier: Apache-2.0
"""Checks of a plan as text."""

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import evidence_pb2 as ev
from finetree_cli.jobfile.job import parse_job
from finetree_cli.output import Output
from finetree_cli.render.estimator import check as text
from finetree_cli.render.estimator import github

JOB = "model: {name: small}\nlora:\n  rank: 8\nhardware:\n  accelerator: rtx-4090\n"


def answer(verdict: int = ev.CHECK_VERDICT_FAIL, help_text: str = "too much") -> pb.CheckPlanResponse:
    patch = ev.SpecPatch(field_path="training.micro_batch_size", json_value="1")
    check = ev.Check(rule_id="policy.max_cost", verdict=verdict, field_path="hardware", help=help_text, fix=patch)
    remedy = pb.Remedy(patches=[patch], summary="one row at a time: 9 GiB")
    revision = ev.Revision(engine=ev.RevisionComponent(id="engine-9"))
    estimate = pb.Estimate(plan_digest="sha256:ab", revision=revision, notes=["a note"])
    return pb.CheckPlanResponse(verdict=verdict, checks=[check], remedies=[remedy], estimate=estimate)


def test_the_text_has_the_limit_the_remedy_and_the_versions(capsys):
    text.show(Output(), answer())
    out = capsys.readouterr().out
    for part in ("FAIL", "policy.max_cost", "too much", "training.micro_batch_size: 1", "9 GiB", "a note", "engine-9"):
        assert part in out
    assert "Plan: sha256:ab" in out


def test_without_a_remedy_text_and_summary_have_the_reason(monkeypatch, tmp_path, capsys):
    found = answer()
    found.ClearField("remedies")
    found.no_remedy = "none of 3 changes that were tried: policy.max_cost may still take 5 USD"
    text.show(Output(), found)
    assert found.no_remedy in capsys.readouterr().out
    monkeypatch.setenv(github.SUMMARY, str(tmp_path / "summary.md"))
    github.show(Output(), found, parse_job(JOB, "job.yaml"), failed=True)
    assert found.no_remedy in (tmp_path / "summary.md").read_text(encoding="utf-8")
