# SPDX-License-Identifier: Apache-2.0
"""Many jobs, one estimator: entries in order, refusals at their place, the outcome of all."""

from dataclasses import replace
from typing import Any

import pytest
from finetree import InvalidArgument, Unavailable, Violation
from finetree_api.estimator.v1 import check_plan_pb2, estimate_pb2
from finetree_api.types.v1 import check_pb2
from finetree_cli.errors import BadInput, GateFailed
from finetree_cli.gate.check_jobs import Checks
from finetree_cli.gate.job_files import read_jobs
from finetree_cli.gate.outcome import failure, require_known
from finetree_cli.gate.policy.file import read_policies
from finetree_cli.gate.policy.flags import LimitFlags, undecided_of
from finetree_cli.gate.policy.policy import Policies
from finetree_cli.gate.report import PlanEntry, Report, Revisions, make_report, plan_schema
from google.protobuf import json_format

JOB = "model: {{name: {}}}\nlora:\n  rank: 8\nhardware: {{accelerator: rtx-4090}}\n"


def answer(verdict: str) -> check_plan_pb2.CheckPlanResponse:
    patch = {"field_path": "training.micro_batch_size", "value": 1, "summary": "one row"}
    check: dict[str, Any] = {
        "rule_id": "cost",
        "severity": "SEVERITY_ERROR",
        "verdict": f"CHECK_VERDICT_{verdict}",
        "limit": 5,
        "unit": "CHECK_UNIT_MONEY",
        "currency_code": "USD",
        "field_path": "lora.rank",
        "level": "LIMIT_LEVEL_OVERRIDABLE",
        "waiver": {"rule_id": "cost", "owner": "ops", "reason": "old card", "until": "2026-11-27"},
        "override": {"rule_id": "cost", "by": "ada", "reason": "launch"},
        "message": "too much",
    }
    if verdict != "UNDECIDED":
        check |= {"measured": {"low": 1, "expected": 2, "high": 9}, "fix": patch}
    document = {
        "verdict": f"CHECK_VERDICT_{verdict}",
        "checks": [check],
        "remedies": [{"patches": [patch], "summary": "one row: 9 GiB"}] if verdict == "FAIL" else [],
        "estimate": {
            "resolved_spec": {"lora": {"rank": 8}},
            "memory": {"device_bytes": {"low": 1, "expected": 2, "high": 3}, "usable_device_bytes": "24"},
            "fit": {"verdict": "FIT_VERDICT_TIGHT"},
            "cost": {"total": {"amount": {"expected": 2}, "currency_code": "USD"}, "price_id": "mine"},
            "confidence": {"memory": "CONFIDENCE_LEVEL_HIGH"},
            "remarks": [
                {"code": "A_NOTE", "message": "a note", "field_path": "spec.lora"},
                {"code": "SETTING_ASSUMED", "message": "3 epochs", "field_path": "spec.training.epochs"},
            ],
            "revision": {"engine": {"id": "engine-9", "sha256": "a" * 64}},
            "plan_digest": "sha256:" + "b" * 64,
        },
    }
    return json_format.ParseDict(document, check_plan_pb2.CheckPlanResponse())


class Server:
    """An estimator that answers by the name of the model: a verdict, a whole answer, or an exception."""

    def __init__(self, **answers: str | check_plan_pb2.CheckPlanResponse | Exception) -> None:
        self.answers = answers

    def check_plan(
        self, run: estimate_pb2.EstimateRunRequest, _: check_plan_pb2.PlanPolicy, **__: Any
    ) -> check_plan_pb2.CheckPlanResponse:
        found = self.answers[run.spec.model.name]
        if isinstance(found, Exception):
            raise found
        return answer(found) if isinstance(found, str) else found


