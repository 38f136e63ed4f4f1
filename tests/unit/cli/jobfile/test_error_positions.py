# SPDX-License-Identifier: Apache-2.0
"""Refusals of a service, at their places in the job file."""

import finetree
import pytest
from finetree_cli.errors import BadInput
from finetree_cli.jobfile.error_positions import with_positions
from finetree_cli.jobfile.job import parse_job

TEXT = "model: {name: small}\nlora: {}\ndataset:\n  path: gone.jsonl\n"
FIELD = "job.train.spec.dataset.path"


def refused(error: finetree.FinetreeError, text: str = TEXT) -> Exception:
    with pytest.raises((BadInput, finetree.FinetreeError)) as caught, with_positions(parse_job(text, "job.yaml")):
        raise error
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        finetree.PermissionDenied("outside", reason="PATH_OUTSIDE_ROOTS", metadata={"field": FIELD}),
        finetree.NotFound(f"{FIELD}: there is no 'gone.jsonl' under the roots.", reason="DATASET_NOT_FOUND"),
    ],
)
def test_data_that_are_nowhere_are_no_such_file_and_not_a_matter_of_roots(error):
    found = refused(error)
    assert isinstance(found, BadInput)
    assert found.message.startswith("gone.jsonl: no such file here")
    assert found.reason == "DATA_FILE_UNREADABLE"
    assert str(found.problems[0]) == "job.yaml:4:3: dataset.path: no such file"
    assert "--data FILE" in found.remedy


def test_a_path_of_a_model_and_data_that_are_here_are_the_trainers_matter(tmp_path, monkeypatch):
    of_model = finetree.PermissionDenied(
        "outside", reason="PATH_OUTSIDE_ROOTS", metadata={"field": "job.train.spec.model.path"}
    )
    assert refused(of_model) is of_model
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone.jsonl").touch()
    of_data = finetree.PermissionDenied("outside", reason="PATH_OUTSIDE_ROOTS", metadata={"field": FIELD})
    assert refused(of_data) is of_data


def test_violations_have_line_and_column():
    violation = finetree.Violation("job.train.spec.lora.rank", "is too small")
    found = refused(finetree.InvalidArgument("refused", reason="INVALID_REQUEST", violations=(violation,)))
    assert isinstance(found, BadInput)
    assert str(found.problems[0]) == "job.yaml:2:1: lora.rank: is too small"
