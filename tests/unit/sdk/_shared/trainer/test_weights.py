# SPDX-License-Identifier: Apache-2.0
"""Trained weights by a text: a word without a separator is a job, never a folder."""

import pytest
from finetree import InvalidArgument
from finetree._shared.trainer.weights import weights_of
from finetree_api.types.v1 import weights_pb2

JOB = "projects/team/jobs/nightly"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nightly", JOB),
        ("01a22288-98ad-747a-8a8d-568ffd9bc5bd", "projects/team/jobs/01a22288-98ad-747a-8a8d-568ffd9bc5bd"),
        ("projects/other/jobs/nightly", "projects/other/jobs/nightly"),
        ("nightly@200", weights_pb2.TrainedWeights(checkpoint=f"{JOB}/checkpoints/200")),
        ("nightly/artifacts/adapter", weights_pb2.TrainedWeights(artifact=f"{JOB}/artifacts/adapter")),
        ("./nightly", weights_pb2.TrainedWeights(path="./nightly")),
        ("..", weights_pb2.TrainedWeights(path="..")),
        ("adapters/theirs", weights_pb2.TrainedWeights(path="adapters/theirs")),
        ("adapters@2/theirs", weights_pb2.TrainedWeights(path="adapters@2/theirs")),
        ("/srv/models/theirs", weights_pb2.TrainedWeights(path="/srv/models/theirs")),
    ],
)
def test_a_word_is_a_job_and_a_text_with_a_separator_a_path(text, expected):
    assert weights_of("team", text, "weights") == expected


def test_a_step_is_a_number():
    with pytest.raises(InvalidArgument, match="JOB@STEP with a number"):
        weights_of("team", "nightly@last", "weights")