def check(tmp_path, server: Server, policy: Policies | None = None) -> Report:
    files = []
    for name in [*server.answers, "broken"]:
        text = "color: red\n" if name == "broken" else JOB.format(name)
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
        files.append(f"{name}.yaml")
    policies = policy or read_policies(None).with_flags(LimitFlags(fits=True))
    checks = Checks(
        server,  # type: ignore[arg-type]  # only check_plan is asked for
        policies.of,
        lambda job: estimate_pb2.EstimateRunRequest(spec=job.spec),
    )
    plans, revisions = checks.run(read_jobs(files))
    return make_report(plans, as_of="2026-11-28", revisions=revisions)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_entries_are_in_order_and_a_refused_job_is_among_them(tmp_path):
    wrong = InvalidArgument("lora.rank is odd", violations=[Violation("run.spec.lora.rank", "is odd")])
    report = check(tmp_path, Server(good="PASS", odd=wrong, bad="FAIL", open="UNDECIDED"))
    assert [entry.file for entry in report.plans] == [
        f"{name}.yaml" for name in ("good", "odd", "bad", "open", "broken")
    ]
    assert [entry.passed for entry in report.plans] == [True, False, False, False, False]
    refused = report.plans[1].error
    assert refused is not None
    assert (refused.line, refused.problems[0].location.column) == (3, 3)
    assert report.plans[4].error is not None
    assert report.revisions.engine is not None
    assert (report.verdict, report.passed) == ("FAIL", False)


def test_an_entry_has_what_was_answered(tmp_path):
    import jsonschema

    report = check(tmp_path, Server(bad="FAIL"))
    entry = report.plans[0]
    assert entry.memory_bytes is not None
    assert (entry.memory_bytes.high, entry.usable_memory_bytes, entry.fit) == (3, 24, "TIGHT")
    assert entry.cost is not None
    assert entry.price is not None
    assert (entry.cost.expected, entry.cost.currency_code, entry.price.id) == (2, "USD", "mine")
    assert (entry.duration_seconds, entry.memory_confidence, entry.time_confidence) == (None, "high", "unknown")
    assert entry.assumptions == ("a note", "3 epochs (training.epochs)")
    (found,) = entry.checks
    assert (found.location.line, found.unit, found.level, found.limit) == (3, "money", "overridable", 5)
    assert found.waiver is not None
    assert found.override is not None
    assert (found.waiver.owner, found.waiver.until, found.override.by) == ("ops", "2026-11-27", "ada")
    assert found.fix is not None
    assert found.fix.value == 1
    assert entry.remedies[0].patches[0].field_path == "training.micro_batch_size"
    assert entry.plan is not None
    assert entry.plan["digest"] == entry.plan_digest
    jsonschema.validate(report.to_json(), plan_schema())


def test_values_that_only_a_newer_server_knows_never_pass_a_plan(tmp_path):
    import jsonschema

    newer = answer("PASS")
    newer.verdict = newer.checks[0].verdict = 99  # type: ignore[assignment]  # open enums take any number
    newer.checks[0].severity = newer.checks[0].level = newer.checks[0].unit = 99  # type: ignore[assignment]
    newer.estimate.fit.verdict = newer.estimate.confidence.memory = 99  # type: ignore[assignment]
    report = check(tmp_path, Server(newer=newer))
    entry = report.plans[0]
    assert (entry.verdict, entry.passed, entry.fit, entry.memory_confidence) == (
        "UNDECIDED",
        False,
        "UNKNOWN",
        "unknown",
    )
    (found,) = entry.checks
    assert (found.verdict, found.severity, found.level, found.unit) == ("UNDECIDED", "error", "hard", "")
    jsonschema.validate(report.to_json(), plan_schema())


def test_what_concerns_every_job_is_raised(tmp_path):
    with pytest.raises(Unavailable):
        check(tmp_path, Server(good="PASS", away=Unavailable("nobody listens")))


@pytest.mark.parametrize("by_option", [True, False])
def test_a_limit_that_is_refused_is_named_where_it_was_given(tmp_path, by_option):
    (tmp_path / "policy.yaml").write_text("limits:\n- {metric: cost, max: 1 EUR}\n", encoding="utf-8")
    wrong = InvalidArgument("EUR", violations=[Violation("policy.limits[0].max_money", "is in EUR")])
    policy = read_policies("policy.yaml")
    if by_option:
        policy = read_policies(None).with_flags(LimitFlags(max_hours=3))
    refused = check(tmp_path, Server(a=wrong), policy).plans[0].error
    assert refused is not None
    assert refused.message == (
        "--max-hours: is in EUR" if by_option else "policy.yaml has a limit that cannot be checked"
    )
    assert [each.location.file for each in refused.problems] == ([] if by_option else ["policy.yaml"])


