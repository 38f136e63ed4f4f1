# SPDX-License-Identifier: Apache-2.0
"""A PREPARE task's reports, counted with the model's tokenizer."""

import gc
from dataclasses import replace
from pathlib import Path

import pytest
from finetree_api.trainer.v1 import artifact_pb2, job_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_worker.errors import Cancelled, DataError
from finetree_worker.events.convert import Published, SplitReport
from finetree_worker.events.types import PhaseProgress, Signal
from finetree_worker.process.runner import Sealing


class Collected:
    def __init__(self) -> None:
        self.events = []

    def emit(self, event) -> None:
        self.events.append(event)

    @property
    def reports(self):
        return {event.split: event for event in self.events if isinstance(event, SplitReport)}


class Control:
    def __init__(self, signal=Signal.NONE) -> None:
        self.signal = signal

    def poll(self) -> Signal:
        return self.signal


@pytest.fixture
def task(base_folder, write_rows, chat_rows, tmp_path):
    return worker_pb2.Task(
        kind=job_pb2.TASK_KIND_PREPARE,
        model_dir=str(base_folder),
        dataset_file=str(write_rows(chat_rows)),
        work_dir=str(tmp_path / "work"),
        artifact_dir=str(tmp_path / "artifacts"),
        token_cache_dir=str(tmp_path / "tokens"),
        token_cache_bytes=1 << 20,
    )


def prepared(task, control=None):
    from finetree_worker.process.core import TrainingCore

    reporter, core = Collected(), TrainingCore()
    core.prepare(task, Sealing(reporter, task, core), control or Control())
    return reporter


def test_both_splits_are_counted_exactly(task, write_rows, chat_rows, tokenizer):
    task.evaluation_file = str(write_rows(chat_rows[:3], "held.jsonl"))
    found = prepared(task).reports
    rendered = [tokenizer.apply_chat_template(row["messages"], tokenize=False) for row in chat_rows]
    lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in rendered]
    train, held = found["train"].report, found["evaluation"].report
    # A tokenizer that begins texts with a BOS token of its own adds one to each row; this one does not.
    assert (train.train_rows, held.train_rows) == (11, 3)
    assert train.total_tokens - held.total_tokens == sum(lengths[3:])
    assert train.longest_row_tokens == max(lengths)
    assert held.longest_row_tokens == max(lengths[:3])
    assert sum(count for _, count in held.histogram) == 3
    assert found["train"].rendered_example == rendered[0]
    assert "".join(span.text for span in found["train"].example_spans) == rendered[0]


def test_a_share_of_the_rows_is_held_out(task):
    task.spec.evaluation.split_fraction = 0.25
    found = prepared(task).reports
    assert found["evaluation"].report.train_rows == 3
    assert found["train"].report.train_rows == 8


def test_without_a_sequence_length_nothing_is_cut(task):
    whole = prepared(task).reports["train"].report
    assert whole.truncated_rows == 0
    task.spec.training.sequence_length = whole.longest_row_tokens - 1
    task.attempt, task.work_dir = 2, task.work_dir + "2"
    assert prepared(task).reports["train"].report.truncated_rows == 1


def test_rows_are_kept_for_a_preview_and_announced(task):
    artifact = next(event.artifact for event in prepared(task).events if isinstance(event, Published))
    lines = (Path(task.artifact_dir) / "preview" / "rows.jsonl").read_text().splitlines()
    assert (artifact.kind, len(lines)) == (artifact_pb2.ARTIFACT_KIND_REPORT, 11)
    assert [file.path for file in artifact.files] == ["rows.jsonl"]
    assert not artifact.compat


def test_the_second_report_tokenises_nothing(task):
    first = prepared(task).reports["train"].report
    task.attempt, task.work_dir = 2, task.work_dir + "2"
    second = prepared(task).reports["train"].report
    assert (first.from_cache, second.from_cache) == (False, True)
    assert replace(second, from_cache=False) == first


def test_progress_begins_and_ends(task):
    progress = [event.fraction for event in prepared(task).events if isinstance(event, PhaseProgress)]
    assert (progress[0], progress[-1]) == (0.0, 1.0)


def test_a_bad_row_is_named(task, write_rows, chat_rows):
    task.dataset_file = str(write_rows([*chat_rows, {"messages": "hello"}], "bad.jsonl"))
    with pytest.raises(DataError) as refused:
        prepared(task)
    assert (refused.value.reason, refused.value.row) == ("MALFORMED_ROW", 12)


@pytest.mark.parametrize("signal", [Signal.CANCEL, Signal.PAUSE, Signal.CANCEL_SAVING], ids=lambda signal: signal.value)
def test_it_stops_when_told(task, signal):
    with pytest.raises(Cancelled):
        prepared(task, Control(signal))


def test_garbage_is_looked_for_again_once_the_libraries_are_imported(monkeypatch):
    from finetree_worker.process import core, log_capture

    monkeypatch.setattr(log_capture, "adopt_library_loggers", lambda: None)  # the loggers stay those of the tests
    core.TrainingCore().warm_up()
    assert gc.isenabled()
