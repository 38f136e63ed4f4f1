# SPDX-License-Identifier: Apache-2.0
"""From the core's events to the contract's."""

from dataclasses import replace

import pytest
from finetree_api.trainer.v1 import artifact_pb2, event_pb2
from finetree_api.types.v1 import check_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_worker.events import types
from finetree_worker.events.convert import LogLine, Place, Published, SplitReport, Stamp, Translator, phase_of


@pytest.fixture
def translator():
    task = worker_pb2.Task(job="projects/p/jobs/j", attempt=2, hourly_cost=7.2)
    task.spec.ownership.owned.currency_code = "EUR"
    return Translator(task, Place("node-1", {"torch": "2.13"}))


def one(translator, event, elapsed=1.5):
    return next(translator.translate(event, Stamp(1_700_000_000_000_000_000, elapsed)))


def step(number, total=100, *, seconds=1.0, loss=1.0, grad_norm=0.5, device=None):
    remaining = (total - number) * seconds
    return types.StepMetrics(
        number,
        total,
        0.1,
        loss,
        1e-3,
        grad_norm,
        100,
        10,
        50.0,
        seconds,
        float(number),
        remaining,
        1000 + number,
        device,
    )


ONE_OF_EACH = [
    types.PhaseProgress(types.Phase.TRAIN, 0.5),
    types.DatasetReport("chat", 9, 8, 1, 0, 0, 1, (4,), 80, 20, 12, 64, ((32, 8),)),
    types.AttemptStarted(7, 100, 10, 1000, 2, "cpu", "bf16"),
    step(1),
    types.EvalMetrics(0, 2.0, 7.4, 0.25, 8, 2, 8, 1.0),
    types.Sample("2+2?", "4", None, "4"),
    types.CheckpointSaved(10, "step-10", 99, True, 0.1),
    types.CheckpointFailed(10, "DISK_FULL", "The disk is full."),
    types.BatchSizeChanged(3, 4096, 2048, 4, 2),
    types.Alert(types.Level.ERROR, "DIVERGED", "The loss is not finite."),
    SplitReport(types.DatasetReport("text", 2, 2, 0, 0, 0, 0, (), 20, 20, 12, 64, ((32, 2),)), "evaluation", "a b"),
    LogLine(types.Level.INFO, "torch", "one\ntwo"),
    types.PreflightReport(4, 900, 5_000_000, 7_000_000, fits=True),
    types.BestRestored(30, 20, 1.5, early=True),
    Published(artifact_pb2.Artifact(name="projects/p/jobs/j/artifacts/adapter", size_bytes=5)),
]


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=lambda event: type(event).__name__)
def test_type_kind_and_payload_agree(translator, event):
    made = one(translator, event)
    payload = made.WhichOneof("payload")
    assert made.type == f"finetree.job.{payload}"
    assert event_pb2.EventKind.Name(made.kind) == f"EVENT_KIND_{payload.upper()}"
    assert (made.attempt, made.elapsed.ToMilliseconds(), made.worker_time.seconds) == (2, 1500, 1_700_000_000)
    assert made.message
    assert "\n" not in made.message


def test_every_event_of_the_core_is_translated():
    covered = {type(event) for event in ONE_OF_EACH} | {types.ArtifactReady}
    assert set(types.Event.__args__) <= covered, "ArtifactReady becomes Published when its manifest is written"


def test_levels(translator):
    warnings = [ONE_OF_EACH[7], ONE_OF_EACH[8], step(1, loss=None), step(2, grad_norm=None)]
    assert {one(translator, event).level for event in warnings} == {event_pb2.EVENT_LEVEL_WARNING}
    assert one(translator, ONE_OF_EACH[9]).level == event_pb2.EVENT_LEVEL_ERROR
    assert one(translator, step(3)).level == event_pb2.EVENT_LEVEL_INFO


def test_what_is_not_finite_is_left_out_and_flagged(translator):
    metrics = one(translator, step(1, loss=None)).step_metrics
    assert metrics.non_finite
    assert not metrics.HasField("loss")
    assert metrics.grad_norm == 0.5


def test_a_gpus_numbers_are_carried(translator):
    metrics = one(translator, step(1, device=types.DeviceSample(87.0, 5_000, 250.0))).step_metrics
    assert (metrics.devices[0].utilization_percent, metrics.devices[0].power_watts) == (87.0, 250.0)
    assert metrics.devices[0].used_bytes == 5_000


def test_what_remains_is_an_interval_as_wide_as_the_steps_differ(translator):
    for number, seconds in enumerate([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0], start=1):
        metrics = one(translator, step(number, seconds=seconds)).step_metrics
        assert metrics.HasField("eta_seconds") is (number >= 3)
    last = metrics.eta_seconds
    assert (last.expected, last.low, last.high) == (178.0, 178.0, 356.0)


def test_what_remains_holds_evaluations_and_checkpoints_to_come():
    task = worker_pb2.Task(job="projects/p/jobs/j", attempt=1)
    task.spec.evaluation.every_steps, task.spec.checkpoints.every_steps = 30, 40
    translator = Translator(task, Place("node-1", {}))
    one(translator, types.DatasetReport("chat", 9, 8, 1, 0, 0, 0, (), 80, 20, 12, 64, ((32, 8),)))
    for number in range(1, 46):
        metrics = one(translator, step(number)).step_metrics
        if number == 30:
            one(translator, types.EvalMetrics(30, 2.0, 7.4, None, 0, 0, 1, 5.0))
        if number == 40:
            one(translator, types.CheckpointSaved(40, "step-40", 99, False, 3.0))
    # 55 steps of a second, evaluations at 60 and 90, a checkpoint at 80 and the artifact, a third of one.
    others = 2 * 5.0 + 3.0 + 1.0
    assert metrics.eta_seconds.expected == pytest.approx(55.0 + others)
    assert metrics.eta_seconds.low == pytest.approx(55.0 + others / 2)
    assert metrics.eta_seconds.high == pytest.approx(55.0 + others * 2)


