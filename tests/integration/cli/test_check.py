# SPDX-License-Identifier: Apache-2.0
"""`finetree check` as a pipeline runs it: exit codes, streams, no server, and the served answer to the byte."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from finetree import FinetreeError
from finetree_api.estimator.v1 import check_plan_pb2, estimate_pb2
from finetree_cli import __main__ as entry
from finetree_cli.backends.estimator import LocalEstimator
from google.type import money_pb2

JOB = """\
model:
  name: llama-3.1-8b
lora:
  rank: 16
dataset:
  profile: {examples: 5000, total_tokens: 2000000}
hardware:
  accelerator: a100-80gb
"""
SMALL = "model: {name: smollm2-135m-instruct}\nlora: {}\nhardware: {accelerator: rtx-4090}\n"
PROFILE = "dataset: {profile: {examples: 1000, total_tokens: 200000}}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("FINETREE_")]:
        monkeypatch.delenv(name)
    (tmp_path / "job.yaml").write_text(JOB, encoding="utf-8")
    (tmp_path / "small.yaml").write_text(SMALL + PROFILE, encoding="utf-8")
    return tmp_path


def finetree(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "finetree_cli", *words]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def here(capsys):
    """`here(*words)`: what `finetree` gives, in this process; the estimator's program is one of its own."""

    def run(*words: str) -> SimpleNamespace:
        code = entry.run(list(words))
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)

    return run


def test_a_plan_within_its_limits_is_0(folder):
    done = finetree("check", "small.yaml", "--max-cost", "50", "--max-hours", "8", "--gpu", "rtx-4090")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("PASS") == 4, "two limits, the job, the whole"
    assert "Plan: sha256:" in done.stdout


def test_a_plan_beyond_a_limit_is_3_and_says_which_by_how_much_and_what_would_pass(folder):
    done = finetree("check", "job.yaml", "--max-cost", "50", "--fits", "--gpu", "rtx-4080")
    assert done.returncode == 3
    assert re.search(r"^ +FAIL +fit ", done.stdout, re.MULTILINE)
    assert "\n  - " in done.stdout, "remedies"
    assert done.stderr.startswith("error: ")
    assert "the plan does not meet fit;" in done.stderr
    assert "[CHECK_FAILED]" in done.stderr


def test_every_run_gives_the_same_bytes(folder, monkeypatch):
    found = set()
    for seed, zone in (("0", "UTC"), ("1", "Asia/Tokyo")):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        monkeypatch.setenv("TZ", zone)
        found.add(finetree("check", "job.yaml", "--fits", "--gpu", "rtx-4080", "--json").stdout)
    (document,) = found
    patches = [patch for each in json.loads(document)["plans"][0]["remedies"] for patch in each["patches"]]
    assert any(isinstance(patch["value"], dict) for patch in patches), "an object whose keys could have any order"


def test_an_undecided_plan_is_3_unless_only_failures_are_to_fail(folder, here):
    document = json.loads(here("check", "small.yaml", "--max-hours", "1000", "--json").stdout)
    hours = document["plans"][0]["checks"][0]["measured"]["expected"] / 3600
    words = ("check", "small.yaml", "--max-hours", str(hours), "--json")
    strict, lenient = here(*words), here(*words, "--fail-on", "fail")
    assert (strict.returncode, lenient.returncode) == (3, 0)
    assert [json.loads(done.stdout)["verdict"] for done in (strict, lenient)] == ["UNDECIDED", "WARN"]
    assert [json.loads(done.stdout)["passed"] for done in (strict, lenient)] == [False, True]


@pytest.mark.parametrize(
    ("dataset", "advice"),
    [("", "give dataset.profile.examples (--examples N)"), ("dataset: {path: rows.jsonl}\n", "(--examples N)")],
)
def test_a_gate_without_a_number_does_not_pass_and_its_advice_decides_it(folder, here, dataset, advice):
    (folder / "unsized.yaml").write_text(SMALL + dataset, encoding="utf-8")
    (folder / "policy.yaml").write_text(
        "limits:\n- {metric: cost, max: 50 USD}\n- {metric: duration_seconds, max: 8h}\n", encoding="utf-8"
    )
    words = ("check", "unsized.yaml", "--policy", "policy.yaml", "--output", "github")
    done = here(*words)
    assert done.returncode == 3
    assert "undecided: cost, duration_seconds [CHECK_UNDECIDED]" in done.stderr
    assert advice in done.stderr
    assert "title=cost%3A UNDECIDED::" in done.stdout
    assert here(*words, "--examples", "100").returncode == 0
    (folder / "unsized.yaml").write_text(SMALL + "dataset: {profile: {examples: 100}}\n", encoding="utf-8")
    assert here(*words).returncode == 0


