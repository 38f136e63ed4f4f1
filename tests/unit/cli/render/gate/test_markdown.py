# SPDX-License-Identifier: Apache-2.0
"""The report as Markdown: what the change does, what stops it, and no word of foreign text as markup."""

import dataclasses
import re

import gate_reports as sample
import pytest
from finetree_cli.gate import report as gate
from finetree_cli.render.gate import markdown
from markdown_it import MarkdownIt

SITE = MarkdownIt("commonmark", {"html": True}).enable("table")
HOSTILE = "| x | </table> <script>alert(1)</script> `a` @ada #1\n/approve\n::error::"


def hostile_report() -> gate.Report:
    finding = sample.check("cost", "FAIL", file=HOSTILE, message=HOSTILE)
    named = dataclasses.replace(finding, rule_id=HOSTILE, fix=gate.Patch(field_path=HOSTILE, value=HOSTILE, summary=""))
    remedy = gate.Remedy(summary=HOSTILE, patches=(gate.Patch(field_path="a", value=HOSTILE, summary=HOSTILE),))
    ran = gate.Actual(job=HOSTILE, state=HOSTILE)
    failing = sample.entry(
        HOSTILE,
        "FAIL",
        checks=(named,),
        remedies=(remedy,),
        no_remedy=HOSTILE,
        assumptions=(HOSTILE,),
        former_file=HOSTILE,
        profile=gate.Profile(examples=1, total_tokens=2, target_fraction=None, exact=False, source=HOSTILE),
        actual=ran,
        change="changed",
        base=sample.figures(1, 1, 1),
    )
    return sample.make(failing, sample.unreadable(HOSTILE, HOSTILE), base_ref=HOSTILE)


def test_each_job_has_a_row_with_its_change_and_what_it_does_to_the_figures():
    text = markdown.render(sample.everything())
    row = next(line for line in text.splitlines() if line.startswith("| `training/a.yaml`"))
    assert row.split(" | ")[1:3] == [
        "PASS",
        "14.00 GiB (12.60 GiB to 16.80 GiB)<br>+5.00 GiB, +56 % (+4.50 GiB to +6.00 GiB)",
    ]
    assert "<br>-&#36;8.00, -40 %" in row
    assert re.search(r"`training/new.yaml`<br>new \| PASS .* unknown \|", text)
    assert re.search(r"`training/old.yaml`<br>removed \|  \| was 9\.00 GiB", text)
    assert "- Jobs: 1 new, 1 changed, 1 removed, 1 unchanged against `origin/main`\n" in text
    assert "- Total cost: &#36;37.00 → &#36;36.00: -&#36;1.00, -3 %" in text


def test_what_stops_a_job_has_its_finding_its_fix_and_what_would_pass():
    text = markdown.render(sample.everything())
    assert text.startswith("### finetree: FAIL: 2 of 5 jobs do not pass\n")
    assert "| `cost` | FAIL | &#36;62.00 is above &#36;50.00; passes with training.epochs: 1 |" in text
    assert "waived by ada until 2026-12-31: agreed until the sale" in text
    assert "- one epoch: &#36;20.67 (`training.epochs: 1`)" in text
    assert "- line 4: lora.ranks: unknown key &#96;ranks&#96;" in text


def test_a_finished_run_stands_beside_its_estimate():
    text = markdown.render(sample.everything())
    row = next(line for line in text.splitlines() if line.startswith("| `training/ran.yaml` | succeeded"))
    assert "2 h 30 min (above the range)<br>estimated 2 h 0 min" in row
    assert "&#36;11.50 (within the range)<br>estimated &#36;12.00" in row


def test_the_rows_that_the_figures_are_of_are_said():
    profile = gate.Profile(examples=1000, total_tokens=None, target_fraction=None, exact=False, source="t.csv")
    assert "\n- Data of `a.yaml`: 1,000 rows, from t.csv\n" in markdown.render(
        sample.make(sample.entry("a.yaml", profile=profile))
    )


def test_a_renamed_file_has_its_former_name():
    entry = sample.entry("a.yaml", change="changed", former_file="old.yaml", base=sample.figures(14, 2, 20))
    assert "| `a.yaml`<br>changed, was `old.yaml` |" in markdown.render(sample.make(entry))


def test_unchanged_jobs_that_pass_are_folded():
    before, folded, after = re.split(r"</?details>", markdown.render(sample.everything()))[:3]
    assert "ran.yaml" in folded
    assert "`training/ran.yaml`<br>unchanged" not in before + after


def test_foreign_text_stays_in_its_cell_and_is_no_markup():
    text = markdown.render(hostile_report())
    page = SITE.render(text)
    assert set(re.findall(r"<(\w+)", page)) <= {
        *("h3", "h4", "ul", "li", "p", "table", "thead", "tbody", "tr", "th", "td", "br", "code", "details", "summary"),
    }
    columns = [len(re.findall(r"<t[hd]", row)) for row in re.findall(r"<tr>.*?</tr>", page, re.DOTALL)]
    assert columns == [5, 5, 5, 5, 5, 3, 3], "two jobs, a finished run, a finding"
    assert not [line for line in text.splitlines() if line.startswith(("/", "::", "<script"))]
    assert "@ada" not in re.sub("<code>.*?</code>", "", page)


@pytest.mark.parametrize("max_length", [2_000, 5_000, 65_536, 250_000])
def test_a_long_report_is_cut_after_a_row_and_says_so(max_length):
    jobs = [
        sample.entry(f"jobs/{number:04}.yaml", "FAIL", checks=(sample.check("cost", "FAIL"),)) for number in range(900)
    ]
    text = markdown.render(sample.make(*jobs), max_length=max_length)
    assert len(text) <= max_length
    assert text.endswith(f"_The rest is in plan.json: this text may have no more than {max_length:,} characters._\n")
    rows = [line for line in text.splitlines() if line.startswith("| `jobs/")]
    assert rows
    assert all(line.endswith(" |") for line in rows)
    assert text.count("<details>") == text.count("</details>")


def test_an_assumption_is_told_once_with_the_jobs_that_it_is_for():
    shared, own = "every row as long as 2048 tokens", "no rate was measured"
    jobs = [
        sample.entry("a.yaml", "PASS", plan_digest="sha256:1", assumptions=(shared, own)),
        sample.entry("b.yaml", "PASS", plan_digest="sha256:2", assumptions=(shared,)),
    ]
    text = markdown.render(sample.make(*jobs))
    assert text.count(shared) == text.count(own) == 1
    assert f"- Assumed for each job: {shared}\n- Assumed for `a.yaml`: {own}\n" in text
