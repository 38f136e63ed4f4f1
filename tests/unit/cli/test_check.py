# SPDX-License-Identifier: Apache-2.0
"""Limits from flags and files, and what a check looks like."""

import math

import click
import pytest
from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import evidence_pb2 as ev
from finetree_cli.errors import BadInput
from finetree_cli.jobfile import job as job_file
from finetree_cli.jobfile.policy import LimitFlags, policy
from finetree_cli.options.types import MOST, Amount, Duration, Names, Whole
from finetree_cli.output import Output
from finetree_cli.render.estimator import check as text
from finetree_cli.render.estimator import github

JOB = "model: {name: small}\nlora:\n  rank: 8\nhardware:\n  accelerator: rtx-4090\n"


@pytest.fixture
def policy_file(tmp_path):
    def write(content: str) -> str:
        path = tmp_path / "policy.yaml"
        path.write_text(content, encoding="utf-8")
        return str(path)

    return write


def answer(verdict: int = ev.CHECK_VERDICT_FAIL, help_text: str = "too much") -> pb.CheckPlanResponse:
    patch = ev.SpecPatch(field_path="training.micro_batch_size", json_value="1")
    check = ev.Check(rule_id="policy.max_cost", verdict=verdict, field_path="hardware", help=help_text, fix=patch)
    remedy = pb.Remedy(patches=[patch], summary="one row at a time: 9 GiB")
    revision = ev.Revision(engine=ev.RevisionComponent(id="engine-9"))
    estimate = pb.Estimate(plan_digest="sha256:ab", revision=revision, notes=["a note"])
    return pb.CheckPlanResponse(verdict=verdict, checks=[check], remedies=[remedy], estimate=estimate)


def test_flags_become_limits_in_the_contracts_units():
    flags = LimitFlags(
        max_cost_usd=50.0,
        max_monthly_cost_usd=200.0,
        max_hours=8.0,
        max_memory_gib=24.0,
        fits=True,
        max_energy_kwh=3.0,
        max_carbon_kg=1.5,
        min_confidence="medium",
    )
    assert policy(None, flags).message == pb.PlanPolicy(
        max_cost=50,
        currency_code="USD",
        max_monthly_cost=200,
        max_seconds=28800,
        max_device_bytes=24 << 30,
        must_fit=True,
        max_energy_kwh=3,
        max_carbon_kg=1.5,
        min_confidence=pb.CONFIDENCE_LEVEL_MEDIUM,
    )


def test_flags_win_over_the_file(policy_file):
    file = policy_file("max_cost: 10\nmax_seconds: 60\nmust_fit: true\n")
    found = policy(file, LimitFlags(max_cost_usd=5.0)).message
    assert (found.max_cost, found.max_seconds, found.must_fit) == (5, 60, True)


def test_a_limit_of_nothing_is_a_limit():
    assert policy(None, LimitFlags(max_carbon_kg=0.0)).message.HasField("max_carbon_kg")


@pytest.mark.parametrize(
    ("content", "flags", "reason", "told"),
    [
        (None, LimitFlags(), "POLICY_EMPTY", "--max-cost-usd"),
        ("currency_code: EUR\n", LimitFlags(), "POLICY_EMPTY", "--policy"),
        ("max_costs: 1\n", LimitFlags(), "POLICY_FILE_INVALID", "policy.yaml:1:1: max_costs: there is no such setting"),
        (
            "max_cost: [1]\n",
            LimitFlags(),
            "POLICY_FILE_INVALID",
            "policy.yaml:1:11: max_cost: expected a finite number",
        ),
        (
            "max_cost: 1\nmax_cost: 2\n",
            LimitFlags(),
            "POLICY_FILE_INVALID",
            "policy.yaml:2:1: max_cost: is given twice",
        ),
        ("max_cost: .nan\n", LimitFlags(), "POLICY_FILE_INVALID", "expected a finite number"),
        ("a: [\n", LimitFlags(), "POLICY_FILE_INVALID", "not YAML"),
        ("max_cost: 1\ncurrency_code: EUR\n", LimitFlags(max_cost_usd=1.0), "CURRENCY_UNKNOWN", "state all costs"),
    ],
)
def test_what_is_no_policy_is_refused_with_its_place(policy_file, content, flags, reason, told):
    with pytest.raises(BadInput) as caught:
        policy(None if content is None else policy_file(content), flags)
    error = caught.value
    assert error.reason == reason
    assert told in " ".join([error.message, error.remedy, *map(str, error.problems)])


@pytest.mark.parametrize(
    ("content", "flags", "line"),
    [
        ("must_fit: true\nmax_cost: 5\ncurrency_code: EUR\n", LimitFlags(), 3),
        ("must_fit: true\nmax_cost: 5\n", LimitFlags(), 2),  # in US dollars, without a word
        ("must_fit: true\n", LimitFlags(max_cost_usd=5.0), None),
        ("max_cost: 5\n", LimitFlags(max_cost_usd=6.0), None),
    ],
)
def test_a_currency_is_refused_where_it_is_stated(policy_file, content, flags, line):
    problem = policy(policy_file(content), flags).problem("policy.currency_code", "limits are in USD")
    assert (problem.place.line if problem is not None else None) == line


def test_a_file_without_an_end_is_no_policy():
    with pytest.raises(BadInput, match="this is no policy file") as caught:
        policy("/dev/zero", LimitFlags())
    assert caught.value.reason == "POLICY_FILE_INVALID"