POLICY = """\
policies:
  research:
    files: ["research/*.yaml"]
    undecided: pass
    limits:
      - {metric: model_license, allowed: [apache-2.0, mit]}
      - {metric: duration_seconds, max: 1s, level: overridable}
      - {metric: cost, max: 0 USD}
    waivers:
      - {rule_id: cost, owner: ml-platform, reason: trial month, until: 2026-12-31}
  production:
    files: ["training/**/*.yaml"]
    limits: [{metric: method, denied: [lora]}]
"""


def test_a_folder_has_its_policy_with_waivers_to_their_day_and_overrides(folder, here):
    for name in ("research", "training", ".finetree"):
        (folder / name).mkdir()
    (folder / ".finetree" / "policy.yaml").write_text(POLICY, encoding="utf-8")
    for name in ("research/a.yaml", "training/b.yaml"):
        (folder / name).write_text(SMALL + PROFILE, encoding="utf-8")
    once = ("--override", "duration_seconds=release day", "--override-by", "ada", "--json")
    done = here("check", "research/a.yaml", "--as-of", "2026-12-31", *once)
    (entry,) = json.loads(done.stdout)["plans"]
    assert (done.returncode, entry["policy"], entry["verdict"], entry["passed"]) == (0, "research", "WAIVED", True)
    lawful, hours, cost = entry["checks"]
    assert (lawful["verdict"], lawful["measured_name"], lawful["allowed"]) == (
        "PASS",
        "apache-2.0",
        ["apache-2.0", "mit"],
    )
    assert (hours["override"], hours["level"]) == ({"by": "ada", "reason": "release day"}, "overridable")
    assert (cost["waiver"]["owner"], cost["level"]) == ("ml-platform", "hard")

    late = here("check", "research/a.yaml", "--as-of", "2027-01-01", *once)
    assert late.returncode == 3
    assert "expired after 2026-12-31" in late.stdout
    denied = here("check", "--as-of", "2026-12-31", *once)
    assert denied.returncode == 3
    assert "training/b.yaml (method)" in denied.stderr
    assert here("check", "small.yaml").returncode == 2
    wrong = here("check", "research/a.yaml", "--override", "hours=x", "--override-by", "ada")
    assert (wrong.returncode, "OVERRIDE_WITHOUT_LIMIT" in wrong.stderr) == (2, True)


def test_a_limit_of_lower_severity_never_stops_the_plan(folder, here):
    (folder / "policy.yaml").write_text(
        "limits:\n- {metric: fit}\n- {metric: cost, max: 0 USD, severity: warn}\n", encoding="utf-8"
    )
    done = here("check", "small.yaml", "--policy", "policy.yaml", "--json")
    assert (done.returncode, json.loads(done.stdout)["passed"]) == (0, True)
    assert json.loads(done.stdout)["verdict"] == "WARN"


