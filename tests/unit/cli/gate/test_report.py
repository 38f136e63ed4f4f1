# SPDX-License-Identifier: Apache-2.0
"""plan.json: its text gives the same document back, and every mistake in it is named by its path."""

import copy
import json
from typing import Any

import jsonschema
import pytest
from finetree_cli.errors import BadInput
from finetree_cli.gate import report as gate
from finetree_cli.gate.document import DocumentError

COMPONENT = gate.Component(id="engine-1", sha256="a" * 64)
CHECK = gate.CheckResult(
    rule_id="cost",
    severity="error",
    level="overridable",
    verdict="FAIL",
    measured=gate.Range(low=40.0, expected=60.5, high=80.0),
    limit=50.0,
    allowed=None,
    unit="money",
    currency_code="USD",
    base=None,
    location=gate.Location(file="a.yaml", line=3, column=1, field_path="hardware"),
    fix=gate.Patch(field_path="training.epochs", value=1, summary="one epoch"),
    message="60.50 USD of 50.00 USD",
    waiver=None,
    override=gate.Override(by="ada", reason="launch"),
    fingerprint=gate.fingerprint("a.yaml", "cost", "hardware"),
)
ENTRY = gate.PlanEntry(
    file="a.yaml",
    verdict="FAIL",
    passed=False,
    plan_digest="sha256:" + "0" * 64,
    plan={"spec": {"lora": {"rank": 8}}},
    cost=gate.Cost(low=40.0, expected=60.5, high=80.0, currency_code="USD"),
    fit="FITS",
    checks=(CHECK,),
    remedies=(gate.Remedy(summary="one epoch", patches=(CHECK.fix,) if CHECK.fix else ()),),
    assumptions=("rows are as long as the job allows",),
)
UNREAD = gate.PlanEntry(
    file="b.yaml",
    verdict="FAIL",
    passed=False,
    error=gate.FileError(
        reason="JOB_FILE_INVALID",
        message="1 problem in b.yaml",
        line=2,
        problems=(gate.Problem(location=gate.Location(file="b.yaml", line=2, column=1, field_path="x"), message="no"),),
    ),
)


@pytest.fixture
def report() -> gate.Report:
    return gate.make_report((ENTRY, UNREAD), as_of="2026-11-28", revisions=gate.Revisions(engine=COMPONENT))


def test_the_text_gives_the_same_document_back(report, tmp_path):
    (tmp_path / "plan.json").write_text(report.to_text(), encoding="utf-8")
    assert gate.read_report(tmp_path / "plan.json") == report
    jsonschema.validate(report.to_json(), gate.plan_schema())


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        ((), "PASS"),
        (("PASS", "WAIVED"), "WAIVED"),
        (("WARN", "WAIVED"), "WARN"),
        (("UNDECIDED", "WARN"), "UNDECIDED"),
        (("UNDECIDED", "FAIL", "PASS"), "FAIL"),
    ],
)
def test_the_worst_verdict_is_the_whole_ones(verdicts, worst):
    assert gate.worst(verdicts) == worst


def set_at(document: Any, path: tuple[str | int, ...], value: Any) -> None:
    for key in path[:-1]:
        document = document[key]
    if value is ...:
        del document[path[-1]]
    else:
        document[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("plans", 0, "checks", 0, "limit"), "50", "plans[0].checks[0].limit: expected a number, got text"),
        (("plans", 0, "checks", 0, "limit"), float("nan"), "plans[0].checks[0].limit: expected a number, got nan"),
        (("plans", 0, "checks", 0, "verdict"), "OK", "plans[0].checks[0].verdict: expected PASS, WARN"),
        (("plans", 0, "checks", 0, "location", "line"), True, "line: expected a whole number, got true or false"),
        (("plans", 0, "cost", "high"), ..., "plans[0].cost.high: is missing"),
        (("plans", 0, "verdit"), "PASS", "plans[0].verdit: unknown key; did you mean verdict?"),
        (("plans", 0, "remedies"), {}, "plans[0].remedies: expected a list, got an object"),
        (("plans", 1), None, "plans[1]: expected an object, got null"),
        (("schema_version",), 2, "schema_version: is 2, and this finetree reads 1"),
    ],
    ids=str,
)
def test_a_mistake_is_named_by_its_path(report, path, value, problem):
    document = copy.deepcopy(json.loads(report.to_text()))
    set_at(document, path, value)
    with pytest.raises(DocumentError) as refused:
        gate.Report.from_json(document)
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "PLAN_FILE_UNREADABLE"),
        ("{", "PLAN_FILE_INVALID"),
        ("[]", "PLAN_FILE_INVALID"),
        ("[" * 99999, "PLAN_FILE_INVALID"),
    ],
    ids=["none", "cut", "list", "deep"],
)
def test_a_file_that_is_no_plan_is_refused(tmp_path, text, reason):
    if text is not None:
        (tmp_path / "plan.json").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput) as refused:
        gate.read_report(tmp_path / "plan.json")
    assert refused.value.reason == reason
    assert "plan.json" in refused.value.message


def test_a_fingerprint_depends_on_file_rule_and_field_alone():
    assert gate.fingerprint("a", "b", "c") == gate.fingerprint("a", "b", "c")
    assert len({gate.fingerprint(*each) for each in (("a", "b", "c"), ("ab", "", "c"), ("a", "bc", ""))}) == 3


def test_a_file_whose_name_is_no_utf8_has_a_fingerprint_too():
    names = [b"job-\xff.yaml".decode(errors="surrogateescape"), b"job-\xfe.yaml".decode(errors="surrogateescape")]
    assert len({gate.fingerprint(name, "cost", "") for name in names}) == 2
