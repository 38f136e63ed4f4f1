# SPDX-License-Identifier: Apache-2.0
"""Exports are known by what their files hold."""

import json
from pathlib import Path
from typing import Any

import pytest
from finetree_cli.errors import BadInput
from finetree_cli.migrate.export import read_export

JOB = {"object": "fine_tuning.job", "id": "ftjob-1", "created_at": 5, "model": "gpt-4o-mini", "training_file": "file-1"}
ROW = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def write(path: Path, content: Any) -> Path:
    text = "".join(json.dumps(each) + "\n" for each in content) if path.suffix == ".jsonl" else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("job.json", JOB),
        ("jobs.json", {"object": "list", "data": [JOB]}),
        ("jobs.json", [JOB]),
        ("jobs.jsonl", [JOB]),
    ],
)
def test_jobs_are_read_in_every_shape(tmp_path, name, content):
    write(tmp_path / name, content)
    rows = write(tmp_path / "file-1.jsonl", [ROW])
    export = read_export(tmp_path)
    assert [(job.id, job.model) for job in export.jobs] == [("ftjob-1", "gpt-4o-mini")]
    assert export.file("file-1") == rows


def test_jobs_are_in_the_order_of_their_creation(tmp_path):
    write(tmp_path / "jobs.json", [{**JOB, "id": "new", "created_at": 9}, {**JOB, "id": "old", "created_at": 1}])
    assert [job.id for job in read_export(tmp_path).jobs] == ["old", "new"]


def test_settings_are_read_from_either_place(tmp_path):
    settings = {"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": 1.8}
    method = {"type": "supervised", "supervised": {"hyperparameters": settings}}
    write(tmp_path / "jobs.json", [{**JOB, "hyperparameters": settings}, {**JOB, "id": "other", "method": method}])
    for job in read_export(tmp_path).jobs:
        assert (job.n_epochs, job.batch_size, job.learning_rate_multiplier) == (3, None, 1.8)


def test_a_file_is_found_by_the_name_that_its_object_gives(tmp_path):
    listed = {"object": "file", "id": "file-1", "filename": "train.jsonl"}
    write(tmp_path / "jobs.json", [JOB, listed])
    rows = write(tmp_path / "train.jsonl", [ROW])
    assert read_export(tmp_path).file("file-1") == rows


def test_rows_alone_are_one_job(tmp_path):
    rows = write(tmp_path / "train.jsonl", [ROW])
    write(tmp_path / "other.jsonl", [ROW])
    export = read_export(rows)
    (job,) = export.jobs
    assert (job.model, export.file(job.training_file)) == ("", rows)


def test_answers_belong_to_the_job_whose_model_gave_them(tmp_path):
    jobs = [{**JOB, "id": name, "fine_tuned_model": f"ft:{name}"} for name in ("a", "b")]
    write(tmp_path / "jobs.json", jobs)
    completion = {"messages": ROW["messages"][:1], "choices": [{"message": {"content": "x"}}]}
    write(tmp_path / "answers.jsonl", [{**completion, "model": "ft:b"}, {**completion, "model": "gpt-4o"}, completion])
    export = read_export(tmp_path)
    assert [len(export.answers_of(job)) for job in export.jobs] == [0, 1]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "EXPORT_EMPTY"),
        ({"jobs.json": "{"}, "EXPORT_UNREADABLE"),
        ({"jobs.jsonl": "[1]\n"}, "EXPORT_UNREADABLE"),
        ({"jobs.json": '{"object": "fine_tuning.job", "id": "x"}'}, "EXPORT_UNREADABLE"),
        ({"file-1.jsonl": json.dumps(ROW)}, "EXPORT_EMPTY"),
    ],
)
def test_what_is_no_export_is_refused_by_name(tmp_path, files, reason):
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        read_export(tmp_path)
    assert caught.value.reason == reason
    assert str(tmp_path) in caught.value.message


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        read_export(tmp_path / "nothing")
