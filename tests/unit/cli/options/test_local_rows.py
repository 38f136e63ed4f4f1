# SPDX-License-Identifier: Apache-2.0
"""Profiles of a job file's local data."""

import importlib.util

import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.types.v1 import training_data_pb2
from finetree_cli.errors import BadInput
from finetree_cli.jobfile.job import JobFile, parse_job
from finetree_cli.options import local_rows
from finetree_cli.options.local_rows import add_local_profiles, require_file, with_local_file
from finetree_cli.options.spec import Data
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
    assert "train.csv: 2 rows (csv); about 68 tokens (12 to 100) at 4 bytes each and a chat template's" in lines[0]
    assert "held.jsonl: 1 rows (jsonl); about 3 tokens (2 to 5) at 4 bytes each, 100% of them learned" in lines[1]


def test_a_file_that_is_not_here_is_said(job, tmp_path, capsys):
    (tmp_path / "train.csv").unlink()
    request = estimate_pb2.EstimateRunRequest()
    add_local_profiles(job, Output(), request)
    assert not request.HasField("dataset_profile")
    assert f"{tmp_path / 'train.csv'}: no such file here, so its rows are not counted" in capsys.readouterr().err


def test_a_file_that_a_run_would_refuse_is_refused(job, tmp_path):
    (tmp_path / "train.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"train\.csv") as caught:
        add_local_profiles(job, Output(), estimate_pb2.EstimateRunRequest())
    assert caught.value.reason == "MALFORMED_ROW"


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("gone.jsonl", "DATA_FILE_UNREADABLE", "no such file"),
        ("folder", "DATA_FILE_UNREADABLE", "is a directory"),
        ("empty.jsonl", "EMPTY_DATASET", "the file is empty"),
    ],
)
def test_a_path_that_is_no_file_of_rows_says_what_it_is(tmp_path, name, reason, words):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.jsonl").touch()
    for read in (
        require_file,
        lambda path: with_local_file(Data(), path, Output(), beside=tmp_path),
    ):
        with pytest.raises(BadInput, match=words) as caught:
            read(tmp_path / name)
        assert caught.value.reason == reason
        assert caught.value.remedy


def test_without_the_reader_nothing_is_counted_and_it_is_said(job, monkeypatch, capsys):
    monkeypatch.setattr(local_rows.importlib.util, "find_spec", lambda _: None)
    request = estimate_pb2.EstimateRunRequest()
    add_local_profiles(job, Output(), request)
    assert request == estimate_pb2.EstimateRunRequest()
    assert "finetree-cli[local]" in capsys.readouterr().err
    assert importlib.util is local_rows.importlib.util


def test_a_file_gives_the_data_of_a_request_and_its_path_from_the_job_file(job, tmp_path, capsys):
    found = with_local_file(Data(), tmp_path / "train.csv", Output(), beside=tmp_path / "jobs")
    assert (found.dataset.path, found.profile.examples) == ("../train.csv", 2)
    assert found.profile.token_lengths
    assert "train.csv: 2 rows (csv)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "known",
    [
        Data(dataset=training_data_pb2.DatasetSource(name="a")),
        Data(profile=training_data_pb2.DatasetProfile(examples=3)),
    ],
    ids=["dataset", "examples"],
)
def test_a_file_excludes_other_data(job, tmp_path, known):
    with pytest.raises(BadInput, match="--data excludes"):
        with_local_file(known, tmp_path / "train.csv", Output(), beside=tmp_path)


def test_a_file_that_cannot_be_read_here_is_refused_with_what_to_install(job, tmp_path, monkeypatch):
    monkeypatch.setattr(local_rows.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BadInput) as caught:
        with_local_file(Data(), tmp_path / "train.csv", Output(), beside=tmp_path)
    assert "finetree-cli[local]" in caught.value.remedy
