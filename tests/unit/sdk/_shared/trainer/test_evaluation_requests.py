# SPDX-License-Identifier: Apache-2.0
"""What a caller writes as subjects and settings of an evaluation, and what is sent."""

import pytest
from finetree import InvalidArgument, NotFound
from finetree._shared.trainer.evaluation_requests import evaluate_task, job_of, subject_of, weights_artifact
from finetree._shared.trainer_requests import job_template
from finetree_api.trainer.v1 import artifact_pb2, evaluation_pb2
from finetree_api.types.v1 import training_pb2, weights_pb2

ARTIFACT = "projects/p/jobs/j/artifacts/adapter"
CHECKPOINT = "projects/p/jobs/j/checkpoints/40"


@pytest.mark.parametrize(
    ("subject", "job"),
    [
        ("j", "projects/p/jobs/j"),
        ("projects/q/jobs/j", "projects/q/jobs/j"),
        ({"weights": "j", "label": "mine"}, "projects/p/jobs/j"),
        (ARTIFACT, ""),
        (CHECKPOINT, ""),
        ({"path": "my-adapter"}, ""),
        (weights_pb2.TrainedWeights(artifact=ARTIFACT), ""),
    ],
)
def test_a_text_without_an_artifact_is_a_job(subject, job):
    assert job_of("p", subject) == job


@pytest.mark.parametrize(
    ("subject", "source", "label"),
    [
        (ARTIFACT, {"artifact": ARTIFACT}, ""),
        (CHECKPOINT, {"checkpoint": CHECKPOINT}, ""),
        ("j", {"artifact": "found"}, ""),
        ({"weights": "j", "label": "mine"}, {"artifact": "found"}, "mine"),
        ({"weights": {"path": "my-adapter"}, "label": "theirs"}, {"path": "my-adapter"}, "theirs"),
        ({"path": "my-adapter"}, {"path": "my-adapter"}, ""),
        (weights_pb2.TrainedWeights(path="a"), {"path": "a"}, ""),
    ],
)
def test_a_subject_is_named_by_its_resource_its_folder_or_a_label(subject, source, label):
    found = subject_of(subject, "found" if source == {"artifact": "found"} else "")
    assert found == evaluation_pb2.EvaluationSubject(weights=weights_pb2.TrainedWeights(**source), label=label)


def test_of_a_job_s_artifacts_the_newest_weights_are_meant():
    report = artifact_pb2.Artifact(name="r", kind=artifact_pb2.ARTIFACT_KIND_REPORT, attempt=3)
    old = artifact_pb2.Artifact(name="old", kind=artifact_pb2.ARTIFACT_KIND_ADAPTER, attempt=1)
    new = artifact_pb2.Artifact(name="new", kind=artifact_pb2.ARTIFACT_KIND_ADAPTER, attempt=2)
    assert weights_artifact("j", [new, old, report]) == "new"
    with pytest.raises(NotFound, match="no trained weights") as refused:
        weights_artifact("j", [report])
    assert refused.value.reason == "ARTIFACT_NOT_FOUND"


def test_settings_are_written_as_words_and_what_is_left_out_stays_unset():
    task = evaluate_task(
        [subject_of(ARTIFACT)], "d", metrics=["f1", "exact_match"], decide_by="F1", examples=0, precision="bf16", seed=0
    )
    assert list(task.metrics) == [evaluation_pb2.EVALUATION_METRIC_F1, evaluation_pb2.EVALUATION_METRIC_EXACT_MATCH]
    assert task.decide_by == evaluation_pb2.EVALUATION_METRIC_F1
    assert task.precision == training_pb2.PRECISION_BF16
    assert (task.few_shot.examples, task.few_shot.HasField("examples"), task.HasField("seed")) == (0, True, True)
    assert not task.HasField("max_rows")
    assert job_template(task, display_name="check").evaluate == task
    plain = evaluate_task([subject_of(ARTIFACT)], {"path": "rows.jsonl"})
    assert (plain.dataset.path, plain.HasField("few_shot"), plain.HasField("model")) == ("rows.jsonl", False, False)
    with pytest.raises(InvalidArgument, match="metrics"):
        evaluate_task([subject_of(ARTIFACT)], "d", metrics=["bleu"])
    with pytest.raises(InvalidArgument, match="subjects"):
        evaluate_task([], "d")
