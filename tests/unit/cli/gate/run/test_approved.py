# SPDX-License-Identifier: Apache-2.0
"""A plan is run as it was approved, or refused with what differs."""

import dataclasses
import hashlib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from finetree_api.trainer.v1 import job_pb2, trainer_pb2
from finetree_api.types.v1 import run_spec_pb2
from finetree_cli.errors import BadInput, GateFailed
from finetree_cli.gate.report import (
    CheckResult,
    DataFile,
    Location,
    Override,
    PlanEntry,
    PolicyFile,
    Range,
    Report,
    Revisions,
    Waiver,
    make_report,
)
from finetree_cli.gate.run import approved

TODAY = date(2026, 11, 28)
JOB = "model: {name: small}\nlora:\n  rank: 8\ndataset: {path: rows.jsonl}\n"
SPEC = {
    "model": {"name": "small"},
    "lora": {"rank": 8},
    "dataset": {"path": "rows.jsonl"},
    "precision": "PRECISION_BF16",
}
COST = CheckResult(
    rule_id="cost",
    severity="error",
    level="overridable",
    verdict="PASS",
    measured=Range(low=1, expected=2, high=3),
    limit=5.0,
    allowed=None,
    unit="money",
    currency_code="USD",
    base=None,
    location=Location(file="a.yaml", line=1, column=1, field_path=""),
    fix=None,
    message="",
    waiver=None,
    override=None,
    fingerprint="",
)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def entry(tmp_path, monkeypatch) -> PlanEntry:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(JOB, encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    return PlanEntry(
        file="a.yaml",
        file_sha256=digest(JOB),
        verdict="PASS",
        passed=True,
        plan_digest="sha256:" + "d" * 64,
        plan={"spec": SPEC, "digest": "sha256:" + "d" * 64},
        data_files=(DataFile(field_path="dataset", path="rows.jsonl", sha256=digest("{}\n")),),
        checks=(COST,),
    )


def report(*entries: PlanEntry, as_of: str = "2026-11-20", policy: PolicyFile | None = None) -> Report:
    return make_report(entries, as_of=as_of, revisions=Revisions(), policy=policy)


def test_a_plan_is_chosen_by_its_job_file_where_there_are_several(entry):
    other = dataclasses.replace(entry, file="b/c.yaml")
    assert approved.choose_entry(report(entry), None) is entry
    assert approved.choose_entry(report(entry, other), "./b/c.yaml") is other
    removed = dataclasses.replace(other, change="removed")
    assert approved.choose_entry(report(entry, removed), None) is entry
    for file in (None, "d.yaml"):
        with pytest.raises(BadInput) as refused:
            approved.choose_entry(report(entry, other), file)
        assert "a.yaml, b/c.yaml" in refused.value.message + refused.value.remedy


def waived(until: str) -> CheckResult:
    waiver = Waiver(reason="old card", owner="ops", until=until)
    return dataclasses.replace(COST, verdict="WAIVED", waiver=waiver)


@pytest.mark.parametrize(
    ("change", "max_age", "refusal"),
    [
        ({}, None, ""),
        ({}, 8 * 86400.0, ""),
        ({}, 7 * 86400.0, "PLAN_STALE: the plan of a.yaml is stale: it was checked on 2026-11-20, 8 days ago"),
        ({"checks": (waived("2026-11-28"),)}, None, ""),
        ({"checks": (waived("2026-11-27"),)}, None, "the waiver of cost expired after 2026-11-27"),
        ({"passed": False, "verdict": "FAIL"}, None, "PLAN_NOT_PASSED: the plan of a.yaml did not pass: FAIL"),
        ({"plan": None}, None, "PLAN_NOT_PASSED: a.yaml was not checked"),
    ],
    ids=str,
)
def test_a_plan_that_did_not_pass_or_is_stale_is_refused(entry, change, max_age, refusal):
    found = dataclasses.replace(entry, **change)
    said = ""
    try:
        approved.require_passed(report(found), found, today=TODAY, max_age=max_age)
    except GateFailed as error:
        said = f"{error.reason}: {error.message}"
    assert refusal in said
    assert bool(refusal) == bool(said)


def test_a_policy_that_has_changed_makes_a_plan_stale(entry):
    policy = PolicyFile(file="policy.yaml", sha256=digest("limits: []\n"))
    approved.require_passed(report(entry, policy=policy), entry, today=TODAY)  # it is not here to be compared
    Path("policy.yaml").write_text("limits: []\n", encoding="utf-8")
    approved.require_passed(report(entry, policy=policy), entry, today=TODAY)
    Path("policy.yaml").write_text("limits: [{metric: fit}]\n", encoding="utf-8")
    with pytest.raises(GateFailed, match=r"policy.yaml has changed"):
        approved.require_passed(report(entry, policy=policy), entry, today=TODAY)


def test_a_date_that_is_none_is_the_files_mistake(entry):
    with pytest.raises(BadInput, match="as_of is no day: 'soon'"):
        approved.require_passed(report(entry, as_of="soon"), entry, today=TODAY)


def resolved(_: Any) -> run_spec_pb2.RunSpec:
    spec = approved.approved_plan(PlanEntry(file="", verdict="PASS", passed=True, plan={"spec": SPEC})).spec
    spec.lora.rank = 16
    return spec


def test_the_job_has_the_run_of_the_plan(entry):
    job = approved.read_approved_job(entry, lambda _: pytest.fail("nothing has changed"))
    assert job.spec == approved.approved_plan(entry).spec
    assert job.spec.precision


@pytest.mark.parametrize(
    ("resolve", "reason", "said"),
    [
        (
            resolved,
            "PLAN_DRIFT",
            "a.yaml has changed since the check, 1 setting differs: a.yaml:3:3: lora.rank: approved 8, now 16",
        ),
        (lambda _: None, "PLAN_STALE", "a.yaml has changed since the check"),
        (lambda job: job.spec, "PLAN_DRIFT", "precision: approved PRECISION_BF16, now unset"),
    ],
    ids=["resolved", "no estimator", "default gone"],
)
def test_a_job_file_that_has_changed_is_refused_with_its_settings(entry, resolve, reason, said):
    Path("a.yaml").write_text(JOB.replace("8", "16"), encoding="utf-8")
    with pytest.raises(GateFailed) as refused:
        approved.read_approved_job(entry, resolve)
    assert refused.value.reason == reason
    assert said in refused.value.message


@pytest.mark.parametrize(
    ("content", "said"), [("{}\n{}\n", "has changed since the check"), (None, "rows.jsonl is missing")], ids=str
)
def test_data_that_has_changed_is_refused(entry, content, said):
    Path("rows.jsonl").unlink()
    if content is not None:
        Path("rows.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(GateFailed, match=said) as refused:
        approved.read_approved_job(entry, resolved)
    assert refused.value.reason == "PLAN_STALE"


def test_the_job_keeps_who_let_a_limit_stand(entry):
    lifted = dataclasses.replace(COST, rule_id="fit", verdict="WAIVED", override=Override(by="ada", reason="launch"))
    unused = dataclasses.replace(waived("2027-01-01"), rule_id="energy_kwh", verdict="PASS")
    found = dataclasses.replace(entry, checks=(waived("2027-01-01"), lifted, unused), policy="small")
    kept = approved.annotations(report(found, policy=PolicyFile(file="policy.yaml", sha256="e" * 64)), found)
    assert kept == {
        "finetree/plan-digest": entry.plan_digest,
        "finetree/job-file": "a.yaml",
        "finetree/policy": f"policy.yaml small (sha256:{'e' * 64})",
        "finetree/waiver.cost": "ops until 2027-01-01: old card",
        "finetree/override.fit": "ada: launch",
    }
    assert set(job_pb2.JobTemplate(annotations=kept).annotations) == set(kept)


PROFILE = ("job.train.approved_plan.dataset_profile.total_tokens", "approved unset, now 40")
NAME = ("job.train.spec.dataset.name", "approved unset, now d1")
PRICE = ("job.train.approved_plan.revision.price_book.id", "approved a, now b")


@pytest.mark.parametrize(
    ("violations", "uploaded", "high", "refusal"),
    [
        ([PROFILE, NAME], {"dataset": "d1"}, 4.0, ("", "")),
        ([PROFILE], {}, 4.0, ("PLAN_DRIFT", "dataset_profile.total_tokens: approved unset, now 40")),
        ([PROFILE, NAME], {"dataset": "d1"}, 6.0, ("PLAN_STALE", "cost may reach 6 USD, limit 5 USD")),
        (
            [PROFILE, NAME],
            {},
            4.0,
            (
                "PLAN_DRIFT",
                "2 fields differ: approved_plan.dataset_profile.total_tokens: approved unset, now 40; dataset.name: ",
            ),
        ),
        (
            [NAME, PRICE],
            {"dataset": "d1"},
            4.0,
            ("PLAN_DRIFT", "approved_plan.revision.price_book.id: approved a, now b"),
        ),
    ],
    ids=["same data", "a file of the trainer", "dearer", "other data", "other prices"],
)
def test_only_what_the_trainer_says_of_the_checked_data_may_differ(entry, violations, uploaded, high, refusal):
    present = trainer_pb2.ValidateJobResponse()
    present.estimate.cost.amount.high = high
    found = ("", "")
    try:
        approved.require_same_but_data(entry, violations, present, uploaded)
    except GateFailed as error:
        found = (error.reason, error.message)
    assert found[0] == refusal[0]
    assert refusal[1] in found[1]


def test_a_dataset_of_the_trainer_may_be_counted_again(entry):
    named = dataclasses.replace(entry, plan={"spec": SPEC | {"dataset": {"name": "d1"}}})
    approved.require_same_but_data(named, [PROFILE], trainer_pb2.ValidateJobResponse(), {})
