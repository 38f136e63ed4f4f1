# SPDX-License-Identifier: Apache-2.0
"""`finetree check`, `train --plan` and `jobs report` against the SDK's fake suite: one document from check to run."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from finetree import FailedPrecondition
from finetree.testing import Script, Suite
from finetree_cli import __main__ as entry

JOB = "model: {name: small}\nlora: {rank: 8}\nhardware: {accelerator: rtx-4090}\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Suite]:
    with Suite() as suite:
        yield suite


@pytest.fixture
def finetree(server, tmp_path, monkeypatch, capsys):
    """`finetree(*words)` in a folder with two job files and the plan of both."""
    monkeypatch.setenv("FINETREE_ADDRESS", server.address)
    monkeypatch.chdir(tmp_path)
    server.trainer.script = Script(steps=3)
    server.base_models.add("acme/small")
    Path("rows.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    data = "dataset: {path: rows.jsonl}\n"
    for name in ("a", "b"):
        job = JOB.replace("rank: 8", "rank: 8" if name == "a" else "rank: 4")
        Path(f"{name}.finetree.yaml").write_text(job + data, encoding="utf-8")

    def run(*words: str) -> SimpleNamespace:
        code = entry.run(list(words))
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return SimpleNamespace(code=code, out=out, err=err)

    done = run("check", "--fits", "--output", "json=plan.json")
    assert done.code == 0, done.err
    return run


def test_a_plan_of_several_is_named_by_its_job_file_and_its_run_is_reported(finetree):
    unnamed = finetree("train", "--plan", "plan.json")
    assert (unnamed.code, "a.finetree.yaml, b.finetree.yaml" in unnamed.err) == (2, True)
    created = finetree("train", "--plan", "plan.json", "b.finetree.yaml", "--detach", "--json")
    assert created.code == 0, created.err
    job = json.loads(created.out)
    plan = json.loads(Path("plan.json").read_text(encoding="utf-8"))["plans"][1]
    # What the trainer read of the uploaded rows is in the plan that it holds; all else is as it was approved.
    assert job["train"]["approved_plan"]["digest"] == job["plan_digest"]
    assert job["annotations"]["finetree/job-file"] == "b.finetree.yaml"
    assert "finetree/plan-digest: " + plan["plan_digest"] in finetree("jobs", "show", job["name"]).out
    assert finetree("jobs", "watch", job["name"]).code == 0
    reported = finetree("jobs", "report", job["name"], "--plan", "plan.json", "--json")
    actual = [each["actual"] for each in json.loads(reported.out)["plans"]]
    assert actual[0] is None
    assert (actual[1]["job"], actual[1]["state"]) == (job["name"], "succeeded")
    text = finetree("jobs", "report", job["name"], "--plan", "plan.json").out
    assert "b.finetree.yaml" in text
    assert "a.finetree.yaml" not in text


def test_a_model_that_is_not_there_is_prepared_for_an_approved_plan(finetree, server):
    server.faults.fail_next("ValidateJob", FailedPrecondition("fetch it first", reason="MODEL_NOT_PREPARED"))
    created = finetree("train", "--plan", "plan.json", "a.finetree.yaml", "--detach")
    assert created.code == 0, created.err
    assert "preparing the model" in created.err
    assert "finetree/job-file: a.finetree.yaml" in finetree("jobs", "show", created.out.split()[-1]).out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--plan", "gone.json"), 2, "PLAN_FILE_UNREADABLE"),
        (("--plan", "plan.json", "c.yaml"), 2, "PLAN_NOT_CHOSEN"),
        (("--plan", "plan.json", "a.finetree.yaml", "--data", "rows.jsonl"), 2, "leave --data and --eval-data out"),
        (("a.finetree.yaml", "--max-age", "7d"), 2, "--max-age needs --plan"),
        ((), 2, "name a job file"),
    ],
    ids=str,
)
def test_wrong_words_are_refused(finetree, words, code, said):
    done = finetree("train", *words)
    assert done.code == code
    assert said in done.err


def test_a_plan_that_did_not_pass_is_3(finetree):
    assert finetree("check", "a.finetree.yaml", "--max-memory-gib", "0.001", "--output", "json=bad.json").code == 3
    done = finetree("train", "--plan", "bad.json", "--json")
    assert done.code == 3
    assert json.loads(done.out)["error"]["reason"] == "PLAN_NOT_PASSED"
    assert "device_bytes" in done.err
