# SPDX-License-Identifier: Apache-2.0
"""The report as text: all about one job, a line for each of many that need no attention."""

import gate_reports as sample
import pytest
from finetree_cli.gate.report import Patch, PlanEntry, Profile
from finetree_cli.render.gate import text, wording


def test_a_single_job_has_its_limits_figures_assumptions_and_digest():
    shown = text.render(sample.make(sample.FAILING))
    assert "  FAIL       cost              $62.00 is above $50.00\n" in shown
    assert "passes with training.epochs: 1\n" in shown
    assert "  - one epoch: $20.67\n      training.epochs: 1\n" in shown
    assert "  memory  14.00 GiB (12.60 GiB to 16.80 GiB)\n" in shown
    assert "  Assumed: rows are as long as the job allows\n" in shown
    assert shown.endswith(f"Verdict: FAIL\nPlan: sha256:{'0' * 64}\nComputed with: engine-9, prices-3\n")


def test_of_many_jobs_those_that_pass_have_a_line_and_what_stops_stands_last():
    shown = text.render(sample.everything()).splitlines()
    assert "PASS       training/new.yaml (new): memory 14.00 GiB, time 2 h 0 min, cost unknown" in shown
    assert "removed    training/old.yaml: memory 9.00 GiB, time 1 h 0 min, cost $5.00" in shown
    heads = [line.split()[1] for line in shown if line.startswith(("PASS", "FAIL"))]
    assert heads[-2:] == ["training/fail.yaml", "training/bad.yaml"]
    assert "Verdict: FAIL: 2 of 5 jobs do not pass" in shown


def test_a_change_stands_beside_each_figure_and_in_the_totals():
    shown = text.render(sample.everything())
    assert "  cost    $12.00 ($6.00 to $24.00)  -$8.00, -40 % (-$16.00 to -$4.00)\n" in shown
    assert "Jobs: 1 new, 1 changed, 1 removed, 1 unchanged, against origin/main\n" in shown
    assert "Total time: 6 h 0 min → 8 h 0 min: +2 h 0 min, +33 % (+1 h 48 min to +2 h 24 min)\n" in shown


def test_a_total_that_no_job_is_in_is_unknown_and_what_one_leaves_out_is_counted():
    known = sample.entry("a.yaml", change="changed", base=sample.figures(14, 2, 12))
    no_cost = sample.entry("b.yaml", change="new", cost=None)
    nothing = sample.entry("c.yaml", change="new", cost=None, duration_seconds=None)

    def shown(*entries: PlanEntry) -> list[str]:
        return [line for line in text.render(sample.make(*entries)).splitlines() if "otal" in line]

    assert shown(nothing) == ["Total time: unknown", "Total cost: unknown"]
    assert shown(no_cost) == [
        "Total time: 0.0 s → 2 h 0 min: +2 h 0 min (+1 h 48 min to +2 h 24 min)",
        shown(nothing)[1],
    ]
    assert shown(known, no_cost, nothing)[2:] == ["Not in the totals: 1 job of unknown time, 2 jobs of unknown cost"]
    assert shown(known, no_cost)[2:] == ["Not in the totals: 1 job of unknown cost"]


def test_a_finished_run_stands_beside_its_estimate():
    shown = text.render(sample.everything())
    assert "  ran: time    2 h 30 min (above the range), estimated 2 h 0 min (1 h 48 min to 2 h 24 min)\n" in shown


def test_foreign_text_cannot_begin_a_line():
    name = "a.yaml\n::set-output name=x::"
    message = "model b\n::error::c\r::warning::d"
    finding = sample.check("cost", "FAIL", file=name, message=message)
    failing = sample.entry(name, "FAIL", checks=(finding,), no_remedy=message, assumptions=(message,))
    for report in (sample.make(failing), sample.make(failing, sample.unreadable(name, message), base_ref=message)):
        assert not [line for line in text.render(report).splitlines() if line.lstrip().startswith("::")]


def test_without_limits_there_is_no_verdict_but_the_change():
    report = sample.make(
        sample.entry("a.yaml", change="unchanged", base=sample.figures(14, 2, 12)), sample.entry("b.yaml", change="new")
    )
    shown = text.render(report)
    assert "PASS" not in shown
    assert "Verdict" not in shown
    assert "new        b.yaml: memory 14.00 GiB, time 2 h 0 min, cost $12.00\n" in shown


@pytest.mark.parametrize(
    ("profile", "line"),
    [
        ((1, None, None, False, "options"), "  data    1 row, from the options\n"),
        ((5000, 2_000_000, None, True, "job"), "  data    5,000 rows, 2,000,000 tokens, from the job\n"),
        ((100, 2090, 0.14, False, "a\n::b.csv"), "  data    100 rows, about 2,090 tokens, 14% of them learned, from a"),
    ],
)
def test_the_rows_that_the_figures_are_of_are_said(profile, line):
    names = ("examples", "total_tokens", "target_fraction", "exact", "source")
    found = Profile(**dict(zip(names, profile, strict=True)))
    shown = text.render(sample.make(sample.entry(profile=found)))
    assert line in shown
    assert "\n::" not in shown


def test_a_renamed_file_has_its_former_name_and_a_change_of_less_than_a_percent_no_share():
    moved = {"change": "unchanged", "base": sample.figures(14, 2, 12), "former_file": "old.yaml"}
    changed = {"change": "changed", "base": sample.figures(14, 2, 12.03)}
    report = sample.make(sample.entry("a.yaml", **moved), sample.entry("b.yaml", **changed))
    shown = text.render(report)
    assert "unchanged  a.yaml (was old.yaml): memory" in shown
    assert "-$0.03 (-$0.06 to -$0.015)\n" in shown
    checked = sample.make(sample.entry("a.yaml", **moved, checks=(sample.check(),)), sample.FAILING)
    assert "PASS       a.yaml (unchanged, was old.yaml): memory" in text.render(checked)


def test_of_a_comparison_whose_files_cannot_be_read_those_are_counted_among_all():
    report = sample.make(sample.entry("a.yaml", change="new"), sample.unreadable("b.yaml"))
    assert text.render(report).splitlines()[-2] == "Verdict: FAIL: 1 of 2 jobs could not be read"


@pytest.mark.parametrize(
    ("field_path", "value", "line"),
    [
        ("optimizer", "OPTIMIZER_PAGED_ADAMW_8BIT", "optimizer: paged-adamw-8bit"),
        ("hardware.sharding", "SHARDING_FULL", "hardware.sharding: fsdp"),
        ("hardware.accelerator", "H100", 'hardware.accelerator: "H100"'),
        ("lora.target_modules", ["Q"], 'lora.target_modules: ["Q"]'),
        ("no.such.setting", "SHARDING_FULL", 'no.such.setting: "SHARDING_FULL"'),
        ("training.packing", "PACKING_ON", "training.packing: on"),
    ],
)
def test_a_change_is_written_as_a_job_file_has_it(field_path, value, line):
    assert wording.setting(Patch(field_path=field_path, value=value, summary="")) == line
