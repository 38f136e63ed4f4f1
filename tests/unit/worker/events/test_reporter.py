# SPDX-License-Identifier: Apache-2.0
"""The reporter: order, durability, and what happens when the disk takes no more."""

import subprocess
import sys
import threading

import pytest
from finetree_api.trainer.v1 import job_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.journal import FILE_NAME, read
from finetree_worker.events import types
from finetree_worker.events.convert import LogLine, Place, Translator
from finetree_worker.events.journal import Journal
from finetree_worker.events.reporter import Reporter


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
    translator = Translator(worker_pb2.Task(job="projects/p/jobs/j", attempt=1), Place("here", {}))
    return Reporter(journal, translator, on_written=lambda: None, on_phase=phases.append)


def stored(folder):
    with (folder / FILE_NAME).open("rb") as stream:
        return [record.event for record in read(stream)]


def line(text):
    return LogLine(types.Level.INFO, "test", text)


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
    reporter.emit(types.CheckpointSaved(5, "step-5", 10, best=False, seconds=0.1))
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


def test_the_phase_is_told(reporter, phases):
    reporter.emit(types.PhaseProgress(types.Phase.TOKENIZE, 0.0))
    reporter.emit(types.PhaseProgress(types.Phase.TRAIN, 0.0))
    reporter.finish(worker_pb2.TaskOutcome())
    assert phases == [job_pb2.JOB_PHASE_TOKENIZE, job_pb2.JOB_PHASE_TRAIN]


def test_an_event_that_the_contract_cannot_hold_costs_itself_only(reporter, tmp_path):
    reporter.emit(types.CheckpointFailed(2**70, "DISK_FULL", "too large a step"))
    reporter.emit(line("after"))
    reporter.finish(worker_pb2.TaskOutcome())
    first, second, _ = stored(tmp_path)
    assert "CheckpointFailed could not be reported" in first.event.log_line.text
    assert second.event.log_line.text == "after"


_FILL = """
import resource, sys
from pathlib import Path
from finetree_worker.events import types
from finetree_worker.process import outcome
from finetree_worker.errors import StorageError
from finetree_worker.events.reporter import Reporter
from finetree_worker.events.journal import Journal
from finetree_worker.events.convert import LogLine, Place, Translator
journal = Journal(Path(sys.argv[1]))
translator = Translator(worker_pb2.Task(job="j", attempt=1), Place("here", {}))
reporter = Reporter(journal, translator, on_written=lambda: None, on_phase=lambda phase: None)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    while True:
        reporter.emit(LogLine(types.Level.INFO, "test", "x" * 1000))
except StorageError as error:
    print(error.reason, reporter.finish(outcome.failed(error)))
"""


def test_a_full_disk_ends_the_task_and_leaves_a_readable_journal(tmp_path):
    command = [sys.executable, "-c", _FILL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    # The outcome is small: it may fit behind the events that did not.
    assert done.stdout.split()[0] == "DISK_FULL", done.stderr
    assert (done.stdout.split()[1] == "True") is stored(tmp_path)[-1].HasField("outcome")
    found = stored(tmp_path)
    assert len(found) > 100
    assert [event.worker_seq for event in found] == list(range(1, len(found) + 1))
