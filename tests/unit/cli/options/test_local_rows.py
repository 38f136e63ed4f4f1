# SPDX-License-Identifier: Apache-2.0
"""Profiles of a job file's local data."""

import importlib.util

import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_cli.errors import BadInput
from finetree_cli.jobfile.job import JobFile, parse_job
from finetree_cli.options import local_rows
from finetree_cli.options.local_rows import add_local_profiles
from finetree_cli.output import Output


@pytest.fixture
def job(tmp_path) -> JobFile:
    text = "model: {name: a}\ndataset: {path: train.csv}\nevaluation: {dataset: {path: held.jsonl}}\n"
    (tmp_path / "train.csv").write_text('prompt,completion\nWhy?,"Since\nit is"\nHow?,So\n', encoding="utf-8")
    (tmp_path / "held.jsonl").write_text('{"text": "one row"}\n', encoding="utf-8")
    return parse_job(text, str(tmp_path / "job.yaml"))


def test_each_file_has_its_profile_and_a_line(job, capsys):
    request = estimate_pb2.EstimateRunRequest()
    add_local_profiles(job, Output(), request)
    assert (request.dataset_profile.examples, request.evaluation_profile.examples) == (2, 1)
    assert request.dataset_profile.token_lengths
    lines = capsys.readouterr().err.splitlines()
    assert "train.csv: 2 rows (csv); about 26 tokens at 4 characters each" in lines[0]
    assert "held.jsonl: 1 rows (jsonl)" in lines[1]


def test_a_file_that_a_run_would_refuse_is_refused(job, tmp_path):
    (tmp_path / "train.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"train\.csv") as caught:
        add_local_profiles(job, Output(), estimate_pb2.EstimateRunRequest())
    assert caught.value.reason == "MALFORMED_ROW"


def test_without_the_reader_nothing_is_counted_and_it_is_said(job, monkeypatch, capsys):
    monkeypatch.setattr(local_rows.importlib.util, "find_spec", lambda _: None)
    request = estimate_pb2.EstimateRunRequest()
    add_local_profiles(job, Output(), request)
    assert request == estimate_pb2.EstimateRunRequest()
    assert "finetree-cli[local]" in capsys.readouterr().err
    assert importlib.util is local_rows.importlib.util
