# SPDX-License-Identifier: Apache-2.0
"""A report that has everything a renderer may meet."""

from finetree_cli.gate import report as gate

GIB = float(1 << 30)


def component(name: str) -> gate.Component:
    return gate.Component(id=name, sha256="a" * 64, date="2026-11-01")


REVISIONS = gate.Revisions(engine=component("engine-9"), price_book=component("prices-3"))


def span(expected: float) -> gate.Range:
    return gate.Range(low=0.9 * expected, expected=expected, high=1.2 * expected)


def dollars(expected: float, currency: str = "USD") -> gate.Cost:
    return gate.Cost(low=0.5 * expected, expected=expected, high=2 * expected, currency_code=currency)


def figures(memory: float, hours: float, cost: float) -> gate.Figures:
    return gate.Figures(
        memory_bytes=span(memory * GIB), duration_seconds=span(hours * 3600), cost=dollars(cost), fit="FITS"
    )


def check(
    rule_id: str = "cost",
    verdict: gate.Verdict = "PASS",
    *,
    file: str = "training/a.yaml",
    message: str = "$12.00 of $50.00",
    severity: gate.Severity = "error",
    waiver: gate.Waiver | None = None,
    override: gate.Override | None = None,
    line: int = 3,
) -> gate.CheckResult:
    return gate.CheckResult(
        rule_id=rule_id,
        severity=severity,
        level="overridable",
        verdict=verdict,
        measured=span(12.0),
        limit=50.0,
        allowed=None,
        unit="money",
        currency_code="USD",
        base=None,
        location=gate.Location(file=file, line=line, column=1, field_path="hardware"),
        fix=None
        if verdict == "PASS"
        else gate.Patch(field_path="training.epochs", value=1, summary="one epoch instead of three"),
        message=message,
        waiver=waiver,
        override=override,
        fingerprint=gate.fingerprint(file, rule_id, "hardware"),
    )


def entry(file: str = "training/a.yaml", verdict: gate.Verdict = "PASS", **changes: object) -> gate.PlanEntry:
    given: dict[str, object] = {
        "passed": verdict not in ("FAIL", "UNDECIDED"),
        "plan_digest": "sha256:" + "0" * 64,
        "plan": {"spec": {"lora": {"rank": 8}}},
        "memory_bytes": span(14 * GIB),
        "duration_seconds": span(2 * 3600),
        "cost": dollars(12),
        "fit": "FITS",
        "assumptions": ("rows are as long as the job allows",),
        **changes,
    }
    return gate.PlanEntry(file=file, verdict=verdict, **given)  # type: ignore[arg-type]


def unreadable(
    file: str = "training/bad.yaml", message: str = "unknown key `ranks`", *, remedy: str = ""
) -> gate.PlanEntry:
    place = gate.Location(file=file, line=4, column=3, field_path="lora.ranks")
    error = gate.FileError(
        reason="JOB_FILE_INVALID",
        message=f"1 problem in {file}",
        line=4,
        remedy=remedy,
        problems=(gate.Problem(location=place, message=message),),
    )
    return gate.PlanEntry(file=file, verdict="FAIL", passed=False, error=error)


def make(*plans: gate.PlanEntry, base_ref: str | None = None) -> gate.Report:
    return gate.make_report(plans, as_of="2026-11-28", revisions=REVISIONS, base_ref=base_ref)


WAIVER = gate.Waiver(reason="agreed until the sale", owner="ada", until="2026-12-31")
FAILING = entry(
    "training/fail.yaml",
    "FAIL",
    checks=(
        check("cost", "FAIL", file="training/fail.yaml", message="$62.00 is above $50.00"),
        check("fit", "UNDECIDED", file="training/fail.yaml", message="24 GiB lie inside 22 to 26 GiB", line=5),
        check("duration_seconds", "WARN", file="training/fail.yaml", severity="warning", message="8 h, narrowly"),
        check("energy_kwh", "WAIVED", file="training/fail.yaml", message="9 kWh of 5 kWh", waiver=WAIVER),
        check("model", "PASS", file="training/fail.yaml"),
    ),
    remedies=(
        gate.Remedy(
            summary="one epoch: $20.67",
            patches=(gate.Patch(field_path="training.epochs", value=1, summary="one epoch"),),
        ),
    ),
)


def everything() -> gate.Report:
    """A failing job, a passing one, one that cannot be read, one without prices, one that ran, and four changes."""
    ran = gate.Actual(
        job="projects/default/jobs/7", state="succeeded", duration_seconds=9000.0, cost=11.5, currency_code="USD"
    )
    return make(
        FAILING,
        entry("training/a.yaml", checks=(check(),), change="changed", base=figures(9, 3, 20)),
        unreadable(),
        entry("training/new.yaml", checks=(check(),), change="new", cost=None),
        gate.PlanEntry(file="training/old.yaml", change="removed", verdict="PASS", passed=True, base=figures(9, 1, 5)),
        entry("training/ran.yaml", checks=(check(),), change="unchanged", base=figures(14, 2, 12), actual=ran),
        base_ref="origin/main",
    )
