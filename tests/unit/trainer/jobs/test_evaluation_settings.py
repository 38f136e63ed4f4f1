# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_api.types.v1 import run_spec_pb2, training_pb2
from finetree_runtime.errors import InvalidArgument
from finetree_runtime.runspec.resolve import resolve_spec
from finetree_trainer.jobs.evaluation_settings import require_evaluations

STOPPING = {"early_stopping_patience": 2, "every_steps": 5, "split_fraction": 0.1}


@pytest.mark.parametrize(
    ("evaluation", "path"),
    [
        ({"early_stopping_patience": 2, "split_fraction": 0.1}, "early_stopping_patience"),
        ({"early_stopping_patience": 2, "every_steps": 5}, "early_stopping_patience"),
        ({"early_stopping_min_delta": 0.1, "split_fraction": 0.1}, "early_stopping_min_delta"),
        ({"best_by": training_pb2.METRIC_LOSS, "split_fraction": 0.1, "every_steps": 5}, "best_by"),
        ({"best_by": training_pb2.METRIC_LOSS, "split_fraction": 0.1, "early_stopping_patience": 2}, "best_by"),
        (STOPPING | {"best_by": training_pb2.METRIC_EXACT_MATCH}, "best_by"),
        ({"samples": 3, "metrics": [training_pb2.METRIC_LOSS], "split_fraction": 0.1}, "samples"),
    ],
    ids=[
        *("no evaluations", "no held-out rows", "no patience", "nobody wants the best", "no step", "not measured"),
        "samples of no answers",
    ],
)
def test_what_could_never_act_is_refused(evaluation, path):
    spec = run_spec_pb2.RunSpec(evaluation=training_pb2.Evaluation(**evaluation))
    spec.lora.SetInParent()
    with pytest.raises(InvalidArgument) as refused:
        require_evaluations(resolve_spec(spec).spec)
    assert f"job.train.spec.evaluation.{path}" in str(refused.value)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"best_by": training_pb2.METRIC_TOKEN_ACCURACY},
        {"best_by": training_pb2.METRIC_EXACT_MATCH, "metrics": [training_pb2.METRIC_EXACT_MATCH]},
    ],
    ids=["loss", "token accuracy", "exact match"],
)
def test_early_stopping_with_evaluations_on_held_out_rows_is_taken(more):
    spec = run_spec_pb2.RunSpec(evaluation=training_pb2.Evaluation(**STOPPING, **more))
    spec.lora.SetInParent()
    require_evaluations(resolve_spec(spec).spec)


def test_samples_alone_are_asked_for_with_the_metric_that_they_are_answers_of():
    spec = run_spec_pb2.RunSpec(evaluation=training_pb2.Evaluation(samples=3, split_fraction=0.1))
    spec.lora.SetInParent()
    resolved = resolve_spec(spec).spec
    require_evaluations(resolved)
    assert list(resolved.evaluation.metrics) == [training_pb2.METRIC_LOSS, training_pb2.METRIC_EXACT_MATCH]
    assert resolved.evaluation.max_new_tokens == 64


@pytest.mark.parametrize(
    "evaluation",
    [{}, {"every_steps": 5}, {"split_fraction": 0.1}, {"metrics": [training_pb2.METRIC_LOSS], "split_fraction": 0.1}],
    ids=["nothing", "no held-out rows", "no step", "only at the end"],
)
def test_keeping_the_best_of_no_evaluations_is_refused(evaluation):
    asked = training_pb2.Checkpoints(keep_best=True)
    spec = run_spec_pb2.RunSpec(checkpoints=asked, evaluation=training_pb2.Evaluation(**evaluation))
    spec.lora.SetInParent()
    with pytest.raises(InvalidArgument) as refused:
        require_evaluations(resolve_spec(spec).spec)

    assert [(violation.field_path, violation.reason) for violation in refused.value.violations] == [
        ("job.train.spec.checkpoints.keep_best", "KEEP_BEST_WITHOUT_EVALUATION")
    ]


@pytest.mark.parametrize("held_out", [{"split_fraction": 0.1}, {"dataset": {"name": "held-out"}}])
def test_keeping_the_best_of_evaluations_on_held_out_rows_is_taken(held_out):
    evaluation = training_pb2.Evaluation(every_steps=5, **held_out)
    spec = run_spec_pb2.RunSpec(checkpoints=training_pb2.Checkpoints(keep_best=True), evaluation=evaluation)
    spec.lora.SetInParent()
    require_evaluations(resolve_spec(spec).spec)