def test_forecasts_come_once_a_tenth_with_the_cost(translator):
    forecasts = []
    for number in range(1, 101):
        made = list(translator.translate(step(number), Stamp(0, float(number))))
        forecasts += [event.forecast for event in made if event.HasField("forecast")]
    assert len(forecasts) == 10
    assert all(f.total_seconds.expected == pytest.approx(100.0) for f in forecasts)
    assert all(f.cost_amount.expected == pytest.approx(0.2) and f.currency_code == "EUR" for f in forecasts)


def test_the_summary_is_what_the_run_has_shown(translator):
    one(translator, types.PhaseProgress(types.Phase.TRAIN, 0.0), elapsed=2.0)
    one(translator, types.EvalMetrics(0, None, None, 0.1, 8, 1, 8, 1.0))
    for number in range(1, 13):
        one(translator, step(number, loss=float(number)))
    one(translator, types.EvalMetrics(12, None, None, 0.9, 8, 7, 8, 1.0))
    one(translator, types.PhaseProgress(types.Phase.TRAIN, 1.0), elapsed=9.0)
    summary = translator.record.summary(20.0)
    assert (summary.first_loss, summary.final_loss) == (1.0, 7.5)
    assert (summary.exact_match_before, summary.exact_match_after) == (0.1, 0.9)
    assert (summary.steps, summary.peak_memory_bytes, summary.median_step_seconds) == (12, 1012, 1.0)
    assert (dict(summary.phase_seconds), summary.total_seconds) == ({"train": 7.0}, 20.0)


def test_the_summary_says_that_training_ended_early_and_whose_weights_count(translator):
    assert not translator.record.summary(1.0).stopped_early
    alert = one(translator, types.BestRestored(30, 20, 0.75, early=True, metric="exact_match")).alert
    assert "step 20 counts, exact match 0.75" in alert.text
    assert (alert.code, "step 30" in alert.text, "step 20" in alert.text) == ("EARLY_STOPPED", True, True)
    summary = translator.record.summary(1.0)
    assert (summary.stopped_early, summary.best_step) == (True, 20)


def test_the_preflight_is_a_check_with_numbers_and_an_error_where_it_fails(translator):
    fits = one(translator, types.PreflightReport(4, 900, 5_000_000, 7_000_000, fits=True))
    report = fits.preflight_report
    assert (report.rows, report.tokens) == (4, 900)
    assert (report.peak_memory_bytes, report.free_memory_bytes) == (5_000_000, 7_000_000)
    assert report.checks[0].verdict == check_pb2.CHECK_VERDICT_PASS
    assert (report.checks[0].measured.expected, report.checks[0].limit) == (5_000_000, 12_000_000)
    fails = one(translator, types.PreflightReport(1, 900, 5_000_000, 7_000_000, fits=False))
    assert fails.level == event_pb2.EVENT_LEVEL_ERROR
    assert fails.preflight_report.checks[0].verdict == check_pb2.CHECK_VERDICT_FAIL


def test_an_evaluation_that_is_not_finite_is_flagged(translator):
    event = types.EvalMetrics(5, None, None, None, 0, 0, 3, 1.0, token_accuracy=0.25, non_finite=True)
    metrics = one(translator, event).eval_metrics
    assert (metrics.non_finite, metrics.HasField("loss"), metrics.token_accuracy) == (True, False, 0.25)


def test_a_run_without_a_step_has_no_losses(translator):
    summary = translator.record.summary(1.0)
    assert not summary.HasField("first_loss")
    assert not summary.HasField("exact_match_after")


def test_the_suggested_length_keeps_99_of_100_rows_whole(translator):
    histogram = ((32, 90), (64, 9), (128, 1))
    report = types.DatasetReport("chat", 100, 100, 0, 0, 0, 0, (), 3000, 900, 120, 512, histogram)
    assert one(translator, report).dataset_report.suggested_sequence_length == 64


def test_a_report_lists_at_most_100_rows(translator):
    report = types.DatasetReport("chat", 199, 9, 0, 0, 0, 190, tuple(range(1, 191)), 30, 9, 12, 64, ((32, 9),))
    group = one(translator, report).dataset_report.without_target
    assert (group.count, len(group.rows)) == (190, 100)


def test_an_event_says_that_nothing_was_tokenised(translator):
    fresh = types.DatasetReport("chat", 9, 9, 0, 0, 0, 0, (), 90, 30, 12, 64, ((32, 9),))
    kept = one(translator, replace(fresh, from_cache=True))
    assert (one(translator, fresh).dataset_report.tokens_from_cache, kept.dataset_report.tokens_from_cache) == (
        False,
        True,
    )
    assert kept.message.endswith("kept from an earlier task")


def test_an_attempt_says_where_and_why_it_starts(translator):
    started = one(translator, types.AttemptStarted(7, 100, 10, 1000, 2, "cpu", "bf16")).attempt_started
    assert (started.restored_step, started.reason, started.placement) == (7, "recovered", "node-1")
    assert started.environment["torch"] == "2.13"
    assert started.environment["threads"] == "2"


def test_every_phase_has_its_name_in_the_contract():
    assert len({phase_of(phase) for phase in types.Phase}) == len(types.Phase)