def test_a_policy_file_that_is_not_there_is_named():
    with pytest.raises(BadInput) as caught:
        policy("/nowhere/policy.yaml", LimitFlags())
    assert (caught.value.reason, caught.value.remedy) == ("POLICY_FILE_UNREADABLE", "")


@pytest.mark.parametrize("word", ["-1", "nan", "inf", "many", "", "1_0", "\u0661", " 1", "1e400"])
def test_an_amount_is_a_finite_number_from_0_on(word):
    assert math.isclose(Amount().convert("1e3", None, None), 1000.0)
    assert math.copysign(1, Amount().convert("-0", None, None)) == 1
    with pytest.raises(click.BadParameter):
        Amount().convert(word, None, None)


def test_an_amount_is_at_most_what_it_may_be():
    assert math.isclose(Amount(10).convert("10", None, None), 10.0)
    with pytest.raises(click.BadParameter, match="from 0 to 10"):
        Amount(10).convert("10.5", None, None)


@pytest.mark.parametrize("word", ["0", "-1", "1.5", "nan", "many", "", "1_0", "\u0661", str(MOST + 1), "9" * 40])
def test_a_whole_number_is_one_that_the_contract_can_hold(word):
    assert Whole(1).convert(str(MOST), None, None) == MOST
    with pytest.raises(click.BadParameter, match="no whole number from 1 to"):
        Whole(1).convert(word, None, None)


@pytest.mark.parametrize("word", ["0h", "-1h", "soon", "9" * 30 + "h"])
def test_a_duration_is_above_0_and_shorter_than_a_century(word):
    assert math.isclose(Duration().convert("1.5h", None, None), 5400.0)
    with pytest.raises(click.BadParameter):
        Duration().convert(word, None, None)


def test_names_are_listed_once_and_known():
    assert Names(("a", "b")).convert("b, a,b", None, None) == ("b", "a")
    for word in ("a,c", ",", ""):
        with pytest.raises(click.BadParameter):
            Names(("a", "b")).convert(word, None, None)


def test_the_text_says_what_failed_what_would_pass_and_what_it_rests_on(capsys):
    text.show(Output(), answer())
    out = capsys.readouterr().out
    for part in ("FAIL", "policy.max_cost", "too much", "training.micro_batch_size: 1", "9 GiB", "a note", "engine-9"):
        assert part in out
    assert "Plan: sha256:ab" in out


def test_where_nothing_would_pass_text_and_summary_say_why(monkeypatch, tmp_path, capsys):
    found = answer()
    found.ClearField("remedies")
    found.no_remedy = "none of 3 changes that were tried: policy.max_cost may still take 5 USD"
    text.show(Output(), found)
    assert "What would pass: none of 3 changes" in capsys.readouterr().out
    monkeypatch.setenv(github.SUMMARY, str(tmp_path / "summary.md"))
    github.show(Output(), found, job_file.parse(JOB, "job.yaml"), failed=True)
    assert "What would pass: none of 3 changes" in (tmp_path / "summary.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("verdict", "failed", "kind"),
    [
        (ev.CHECK_VERDICT_FAIL, True, "::error "),
        (ev.CHECK_VERDICT_UNDECIDED, False, "::warning "),
        (ev.CHECK_VERDICT_UNDECIDED, True, "::error "),
        (ev.CHECK_VERDICT_PASS, False, ""),
    ],
)
def test_an_annotation_stands_at_the_setting_that_it_is_about(capsys, verdict, failed, kind):
    job = job_file.parse(JOB, "a,b.yaml")
    github.show(Output(), answer(verdict), job, failed=failed)
    out = capsys.readouterr().out
    assert out.startswith(kind) if kind else out == ""
    assert not kind or "file=a%2Cb.yaml,line=4,col=1,title=policy.max_cost%3A " in out


def test_an_annotation_is_one_line_whatever_the_text(capsys):
    job = job_file.parse(JOB, "job.yaml")
    github.show(Output(), answer(help_text="50 %\n::warning::forged"), job, failed=True)
    (line,) = capsys.readouterr().out.splitlines()
    assert "50 %25%0A::warning::forged" in line


def test_the_summary_is_appended_and_is_no_markup(monkeypatch, tmp_path, capsys):
    file = tmp_path / "summary.md"
    file.write_text("before\n", encoding="utf-8")
    monkeypatch.setenv(github.SUMMARY, str(file))
    github.show(Output(), answer(help_text="a | b <img>\nnext"), job_file.parse(JOB, "job.yaml"), failed=True)
    content = file.read_text(encoding="utf-8")
    assert content.startswith("before\n### finetree check: FAIL")
    assert "| `policy.max_cost` | FAIL | a \\| b &lt;img> next |" in content
    assert "sha256:ab" in content
    monkeypatch.setenv(github.SUMMARY, str(tmp_path / "no" / "folder"))
    github.show(Output(), answer(), job_file.parse(JOB, "job.yaml"), failed=True)
    assert "summary cannot be written" in capsys.readouterr().err


def test_a_job_from_stdin_has_no_file_to_annotate(capsys):
    github.show(Output(), answer(), job_file.parse(JOB, github.STDIN), failed=True)
    assert capsys.readouterr().out.startswith("::error title=")
