# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN002, ANN003 - evaluations, and fields of messages
"""Which job is named the best, and what is said where none is."""

import pytest
from finetree_api.trainer.v1 import comparison_pb2, event_pb2, job_pb2
from finetree_trainer.jobs.compare import ranking
from finetree_trainer.jobs.compare.history import History, Wanted

ROWS, OTHERS = "a" * 64, "b" * 64


def evaluation(loss=1.5, **fields):
    given = {"step": 20, "loss": loss, "loss_standard_error": 0.01, "rows": 100, "rows_sha256": ROWS} | fields
    return event_pb2.EvalMetrics(**{name: value for name, value in given.items() if value is not None})


def asked(share, prompts=ROWS):
    return event_pb2.EvalMetrics(step=20, exact_match=share, examples=100, prompts_sha256=prompts)


def compare(*evaluations, states=()):
    """The best of jobs with one evaluation each, the codes of the remarks, and the metrics."""
    compared, courses = [], []
    for index, each in enumerate(evaluations):
        state = states[index] if index < len(states) else job_pb2.JOB_STATE_SUCCEEDED
        compared.append(job_pb2.Job(name=f"projects/p/jobs/{index}", state=state))
        course = History(Wanted(("loss",), comparison_pb2.CURVE_AXIS_STEP, points=10, last_steps=3))
        course.losses = [1.0, 1.2]
        course.evaluations = [] if each is None else [each]
        courses.append(course)
    metrics = ranking.metrics(compared, courses)
    best, remarks = ranking.best(compared, metrics)
    return best, [remark.code for remark in remarks], {each.message.metric: each.message for each in metrics}


@pytest.mark.parametrize(
    ("second", "code"),
    [
        (evaluation(1.3, rows_sha256=OTHERS), "EVALUATION_ROWS_DIFFER"),
        (evaluation(1.3, rows_sha256=""), "EVALUATION_ROWS_DIFFER"),
        (evaluation(1.49), "NOT_TOLD_APART"),
        (evaluation(1.5), "NOT_TOLD_APART"),
        (evaluation(1.3, loss_standard_error=None), "ERROR_UNKNOWN"),
        (None, "NO_COMMON_EVALUATION"),
    ],
    ids=["other rows", "rows unknown", "near", "equal", "no error", "none"],
)
def test_where_it_cannot_be_told_none_is_named_and_it_says_why(second, code):
    best, codes, metrics = compare(evaluation(1.5), second)
    assert (best, codes) == (None, [code])
    assert not any(metric.HasField("best") for metric in metrics.values())
    assert metrics["loss"].values[0].value == pytest.approx(1.1)


def test_a_job_that_has_failed_or_runs_is_not_ranked():
    failed, running = job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_RUNNING
    done = job_pb2.JOB_STATE_SUCCEEDED
    assert compare(evaluation(1.5), evaluation(1.3), states=(done, failed))[:2] == (None, ["TOO_FEW_SUCCEEDED"])
    best, _, _ = compare(evaluation(1.5), evaluation(1.0), evaluation(1.3), states=(done, running, done))
    assert best.job == 2


def test_more_jobs_need_a_larger_difference():
    """Chance finds a winner among many more easily than between two."""
    rest = [evaluation(1.5)] * 15
    assert compare(evaluation(1.469), evaluation(1.5))[0].job == 0
    assert compare(evaluation(1.469), *rest)[:2] == (None, ["NOT_TOLD_APART"])
    assert compare(evaluation(1.45), *rest)[0].job == 0


def test_exact_matches_are_compared_by_their_prompts():
    best, codes, metrics = compare(asked(0.5), asked(1.0))
    assert (best.job, best.metric, codes) == (1, "eval_exact_match", ["ONE_RUN_EACH"])
    all_right = metrics["eval_exact_match"].values[1]
    # By Wilson's score, with z = 1.96: n / (n + z * z).
    assert all_right.interval.low == pytest.approx(100 / (100 + 1.96**2), abs=1e-4)
    assert all_right.interval.high == 1
    assert compare(asked(0.5), asked(1.0, OTHERS))[:2] == (None, ["EVALUATION_ROWS_DIFFER"])


def test_another_metric_that_says_otherwise_is_told():
    first, second = evaluation(1.3, **fields_of(asked(0.2))), evaluation(1.5, **fields_of(asked(0.8)))
    best, codes, metrics = compare(first, second)
    assert (best.job, best.metric) == (0, "eval_loss")
    assert metrics["eval_exact_match"].best == 1
    assert codes == ["ONE_RUN_EACH", "METRICS_DISAGREE"]


def fields_of(message):
    return {field.name: value for field, value in message.ListFields() if field.name != "step"}
