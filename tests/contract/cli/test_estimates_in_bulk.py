# SPDX-License-Identifier: Apache-2.0
"""`estimate --requests`, `estimate --compare` and `prices list` against the fake suite."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import finetree
import pytest
from finetree.testing import Suite
from finetree_cli import __main__ as entry
from finetree_cli import bulk

GOOD = {"spec": {"model": {"name": "small"}, "lora": {"rank": 8}, "hardware": {"accelerator": "rtx-4090"}}}
UNKNOWN = {"spec": {"model": {"name": "nope"}, "lora": {}}}


@pytest.fixture(scope="module")
def server() -> Iterator[Suite]:
    with Suite() as suite:
        yield suite


@pytest.fixture
def run(server, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("FINETREE_ADDRESS", server.address)
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> tuple[int, str, str]:
        code = entry.run(list(words))
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return command


def write(*lines: object) -> str:
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    Path("requests.jsonl").write_text(text, encoding="utf-8")
    return "requests.jsonl"


def test_each_line_is_answered_in_its_place(run):
    name = write(GOOD, "{", "", UNKNOWN, {"spec": {"color": 1}}, "[]", GOOD)
    code, out, err = run("estimate", "--requests", name)
    answers = [json.loads(line) for line in out.splitlines()]

    assert code == 0
    assert answers[0] == answers[5]
    assert answers[0]["estimate"]["total_parameters"] > 1e8
    errors = [answer["error"] for answer in answers[1:5]]
    assert [error["line"] for error in errors] == [2, 4, 5, 6]
    assert [error["reason"] for error in errors] == ["INVALID_SPEC", "MODEL_NOT_FOUND", "INVALID_SPEC", "INVALID_SPEC"]
    assert [error["code"] for error in errors][1] == "NOT_FOUND"
    assert errors[2]["problems"][0]["field"] == "spec.color"
    assert "4 of 6 lines failed" in err


@pytest.mark.parametrize(
    ("line", "fact"),
    [
        ('{"spec": {"model": {"name": "small"}, "lora": {}, "lora": {"rank": 4}}}', "'lora'"),
        ("[" * 100_000, "nested"),
        ('{"spec": {"lora": {"dropout": Infinity}}}', "spec.lora.dropout"),
        ('{"spec": {"lora": {"rank": 1e300}}}', "spec.lora.rank"),
    ],
)
def test_a_malformed_line_is_refused_with_its_field(run, line, fact):
    code, out, _ = run("estimate", "--requests", write(line, GOOD))
    refused, answered = map(json.loads, out.splitlines())
    assert code == 0
    assert fact in refused["error"]["message"]
    assert "estimate" in answered


def test_strict_is_3_once_all_lines_are_answered(run):
    code, out, err = run("estimate", "--requests", write(UNKNOWN, GOOD), "--strict")
    assert (code, len(out.splitlines())) == (3, 2)
    assert "LINES_FAILED" in err
    assert run("estimate", "--requests", write(GOOD), "--strict")[0] == 0


def test_lines_go_out_in_chunks_of_a_hundred(run, server):
    before = len(server.faults.calls("BatchEstimateRuns"))
    code, out, _ = run("estimate", "--requests", write(*[GOOD] * 250))
    assert (code, len(out.splitlines())) == (0, 250)
    assert len(server.faults.calls("BatchEstimateRuns")) - before == 3


def test_a_line_that_is_too_long_is_refused_alone(run, monkeypatch):
    monkeypatch.setattr(bulk, "MAX_LINE_BYTES", 1000)
    code, out, _ = run("estimate", "--requests", write(GOOD, '{"x": "' + "y" * 5000 + '"}', GOOD))
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [next(iter(answer)) for answer in answers] == ["estimate", "error", "estimate"]
    assert answers[1]["error"]["line"] == 2


def test_requests_come_from_stdin_too(run, monkeypatch):
    content = io.TextIOWrapper(io.BytesIO(f"{json.dumps(GOOD)}\n{json.dumps(GOOD)}".encode()))
    monkeypatch.setattr(sys, "stdin", content)
    code, out, _ = run("estimate", "--requests", "-")
    assert (code, len(out.splitlines())) == (0, 2)


def test_a_service_that_goes_away_is_5_and_what_was_answered_stays(run, server):
    name = write(*[GOOD] * 150)
    server.faults.fail_next("BatchEstimateRuns", finetree.FailedPrecondition("no", reason="REVISION_UNAVAILABLE"))
    code, out, err = run("estimate", "--requests", name)
    assert (code, out) == (5, "")
    assert "REVISION_UNAVAILABLE" in err


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["--requests", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--requests", "-", "--compare"], "--compare"),
        (["job.yaml", "--requests", "-"], "job file"),
        (["--model", "small", "--method", "lora", "--cpu", "--chart", "a.svg"], "--compare"),
        (["--model", "small", "--method", "lora", "--gpus", "2"], "--devices N"),
        (["--model", "small", "--compare", "--cpu", "--chart", "a.gif"], ".svg"),
        (["--model", "small", "--compare", "--cpu", "--chart", "no/where.svg"], "no/where.svg"),
        (["--model", "small", "--compare", "--methods", "lora,magic"], "magic"),
        (["--compare"], "--model"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_bad_use_is_2(run, words, fact):
    code, _, err = run("estimate", *words)
    assert code == 2
    assert fact in err


def test_a_comparison_has_each_method_on_each_gpu(run):
    words = ("estimate", "--model", "small", "--compare", "--gpus", "rtx-4090,nope", "--examples", "10")
    code, out, _ = run(*words, "--json")
    rows = json.loads(out)["rows"]
    assert code == 0
    assert [(row["accelerator"], row["method"]) for row in rows] == [
        (accelerator, method)
        for accelerator in ("rtx-4090", "nope")
        for method in ("full", "lora", "qlora", "prefix", "adapter")
    ]
    assert all("estimate" in row for row in rows[:5])
    assert {row["error"]["reason"] for row in rows[5:]} == {"ACCELERATOR_NOT_FOUND"}
    code, out, _ = run(*words, "--methods", "lora")
    assert code == 0
    assert out.count("lora") == 2
    assert "ACCELERATOR_NOT_FOUND" in out
    assert out.count("'nope'") == 1  # the reason stands below the table, once
    code, _, err = run("estimate", "--model", "small", "--compare", "--gpus", "nope,nada", "--json")
    assert code == 2
    assert "'nope'" in err


def test_what_is_compared_differs_in_method_and_hardware_alone(run):
    job = (
        "model: {name: small}\nlora: {rank: 32}\ntraining: {packing: PACKING_ON, learning_rate: 1e-4}\n"
        "gradient_checkpointing: GRADIENT_CHECKPOINTING_FULL\nhardware: {accelerator: rtx-4090}\n"
    )
    Path("job.yaml").write_text(job, encoding="utf-8")
    _, out, _ = run("estimate", "job.yaml", "--compare", "--gpus", "rtx-4090", "--json")
    specs = {row["method"]: row["estimate"]["resolved_spec"] for row in json.loads(out)["rows"]}
    assert specs["lora"]["lora"] == specs["qlora"]["qlora"]["lora"]
    assert specs["lora"]["lora"]["rank"] == 32
    assert specs["lora"]["training"]["learning_rate"] == 1e-4
    assert specs["full"]["training"]["learning_rate"] == 2e-5
    assert specs["adapter"]["training"]["packing"] == "PACKING_ON"
    assert specs["prefix"]["training"]["packing"] == "PACKING_ON"
    assert specs["prefix"]["gradient_checkpointing"] == "GRADIENT_CHECKPOINTING_OFF"


@pytest.mark.parametrize(("name", "begins"), [("c.svg", b"<?xml"), ("c.PNG", b"\x89PNG")])
def test_a_comparison_is_drawn(run, name, begins):
    words = ("estimate", "--model", "small", "--compare", "--gpus", "rtx-4090", "--chart", name)
    assert run(*words)[0] == 0
    assert Path(name).read_bytes().startswith(begins)


def test_prices_are_listed(run):
    code, out, _ = run("prices", "list")
    assert code == 0
    assert out.count("fake/rtx-4090/") == 2
    code, out, _ = run("prices", "list", "--gpu", "rtx-4090", "--term", "on-demand", "--json")
    (price,) = json.loads(out)["prices"]
    assert price["hourly_price"] == {"currency_code": "USD", "nanos": 500_000_000}
    assert json.loads(run("prices", "list", "--provider", "nobody", "--json")[1]) == {"prices": []}


def test_a_check_against_a_server(run):
    Path("job.yaml").write_text("model: {name: small}\nlora: {}\nhardware: {accelerator: rtx-4090}\n", encoding="utf-8")
    assert run("check", "job.yaml", "--max-memory-gib", "20")[0] == 0
    code, out, _ = run("check", "job.yaml", "--max-memory-gib", "0.01", "--json")
    assert (code, json.loads(out)["passed"]) == (3, False)
