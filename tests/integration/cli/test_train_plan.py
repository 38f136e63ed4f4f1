# SPDX-License-Identifier: Apache-2.0
"""From a check to the run that it approved, with the real services and the real model: that plan, or a refusal."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
from finetree_cli import __main__ as entry
from finetree_cli.backends.suite import Suite
from finetree_cli.gate.report import plan_schema

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

JOB = """\
display_name: tiny
train:
  spec:
    model: {name: smollm2-135m-instruct}
    lora: {rank: 4}
    training: {epochs: 1, effective_batch_size: 4}
    dataset: {path: train.jsonl}
    hardware: {cpu: {}}
labels: {team: search}
"""
POLICY = "limits:\n- {metric: duration_seconds, max: 1s, level: overridable}\n"
ROWS = [{"prompt": f"What follows {n}?", "completion": f"{n + 1} does."} for n in range(4)]
PRICES = "price_id,accelerator,provider,hourly_price,currency,date,source\nmine,t4,me,2,USD,2026-11-01,contract\n"


@pytest.fixture
def finetree(smollm2, worker_flag, tmp_path, monkeypatch, capsys):
    """`finetree(*words)` in a folder with a job and its data, beside a suite that has the model."""
    shutil.copytree(smollm2, tmp_path / "suite" / "trainer" / "models" / smollm2.name)
    (tmp_path / "repository" / "training").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "repository")
    Path("training/job.finetree.yaml").write_text(JOB, encoding="utf-8")
    Path("training/train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS), encoding="utf-8")
    Path(".finetree").mkdir()
    Path(".finetree/policy.yaml").write_text(POLICY, encoding="utf-8")
    Path("mine.csv").write_text(PRICES, encoding="utf-8")

    def run(*words: str) -> SimpleNamespace:
        code = entry.run(list(words))
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    with Suite(tmp_path / "suite", extra={"trainer": ("--no-prewarm", worker_flag)}) as suite:
        for name, address in suite.addresses.items():
            monkeypatch.setenv(f"FINETREE_{name.upper()}_ADDRESS", address)
        yield run


def check(finetree, *words: str) -> None:
    """Check the job, whose policy allows it one second; a person lets that stand."""
    given = ("check", "--local", "--output", "json=plan.json", *words)
    assert finetree(*given).code == 3
    assert "PLAN_NOT_PASSED" in finetree("train", "--plan", "plan.json").err
    done = finetree(*given, "--override", "duration_seconds=release day", "--override-by", "ada@example.org")
    assert done.code == 0, done.err


def test_what_was_approved_is_what_runs(finetree):
    job = Path("training/job.finetree.yaml")
    train = ("train", "--plan", "plan.json", "--json")
    check(finetree, "--price-book", "mine.csv")
    other_prices = finetree(*train)
    check(finetree)
    job.write_text(JOB.replace("rank: 4", "rank: 8"), encoding="utf-8")
    other_rank = finetree(*train)
    job.write_text(JOB, encoding="utf-8")
    plan = json.loads(Path("plan.json").read_text(encoding="utf-8"))
    plan["plans"][0]["plan"]["spec"]["lora"]["rank"] = 64
    Path("forged.json").write_text(json.dumps(plan), encoding="utf-8")
    forged = finetree("train", "--plan", "forged.json")
    assert [each.code for each in (other_prices, other_rank, forged)] == [3, 3, 2]
    assert "price_book.id: approved mine, now prices-" in other_prices.err
    assert "job.finetree.yaml:5:12: lora.rank: approved 4, now 8" in other_rank.err
    assert "[PLAN_EDITED]" in forged.err
    assert json.loads(finetree("jobs", "list", "--json").out)["jobs"] == []

    done = finetree(*train)
    assert done.code == 0, done.err
    (name,) = [each["name"] for each in json.loads(finetree("jobs", "list", "--json").out)["jobs"]]
    found = json.loads(finetree("jobs", "show", name, "--json").out)
    approved = json.loads(Path("plan.json").read_text(encoding="utf-8"))["plans"][0]
    assert found["annotations"]["finetree/plan-digest"] == approved["plan_digest"]
    assert found["annotations"]["finetree/override.duration_seconds"] == "ada@example.org: release day"
    assert found["annotations"]["finetree/policy"].startswith(".finetree/policy.yaml (sha256:")
    assert found["labels"] == {"team": "search"}
    ran, meant = found["train"]["spec"], approved["plan"]["spec"]
    # The trainer names the data as a dataset of its own, and knows its processor.
    for spec in (ran, meant):
        spec.pop("dataset")
        spec["hardware"].pop("cpu")
    assert ran == meant

    report = finetree("jobs", "report", name, "--plan", "plan.json", "--output", "text,json=after.json")
    assert report.code == 0, report.err
    after = json.loads(Path("after.json").read_text(encoding="utf-8"))
    jsonschema.validate(after, plan_schema())
    assert after["plans"][0]["actual"]["job"] == name
    assert after["plans"][0]["actual"]["memory_bytes"] > 100e6
    assert after["plans"][0]["actual"]["duration_seconds"] > 0

    drawn = finetree("jobs", "metrics", name)
    assert drawn.code == 0, drawn.err
    assert "tokens_per_second" in drawn.out
    curves = json.loads(finetree("jobs", "metrics", name, "loss", "--json").out)
    (loss,) = curves["series"]
    assert [point["last_step"] for point in loss["points"]] == list(range(1, curves["last_step"] + 1))
    table = finetree("jobs", "metrics", name, "loss", "--csv").out.splitlines()
    assert table[0].startswith("metric,unit,first_step,last_step,value")
    assert len(table) == 1 + len(loss["points"])
    logged = finetree("jobs", "logs", name).out
    assert all(f"step {point['last_step']}/" in logged for point in loss["points"])
    assert "the task ended: succeeded" in logged.splitlines()[-1]
    assert str(Path.home()) not in logged
    assert finetree("jobs", "logs", name, "--tail", "2", "--follow").out.splitlines() == logged.splitlines()[-2:]
    (listed,) = json.loads(finetree("jobs", "logs", name, "--list", "--json").out)["logs"]
    assert listed["size_bytes"] == len(logged.encode())
    unknown = finetree("jobs", "metrics", name, "lose")
    assert unknown.code == 2
    assert "eval_loss" in unknown.err