def outcome(*entries: PlanEntry) -> tuple[str, str, str]:
    error = failure(make_report(entries, as_of="", revisions=Revisions(), policy=None))
    return (type(error).__name__, error.message, error.reason) if error is not None else ("", "", "")


def remedy_of(*entries: PlanEntry) -> str:
    error = failure(make_report(entries, as_of="", revisions=Revisions(), policy=None))
    assert error is not None
    return error.remedy


def test_the_outcome_names_files_and_limits(tmp_path):
    good, bad, unsure, broken = check(tmp_path, Server(good="PASS", bad="FAIL", unsure="UNDECIDED")).plans
    assert outcome(good) == ("", "", "")
    assert outcome(bad) == (GateFailed.__name__, "the plan does not meet cost", "CHECK_FAILED")
    assert outcome(unsure) == (GateFailed.__name__, "undecided: cost", "CHECK_UNDECIDED")
    assert outcome(good, bad, unsure)[1] == ("2 of 3 jobs do not pass: bad.yaml (cost); unsure.yaml (undecided: cost)")
    assert outcome(bad, broken) == (
        BadInput.__name__,
        "1 of 2 job files could not be checked: 1 problem in broken.yaml",
        "JOB_FILE_INVALID",
    )
    lenient = read_policies(None).with_flags(LimitFlags(fits=True), undecided_of("fail"))
    bad, unsure, _ = check(tmp_path, Server(bad="FAIL", unsure="WARN"), lenient).plans
    assert (bad.undecided, unsure.passed) == ("warn", True)
    mixed = replace(bad, checks=(*bad.checks, replace(bad.checks[0], rule_id="fit", verdict="UNDECIDED")))
    assert outcome(mixed)[1] == "the plan does not meet cost", "an undecided limit does not stop it"


def test_what_is_asked_has_the_day_the_base_and_the_overrides_of_the_policys_limits(tmp_path):
    asked: list[dict[str, Any]] = []

    class Recorder(Server):
        def check_plan(self, *args: Any, **parts: Any) -> check_plan_pb2.CheckPlanResponse:
            asked.append(parts)
            return super().check_plan(*args)

    (tmp_path / "a.yaml").write_text(JOB.format("a"), encoding="utf-8")
    overrides = [check_pb2.Override(rule_id=name, by="ada", reason="once") for name in ("fit", "cost")]
    before = estimate_pb2.EstimateRunRequest(runs_per_month=1)
    checks = Checks(
        Recorder(a="PASS"),  # type: ignore[arg-type]  # only check_plan is asked for
        read_policies(None).with_flags(LimitFlags(fits=True)).of,
        lambda job: estimate_pb2.EstimateRunRequest(spec=job.spec),
        as_of="2026-11-28",
        overrides=overrides,
        base_of={"a.yaml": before}.get,
    )
    plans, revisions = checks.run(read_jobs(["a.yaml"]))
    assert [(each["evaluation_date"], each["base_run"], list(each["overrides"])) for each in asked] == [
        ("2026-11-28", before, overrides[:1])
    ]
    report = make_report(plans, as_of="", revisions=revisions)
    require_known(report, [check_pb2.Override(rule_id="cost")])
    with pytest.raises(BadInput, match="there are cost"):
        require_known(report, overrides)


def test_each_refused_file_has_its_own_remedy(tmp_path):
    *_, broken = check(tmp_path, Server()).plans
    assert broken.error is not None
    files = [replace(broken, file=f"{name}.yaml") for name in "abc"]
    assert remedy_of(*files) == ""
    files = [replace(each, error=replace(each.error, remedy="call it otherwise")) for each in files]
    assert remedy_of(*files) == "call it otherwise", "what is the same for all stands there once"
    files[1] = replace(broken, file="b.yaml", error=replace(broken.error, remedy="read the docs"))
    assert remedy_of(*files) == "a.yaml, c.yaml: call it otherwise\n  b.yaml: read the docs"
    files[1] = replace(broken, file="b.yaml")
    assert remedy_of(*files) == "a.yaml, c.yaml: call it otherwise", "b.yaml has none"
