# SPDX-License-Identifier: Apache-2.0
"""The reporter: order, durability, and what happens when the disk takes no more."""

import subprocess
import sys
import threading

import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.exchange.journal import FILE_NAME, read
from finetree_worker.events.journal import Journal
from finetree_worker.events.reporter import JournalReporter
from finetree_worker.events.slowdown import Slowdown
from finetree_worker.plan import Price


@pytest.fixture
def journal(tmp_path):
    opened = Journal(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def phases():
    return []


@pytest.fixture
def reporter(journal, phases):
    price = Price(3600.0, "EUR")
    return JournalReporter(journal, attempt=1, price=price, on_written=lambda: None, on_phase=phases.append)


def stored(folder):
    with (folder / FILE_NAME).open("rb") as stream:
        return [record.event for record in read(stream)]


def line(text):
    return event_pb2.LogLine(logger="test", text=text)


def test_events_keep_their_order_and_the_outcome_is_last(reporter, tmp_path):
    for number in range(2000):
        reporter.emit(line(str(number)))
    assert reporter.finish(worker_pb2.TaskOutcome(kind=worker_pb2.OUTCOME_KIND_SUCCEEDED))
    found = stored(tmp_path)
    assert [event.event.log_line.text for event in found[:-1]] == [str(n) for n in range(2000)]
    assert found[-1].outcome.kind == worker_pb2.OUTCOME_KIND_SUCCEEDED
    assert found[-1].worker_seq == 2001


def test_a_checkpoint_is_on_the_disk_when_emit_returns(reporter, tmp_path):
    reporter.emit(line("before"))
    reporter.emit(event_pb2.CheckpointSaved(step=5))
    assert [event.event.WhichOneof("payload") for event in stored(tmp_path)] == ["log_line", "checkpoint_saved"]
    reporter.finish(worker_pb2.TaskOutcome())


def test_many_threads_may_report(reporter, tmp_path):
    def report(name: str) -> None:
        for number in range(200):
            reporter.emit(line(f"{name}{number}"))

    threads = [threading.Thread(target=report, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reporter.finish(worker_pb2.TaskOutcome())
    texts = [event.event.log_line.text for event in stored(tmp_path)[:-1]]
    for name in "abcd":
        assert [text for text in texts if text[0] == name] == [f"{name}{n}" for n in range(200)]


def test_the_phase_is_passed_on(reporter, phases):
    reporter.emit(event_pb2.PhaseProgress(phase=job_pb2.JOB_PHASE_TOKENIZE))
    reporter.emit(event_pb2.PhaseProgress(phase=job_pb2.JOB_PHASE_TRAIN))
    reporter.finish(worker_pb2.TaskOutcome())
    assert phases == [job_pb2.JOB_PHASE_TOKENIZE, job_pb2.JOB_PHASE_TRAIN]


def test_a_forecast_follows_the_step_that_it_is_due_after(reporter, tmp_path):
    step = event_pb2.StepMetrics(step=1, total_steps=10)
    step.eta_seconds.expected = 9.0
    reporter.emit(step)
    reporter.finish(worker_pb2.TaskOutcome())
    first, second, _ = stored(tmp_path)
    assert (first.event.step_metrics, second.event.forecast.eta_seconds) == (step, step.eta_seconds)
    assert second.event.forecast.cost.amount.expected >= 9.0


def test_an_alert_of_slow_steps_has_the_forecast_made_anew(reporter, tmp_path):
    """In the middle of a tenth of the run, where no forecast is due."""
    for number in (20, 21, 22):
        step = event_pb2.StepMetrics(step=number, total_steps=100)
        step.eta_seconds.expected = 9.0 * number
        if number == 22:
            reporter.emit(Slowdown(2.0, "and 1 s before", ("memory is short",)).alert())
        reporter.emit(step)
    reporter.finish(worker_pb2.TaskOutcome())
    kinds = [each.event.WhichOneof("payload") or "" for each in stored(tmp_path)]
    assert kinds == ["step_metrics", "forecast", "step_metrics", "alert", "step_metrics", "forecast", ""]


def test_the_outcome_gets_the_summary_beside_what_it_says_itself(reporter, tmp_path):
    reporter.emit(event_pb2.StepMetrics(step=1, total_steps=1, loss=0.5))
    own = event_pb2.RunSummary(stopped_early=True, best_step=1)
    reporter.finish(worker_pb2.TaskOutcome(kind=worker_pb2.OUTCOME_KIND_SUCCEEDED, summary=own))
    summary = stored(tmp_path)[-1].outcome.summary
    assert (summary.stopped_early, summary.best_step, summary.steps, summary.final_loss) == (True, 1, 1, 0.5)


_FILL = """
import resource, sys
from pathlib import Path
from finetree_api.trainer.v1 import event_pb2
from finetree_worker.process import outcome
from finetree_worker.errors import StorageError
from finetree_worker.events.reporter import JournalReporter
from finetree_worker.events.slowdown import Slowdown
from finetree_worker.events.journal import Journal
journal = Journal(Path(sys.argv[1]))
reporter = JournalReporter(journal, attempt=1, on_written=lambda: None, on_phase=lambda phase: None)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    while True:
        reporter.emit(event_pb2.LogLine(logger="test", text="x" * 1000))
except StorageError as error:
    print(error.reason, reporter.finish(outcome.failed(error)))
"""


def test_a_full_disk_ends_the_task_and_leaves_a_readable_journal(tmp_path):
    command = [sys.executable, "-c", _FILL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    # The outcome is small: it may fit behind the events that did not.
    assert done.stdout.split()[0] == "DISK_FULL", done.stderr
    assert (done.stdout.split()[1] == "True") is stored(tmp_path)[-1].HasField("outcome")
    found = stored(tmp_path)
    assert len(found) > 100
    assert [event.worker_seq for event in found] == list(range(1, len(found) + 1))