@pytest.mark.parametrize(
    ("words", "reason", "fact"),
    [
        (["job.yaml"], "POLICY_EMPTY", "--max-cost"),
        (["job.yaml", "--max-hours", "soon"], "USAGE", "soon"),
        (["job.yaml", "--max-cost", "-1"], "INVALID_REQUEST", "--max-cost"),
        (["job.yaml", "--fits", "--tokens", "9" * 30], "USAGE", "whole number"),
        (["nowhere.yaml", "--fits"], "JOB_FILE_UNREADABLE", "nowhere.yaml"),
        (["job.yaml", "--fits", "--gpu", "rtx-9999"], "ACCELERATOR_NOT_FOUND", "did you mean"),
        (["broken.yaml", "--fits"], "JOB_FILE_INVALID", "broken.yaml:2:1"),
        (["exports", "--fits"], "JOB_FILES_NOT_FOUND", "none of the job files trains"),
        (["absurd.yaml", "--fits"], "INVALID_REQUEST", "absurd.yaml:2:8: lora.rank"),
        (["job.yaml", "--policy", "euro.yaml"], "CURRENCY_MISMATCH", "euro.yaml"),
        (["job.yaml", "--policy", "euro.yaml"], "CURRENCY_MISMATCH", "euro.yaml:2:18: limits[0].max"),
        (["job.yaml", "--price-per-kwh", "0.3 EUR", "--max-cost", "9"], "CURRENCY_MISMATCH", "--max-cost"),
        (["job.yaml", "--fits", "--price-book", "nowhere.csv"], "SETTING_INVALID", "price-book"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_bad_input_is_2_with_its_reason_and_place(folder, here, words, reason, fact):
    (folder / "broken.yaml").write_text("model: {name: a}\ncolor: red\n", encoding="utf-8")
    (folder / "exports").mkdir()
    (folder / "exports/finetree.yaml").write_text("export: {artifact: a}\n", encoding="utf-8")
    (folder / "absurd.yaml").write_text(SMALL.replace("lora: {}", "lora: {rank: 100000}"), encoding="utf-8")
    (folder / "euro.yaml").write_text("limits:\n- {metric: cost, max: 1 EUR}\n", encoding="utf-8")
    done = here("check", *words, "--output", "json")
    assert done.returncode == 2, done.stderr
    document = json.loads(done.stdout)
    assert (document.get("error") or document["plans"][0]["error"])["reason"] == reason
    assert fact in done.stderr
    assert "Traceback" not in done.stderr


def test_a_repository_is_checked_in_one_process_and_a_broken_job_hides_no_other(folder, here, monkeypatch):
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **more: started.append(words) or popen(*words, **more))
    (folder / ".finetree").mkdir()
    (folder / ".finetree/policy.yaml").write_text("limits:\n- {metric: fit}\n", encoding="utf-8")
    for number in range(40):
        text = SMALL.replace("rtx-4090", "t4" if number % 2 else "l4") + PROFILE.replace("1000", str(1000 + number))
        (folder / f"j{number:02}.finetree.yaml").write_text(text, encoding="utf-8")
    done = here("check", "--as-of", "2026-11-28", "--output", "text,json=plan.json")
    assert (done.returncode, len(started)) == (0, 1), done.stderr
    assert len(re.findall(r"^PASS +j\d\d", done.stdout, re.MULTILINE)) == 40
    written = (folder / "plan.json").read_bytes()
    plans = json.loads(written)["plans"]
    assert [plan["profile"]["examples"] for plan in plans] == list(range(1000, 1040))
    assert here("check", "--as-of", "2026-11-28", "--json").stdout.encode() == written
    (folder / "j07.finetree.yaml").write_text("color: red\n", encoding="utf-8")
    done = here("check", "--json")
    assert done.returncode == 2
    assert "1 of 40 job files could not be checked: 1 problem in j07.finetree.yaml" in done.stderr
    again = json.loads(done.stdout)["plans"]
    assert [plan["file"] for plan in again if plan["error"]] == ["j07.finetree.yaml"]
    assert again[8:] == plans[8:]


def test_a_lock_refuses_other_prices_and_an_upgrade_shows_their_effect(folder, here):
    head = "price_id,accelerator,provider,hourly_price,currency,date,source"
    (folder / "mine.csv").write_text(f"{head}\nmine,rtx-4090,me,2,USD,2026-11-01,contract\n", encoding="utf-8")
    first = here("lock", "small.yaml")
    assert first.returncode == 0, first.stderr
    lock = folder / ".finetree/lock.json"
    written = lock.read_bytes()
    assert {pack["id"] for pack in json.loads(written)["packs"]} == {"evidence-1", "playbook-1"}
    check = ("check", "small.yaml", "--fits", "--locked", "--json")
    assert here(*check).returncode == 0
    for words in ((*check, "--price-book", "mine.csv"), ("lock", "small.yaml", "--check", "--price-book", "mine.csv")):
        done = here(*words)
        assert done.returncode == 5
        assert "price_book prices-2026-07 → mine [LOCK_DRIFT]" in done.stderr
    assert lock.read_bytes() == written
    done = here("lock", "small.yaml", "--upgrade", "--price-book", "mine.csv", "--json")
    document = json.loads(done.stdout)
    assert [change["name"] for change in document["changes"]] == ["price_book"]
    (job,) = document["jobs"]
    assert job["before"]["cost"]["expected"] < job["after"]["cost"]["expected"]
    assert here(*check, "--price-book", "mine.csv").returncode == 0


def test_the_lock_of_a_repository_is_used_and_upgraded_from_a_folder_of_it(folder, here, monkeypatch):
    (folder / ".git").mkdir()
    (folder / ".finetree").mkdir()
    (folder / "sub").mkdir()
    (folder / "small.finetree.yaml").write_text(SMALL + PROFILE, encoding="utf-8")
    (folder / "sub/finetree.yaml").write_text(SMALL + PROFILE, encoding="utf-8")
    monkeypatch.chdir(folder / "sub")
    done = here("lock")
    assert done.returncode == 0, done.stderr
    assert "wrote ../.finetree/lock.json" in done.stdout
    written = (folder / ".finetree/lock.json").read_bytes()
    assert [job["file"] for job in json.loads(written)["jobs"]] == ["small.finetree.yaml", "sub/finetree.yaml"]
    assert here("lock", "--check").returncode == 0
    assert here("check", "--fits", "--locked").returncode == 0
    monkeypatch.chdir(folder)
    assert here("lock", "--upgrade").returncode == 0
    assert (folder / ".finetree/lock.json").read_bytes() == written


def test_github_gets_annotations_at_the_line_and_a_table(folder, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
    words = ("check", "job.yaml", "--max-cost", "0.001", "--output", "github")
    done = finetree(*words)
    assert done.returncode == 3
    assert "::error file=job.yaml,line=7,col=1,title=cost%3A FAIL::" in done.stdout
    assert "| `cost` | FAIL |" in (folder / "summary.md").read_text(encoding="utf-8")
    (folder / "job.yaml").write_text("model: {name: a}\ncolor: red\n", encoding="utf-8")
    done = finetree(*words)
    assert done.returncode == 2
    assert "::error file=job.yaml,line=2,col=1,title=JOB_FILE_INVALID::color: " in done.stdout


def test_data_beside_the_job_is_counted_and_stdin_is_a_job(folder):
    (folder / "train.jsonl").write_text('{"text": "a"}\n\n{"text": "b"}\n', encoding="utf-8")
    done = finetree("check", "-", "--max-hours", "9", "--json", stdin=SMALL + "dataset: {path: train.jsonl}\n")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["plans"][0]["profile"]["examples"] == 2
    assert "train.jsonl: 2 rows" in done.stderr


def test_a_module_of_the_folder_is_never_run_in_place_of_a_library(folder):
    (folder / "json.py").write_text("raise SystemExit('not ours')\n", encoding="utf-8")
    (folder / "finetree_estimator.py").write_text("raise SystemExit('not ours')\n", encoding="utf-8")
    script = Path(sys.executable).with_name("finetree")
    done = subprocess.run([script, "check", "small.yaml", "--fits"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_prices_of_ones_own(folder, here):
    head = "price_id,accelerator,provider,hourly_price,currency,date,source"
    (folder / "mine.csv").write_text(f"{head}\nmine,rtx-4090,me,100000,USD,2026-11-01,contract\n", encoding="utf-8")
    words = ("check", "small.yaml", "--max-cost", "10", "--json")
    assert here(*words).returncode == 0
    done = here(*words, "--price-book", "mine.csv")
    assert done.returncode == 3
    assert json.loads(done.stdout)["plans"][0]["price"]["id"] == "mine"
    priced = here("estimate", "small.yaml", "--examples", "50", "--price-book", "mine.csv", "--local", "--json")
    assert json.loads(priced.stdout)["cost"]["price_id"] == "mine"


def test_without_the_local_engine_the_refusal_says_what_to_install(folder, monkeypatch, capsys):
    monkeypatch.setattr("finetree_cli.backends.local_process.importlib.util.find_spec", lambda _: None)
    assert entry.run(["check", "small.yaml", "--fits"]) == 5
    said = capsys.readouterr().err
    assert "LOCAL_ENGINE_NOT_INSTALLED" in said
    assert "finetree-cli[local]" in said


def test_a_server_and_the_local_engine_give_the_same_bytes(suite, folder):
    from finetree import Client

    policy = check_plan_pb2.PlanPolicy(
        limits=[
            check_plan_pb2.PolicyLimit(
                metric=check_plan_pb2.POLICY_METRIC_COST,
                max_money=money_pb2.Money(currency_code="USD", nanos=10_000_000),
            ),
            check_plan_pb2.PolicyLimit(metric=check_plan_pb2.POLICY_METRIC_DURATION_SECONDS, max=600),
            check_plan_pb2.PolicyLimit(metric=check_plan_pb2.POLICY_METRIC_DEVICE_BYTES, max=8 << 30),
            check_plan_pb2.PolicyLimit(metric=check_plan_pb2.POLICY_METRIC_FIT),
        ]
    )
    with Client(estimator_address=suite.addresses["estimator"]) as client, LocalEstimator() as local:
        for name in ("smollm2-135m-instruct", "llama-3.2-3b", "llama-3.1-8b"):
            for accelerator in ("rtx-4090", "a100-80gb", "t4"):
                run = estimate_pb2.EstimateRunRequest(
                    spec={"model": {"name": name}, "qlora": {}, "hardware": {"accelerator": accelerator}},
                    dataset_profile={"examples": 1000, "total_tokens": 300_000},
                )
                served, own = client.check_plan(run, policy), local.check_plan(run, policy)
                assert served.SerializeToString(deterministic=True) == own.SerializeToString(deterministic=True)


def test_many_requests_are_sent_ahead_without_blocking_either_side(folder):
    policy = check_plan_pb2.PlanPolicy(limits=[{"metric": check_plan_pb2.POLICY_METRIC_FIT}])
    buckets = [{"upper_bound": 1000 + number, "count": number} for number in range(1, 257)]
    run = estimate_pb2.EstimateRunRequest(
        spec={"model": {"name": "smollm2-135m-instruct"}, "lora": {}, "hardware": {"accelerator": "rtx-4090"}},
        dataset_profile={"examples": sum(range(257)), "token_lengths": buckets},
    )
    requests = [check_plan_pb2.CheckPlanRequest(run=run, policy=policy) for _ in range(120)]
    requests[7].run.spec.hardware.accelerator = "rtx-9999"
    assert sum(request.ByteSize() for request in requests) > 1 << 17, "more than the pipes of both directions hold"
    with LocalEstimator() as local:
        answers = list(local.check_plans(requests))
    assert len(answers) == 120
    assert [number for number, answer in enumerate(answers) if isinstance(answer, FinetreeError)] == [7]


def test_an_address_that_is_given_is_asked(suite, folder, monkeypatch, capsys):
    monkeypatch.setenv("FINETREE_ESTIMATOR_ADDRESS", suite.addresses["estimator"])
    words = ["check", "small.yaml", "job.yaml", "small.yaml", "--fits", "--as-of", "2026-11-28", "--json"]
    assert entry.run(words) == 0
    served = capsys.readouterr().out
    assert entry.run([*words, "--local"]) == 0
    assert capsys.readouterr().out == served
    monkeypatch.setenv("FINETREE_ESTIMATOR_ADDRESS", "127.0.0.1:1")
    assert entry.run(words) == 5
    assert "SERVICE_UNREACHABLE" in capsys.readouterr().err


def test_a_thousand_lines_are_answered_without_a_server_as_a_server_does(suite, folder, monkeypatch, capsys):
    lines = []
    for number in range(1050):
        spec = {"model": {"name": "llama-3.2-1b"}, "lora": {"rank": 1 + number % 64}, "hardware": {"accelerator": "l4"}}
        lines.append(json.dumps({"spec": spec, "dataset_profile": {"examples": 100 + number}}))
    lines[500] = '{"spec": {"model": {"name": "nope"}, "lora": {}, "hardware": {"accelerator": "l4"}}}'
    lines[501] = (
        '{"spec": {"model": {"name": "llama-3.2-1b"}, "lora": {"rank": 9999}, "hardware": {"accelerator": "l4"}}}'
    )
    (folder / "requests.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert entry.run(["estimate", "--requests", "requests.jsonl", "--local"]) == 0
    own = capsys.readouterr().out
    monkeypatch.setenv("FINETREE_ESTIMATOR_ADDRESS", suite.addresses["estimator"])
    assert entry.run(["estimate", "--requests", "requests.jsonl"]) == 0
    served = capsys.readouterr().out
    assert [line for line, other in zip(own.splitlines(), served.splitlines(), strict=True) if line != other] == []
    answers = [json.loads(line) for line in own.splitlines()]
    assert len(answers) == 1050
    assert [answer["error"]["line"] for answer in answers if "error" in answer] == [501, 502]
    assert answers[501]["error"]["message"].startswith("spec.lora.rank")


@pytest.mark.parametrize("method", ["full", "lora", "qlora", "prefix", "adapter"])
def test_whatever_an_estimate_assumes_has_an_option_that_changes_it(folder, capsys, method):
    words = ["estimate", "--model", "llama-3.1-8b", "--method", method, "--gpu", "a100-80gb", "--examples", "500"]
    comparing = ("--compare", "--methods", method, "--gpus", "a100-80gb")
    for more in ((), comparing):
        assert entry.run([*words, "--devices", "2", "--local", *more]) == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Assumed: ")]
        assumed = line.removeprefix("Assumed: ").split(", ")
        assert len(assumed) > 10
        assert [each for each in assumed if not re.search(r" \(--[a-z-]+\)$", each)] == []


def test_one_run_is_estimated_and_compared_without_a_server(folder, capsys):
    assert entry.run(["estimate", "job.yaml", "--local", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total_parameters"] == 8_030_261_248
    words = ["estimate", "job.yaml", "--compare", "--local", "--gpus", "rtx-4090,a100-80gb", "--json"]
    assert entry.run(words) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == 10
    assert all("estimate" in row for row in rows)
