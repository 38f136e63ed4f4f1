# SPDX-License-Identifier: Apache-2.0
"""Payloads as events: kind, level and one line for people."""

from typing import get_args

import pytest
from finetree_api.trainer.v1 import artifact_pb2, evaluation_pb2, event_pb2, export_pb2, job_pb2, serving_pb2
from finetree_api.types.v1 import check_pb2, evidence_pb2, training_data_pb2
from finetree_worker.events.envelope import Payload, Stamp, envelope, line_of

FITS = check_pb2.Check(verdict=check_pb2.CHECK_VERDICT_PASS, message="it fits")
FAILS = check_pb2.Check(verdict=check_pb2.CHECK_VERDICT_FAIL, message="it does not fit")
ARTIFACT = artifact_pb2.Artifact(name="projects/p/jobs/j/artifacts/adapter", size_bytes=5)
PAYLOADS = [
    (event_pb2.PhaseProgress(phase=job_pb2.JOB_PHASE_LOAD_MODEL, fraction=0.5), "INFO", "load model 50%"),
    (
        event_pb2.DatasetReport(
            split=training_data_pb2.SPLIT_EVALUATION,
            profile=training_data_pb2.DatasetProfile(examples=8, total_tokens=80),
            skipped=event_pb2.RowGroup(count=2),
            tokens_from_cache=True,
        ),
        "INFO",
        "evaluation: 8 rows, 80 tokens, 2 bad rows skipped, tokens from the cache",
    ),
    (event_pb2.PreflightReport(checks=[FITS]), "INFO", "it fits"),
    (event_pb2.PreflightReport(checks=[FAILS]), "ERROR", "it does not fit"),
    (event_pb2.AttemptStarted(restored_step=7), "INFO", "attempt started from step 7"),
    (
        event_pb2.StepMetrics(step=1, total_steps=9, loss=1.25, tokens_per_second=50),
        "INFO",
        "step 1/9 · loss 1.2500 · 50 tokens/s",
    ),
    (event_pb2.StepMetrics(step=1, non_finite=True), "WARNING", "step 1/0 · loss not finite · 0 tokens/s"),
    (
        event_pb2.EvalMetrics(step=3, loss=2.0, exact_match=0.25),
        "INFO",
        "evaluation at step 3 · loss 2 · exact match 0.25",
    ),
    (event_pb2.Sample(prompt="2+2?", after="4"), "INFO", "'2+2?': '4'"),
    (event_pb2.CheckpointSaved(step=10), "INFO", "checkpoint at step 10 saved"),
    (
        event_pb2.CheckpointFailed(step=10, reason="DISK_FULL"),
        "WARNING",
        "checkpoint at step 10 failed: DISK_FULL",
    ),
    (
        event_pb2.BatchSizeChanged(previous=4096, current=2048, previous_rows=4, current_rows=2),
        "WARNING",
        "memory ran out: micro-batch cut from 4096 to 2048 tokens and from 4 to 2 rows",
    ),
    (
        event_pb2.Forecast(eta_seconds=evidence_pb2.Interval(expected=200)),
        "INFO",
        "about 3 min 20 s remain",
    ),
    (event_pb2.ArtifactReady(artifact=ARTIFACT), "INFO", "adapter is ready, 5 bytes"),
    (event_pb2.LogLine(logger="torch", text="one\ntwo"), "DEBUG", "one"),
    (
        serving_pb2.ServingChanged(change=serving_pb2.SERVING_CHANGE_READY),
        "INFO",
        "ready to answer; targets: none",
    ),
    (event_pb2.Alert(code="DIVERGED", message="The loss is not finite."), "WARNING", "The loss is not finite."),
    (evaluation_pb2.EvaluationReport(headline="BETTER: mine: F1 0.9"), "INFO", "BETTER: mine: F1 0.9"),
    (
        export_pb2.ExportReport(
            format=artifact_pb2.EXPORT_FORMAT_GGUF,
            weight_type=artifact_pb2.WEIGHT_TYPE_Q8_0,
            prompts=8,
            comparisons=[
                export_pb2.LogitComparison(
                    model=export_pb2.COMPARED_MODEL_TRAINED, largest_difference=0.25, equal_answers=7
                )
            ],
        ),
        "INFO",
        "gguf in q8_0: 7 of 8 answers as before, logits differ by up to 0.25",
    ),
]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (serving_pb2.SERVING_CHANGE_LOADED, "new loaded; targets: old, new"),
        (serving_pb2.SERVING_CHANGE_UNLOADED, "new removed; targets: old, new"),
    ],
)
def test_a_change_of_targets_names_it_and_those_that_are_there(change, line):
    targets = [serving_pb2.LoadedTarget(name=name) for name in ("old", "new")]
    assert line_of(serving_pb2.ServingChanged(change=change, target="new", targets=targets)) == line


@pytest.mark.parametrize(("payload", "level", "line"), PAYLOADS, ids=[line for _, _, line in PAYLOADS])
def test_a_payload_has_its_kind_its_level_and_a_line(payload, level, line):
    event = envelope(payload, Stamp(1_700_000_000_000_000_000, 1.5), attempt=2)
    name = event.WhichOneof("payload")
    assert getattr(event, name) == payload
    assert event_pb2.EventKind.Name(event.kind) == f"EVENT_KIND_{name.upper()}"
    assert (event.attempt, event.elapsed.ToMilliseconds(), event.worker_time.seconds) == (2, 1500, 1_700_000_000)
    assert event_pb2.EventLevel.Name(event.level) == f"EVENT_LEVEL_{level}"
    assert event.message == line


def test_every_kind_of_payload_is_shown_above():
    assert {type(payload) for payload, _, _ in PAYLOADS} == set(get_args(Payload))


def test_a_message_and_a_level_that_are_given_are_taken():
    alert = event_pb2.Alert(code="BEST_RESTORED", message="a")
    event = envelope(alert, Stamp(0, 0.0), attempt=1, message="b", level=event_pb2.EVENT_LEVEL_INFO)
    assert (event.message, event.level) == ("b", event_pb2.EVENT_LEVEL_INFO)
