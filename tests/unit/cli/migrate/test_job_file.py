# SPDX-License-Identifier: Apache-2.0
"""Job files of OpenAI jobs: the job's settings over a recipe, and a base model by a stated rule."""

import csv
from pathlib import Path
from typing import Any

import pytest
from finetree_api.types.v1 import check_pb2, run_spec_pb2, training_pb2
from finetree_cli.jobfile.job import parse_job
from finetree_cli.migrate import base_model, job_file
from finetree_cli.migrate.export import OpenAIJob

CATALOG = Path(__file__).parents[4] / "services/estimator/finetree_estimator/catalog/data/models.csv"


def recipe():
    spec = run_spec_pb2.RunSpec()
    spec.model.name = "qwen3-8b"
    spec.dataset.path = "data/file-1.jsonl"
    spec.lora.rank = 8
    spec.training.epochs = 1
    spec.training.learning_rate = 2e-4
    spec.training.effective_batch_size = 16
    spec.training.micro_batch_size = 16
    return spec


def job(**fields: Any):
    return OpenAIJob(**{"id": "ftjob-1", "model": "gpt-4o-mini", "training_file": "file-1", **fields})


def test_the_jobs_own_settings_replace_the_recipes():
    spec = recipe()
    given = job(n_epochs=3, batch_size=2, seed=42, learning_rate_multiplier=2.0)
    assert job_file.settings_of(given, spec, multiplier=True) == []
    training = spec.training
    assert (training.epochs, training.effective_batch_size, training.micro_batch_size, training.seed) == (3, 2, 2, 42)
    assert training.learning_rate == pytest.approx(4e-4)


def test_what_is_not_taken_over_is_said():
    spec = recipe()
    notes = job_file.settings_of(job(seed=2**40, learning_rate_multiplier=1.8), spec, multiplier=False)
    assert len(notes) == 2
    assert "seed" in notes[0]
    assert "learning_rate_multiplier 1.8 is not taken over" in notes[1]
    assert spec == recipe()


def test_recorded_questions_are_asked_again():
    spec = recipe()
    job_file.add_evaluation(spec, job_file.Evaluation("data/r.jsonl", recorded=30, longest_answer=2_000), 20)
    evaluation = spec.evaluation
    assert (evaluation.samples, evaluation.max_new_tokens, evaluation.before_training) == (
        20,
        job_file.MOST_TOKENS,
        True,
    )
    assert training_pb2.METRIC_EXACT_MATCH in evaluation.metrics
    plain = recipe()
    job_file.add_evaluation(plain, job_file.Evaluation("data/v.jsonl"), 20)
    assert not plain.evaluation.metrics


def test_what_is_written_is_read_back_with_sources_and_labels():
    spec = recipe()
    given = job(suffix='codes: "x"', metadata={"team": "search", "no label!": "x"}, n_epochs=3)
    job_file.settings_of(given, spec, multiplier=False)
    said = [
        check_pb2.SettingSource(field_path="training.epochs", reason="small data"),
        check_pb2.SettingSource(field_path="lora.rank", reason="usual"),
    ]
    text = job_file.write_job(given, spec, job_file.sources_of(recipe(), spec, said), ["From\nOpenAI"])
    read = parse_job(text, "job.yaml")
    assert read.spec == spec
    assert (read.template.display_name, dict(read.template.labels)) == ('codes: "x"', {"team": "search"})
    assert read.template.annotations["openai.job"] == "ftjob-1"
    assert "# From OpenAI" in text.splitlines()[0]
    assert "# usual" in text
    assert "small data" not in text
    assert f"# {job_file.REQUEST}" in text
    assert job_file.unlabelled(given) == ["no label!"]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-4.1-nano-2025-04-14", "qwen3-4b"),
        ("gpt-4o-mini-2024-07-18", "qwen3-8b"),
        ("ft:gpt-4o-mini-2024-07-18:acme:codes:9x", "qwen3-8b"),
        ("gpt-3.5-turbo-0125", "qwen3-8b"),
        ("gpt-4o-2024-08-06", "qwen3-32b"),
        ("o4-mini-2025-04-16", "qwen3-8b"),
        ("babbage-002", "qwen2.5-1.5b"),
        ("davinci-002", "qwen2.5-7b"),
        ("", base_model.DEFAULT),
        ("someones-model", base_model.DEFAULT),
    ],
)
def test_the_tier_of_the_name_chooses_the_base_model(model, expected):
    chosen = base_model.choose(model)
    assert chosen.name == expected
    assert chosen.rule
    with CATALOG.open(encoding="utf-8") as file:
        assert expected in {row["name"] for row in csv.DictReader(file)}
