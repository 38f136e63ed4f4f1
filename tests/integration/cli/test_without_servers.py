# SPDX-License-Identifier: Apache-2.0
"""Where no server listens, what is installed answers, and its answer is the served one."""

import json
from typing import Any

import pytest
from finetree_cli import __main__ as entry

RECOMMENDED = ("recommend", "--model", "llama-3.1-8b", "--gpu", "rtx-4090", "--examples", "300")
ESTIMATED = ("estimate", "--model", "llama-3.1-8b", "--method", "qlora", "--gpu", "rtx-4090")


@pytest.fixture
def run(suite, monkeypatch, capsys, tmp_path):
    for name, address in suite.addresses.items():
        monkeypatch.setenv(f"FINETREE_{name.upper()}_ADDRESS", address)
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> tuple[int, Any, str]:
        code = entry.run([*words, "--json"])
        printed = capsys.readouterr()
        return code, json.loads(printed.out), printed.err

    return command


@pytest.mark.parametrize(
    ("service", "words"),
    [
        ("recommender", RECOMMENDED),
        ("recommender", ("methods",)),
        ("recommender", ("methods", "prefix", "--rule-pack", "evidence-1")),
        ("recommender", ("packs", "list")),
        ("estimator", ESTIMATED),
        ("estimator", ("gpus", "rtx-40")),
        ("estimator", ("models", "list", "--catalog")),
        ("estimator", ("prices", "list", "--gpu", "a100-80gb", "--term", "on-demand")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_the_installed_service_answers_as_the_server_does(run, monkeypatch, service, words):
    code, served, _ = run(*words)
    assert code == 0
    monkeypatch.delenv(f"FINETREE_{service.upper()}_ADDRESS")
    monkeypatch.setattr("finetree_cli.backends.discovery._listens", lambda _port: False)
    code, answer, said = run(*words)
    assert (code, answer) == (0, served)
    assert service in said


@pytest.mark.parametrize("words", [RECOMMENDED, ESTIMATED], ids=lambda words: words[0])
def test_local_uses_no_server(run, monkeypatch, words):
    served = run(*words)
    for service in ("RECOMMENDER", "ESTIMATOR"):
        monkeypatch.setenv(f"FINETREE_{service}_ADDRESS", "127.0.0.1:1")
    assert run(*words, "--local")[:2] == served[:2]


def test_a_hint_can_be_followed_where_nothing_listens(run, monkeypatch):
    """The refusal of a name says how to list names; that must not need a server that is not there."""
    monkeypatch.delenv("FINETREE_ESTIMATOR_ADDRESS")
    monkeypatch.setattr("finetree_cli.backends.discovery._listens", lambda _port: False)
    code, _, said = run("estimate", "--model", "llama-3.1-8b", "--method", "lora", "--gpu", "rtx-9999")
    assert code == 2
    assert "`finetree gpus`" in said
    code, listed, _ = run("gpus")
    assert code == 0
    assert "rtx-4090" in [gpu["name"] for gpu in listed["accelerators"]]


@pytest.mark.parametrize("words", [("estimate", "--method", "lora"), ("recommend",)], ids=lambda words: words[0])
def test_a_model_of_a_folder_is_read_without_a_server(run, monkeypatch, tmp_path, words):
    for service in ("RECOMMENDER", "ESTIMATOR"):
        monkeypatch.delenv(f"FINETREE_{service}_ADDRESS")
    config = {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}
    config |= {"num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True}
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    code, own, _ = run(*words, "--model", "./tuned", "--gpu", "rtx-4090")
    assert code == 0
    code, known, _ = run(*words, "--model", "qwen2.5-0.5b", "--gpu", "rtx-4090", "--local")
    assert code == 0
    part = "estimate" if words == ("recommend",) else "memory"
    assert own[part]["device_bytes"]["expected"] == known[part]["device_bytes"]["expected"] > 0
    code, refused, said = run(*words, "--model", "./tuned", "--gpu", "rtx-4090", "--address", "127.0.0.1:1")
    assert (code, refused["error"]["reason"]) == (2, "INVALID_REQUEST")
    assert "add --local" in said


def test_a_file_of_rows_is_recommended_for_and_trained_by_the_job_file_alone(run, tmp_path):
    rows = [json.dumps({"prompt": f"What is {n}?", "completion": "A number. " * (n % 40 + 1)}) for n in range(300)]
    (tmp_path / "train.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (tmp_path / "jobs").mkdir()
    asked = ("recommend", "--model", "llama-3.1-8b", "--gpu", "rtx-4090", "--data", "train.jsonl", "--local")
    code, answer, said = run(*asked, "--output", "jobs/job.yaml")
    assert code == 0, said
    assert "train.jsonl: 300 rows (jsonl)" in said
    assert answer["spec"]["dataset"] == {"path": "../train.jsonl"}
    # Not one of the cautions about rows of unknown number or length.
    assert not {"DATASET_UNKNOWN", "LENGTHS_UNKNOWN"} & {item["code"] for item in answer.get("cautions", [])}
    code, estimate, said = run("estimate", "jobs/job.yaml", "--local")
    assert code == 0, said
    assert estimate["time"]["total_seconds"] == answer["estimate"]["total_seconds"]
