# SPDX-License-Identifier: Apache-2.0
"""A task that prepares: its reports, counted with the model's tokenizer, or in characters without one."""

import gc
import gzip
from pathlib import Path

import pytest
from finetree_api.trainer.v1 import artifact_pb2, event_pb2, job_pb2
from finetree_api.types.v1 import training_data_pb2
from finetree_api.types.v1.training_data_pb2 import SPLIT_EVALUATION, SPLIT_TRAIN
from finetree_api.worker.v1 import worker_pb2
from finetree_data.files import content
from finetree_worker.control import Signal
from finetree_worker.errors import Cancelled, DataError
from finetree_worker.process.runner import Sealing


class Collected:
    def __init__(self) -> None:
        self.events = []

    def emit(self, payload, *, message="", level=0) -> None:  # noqa: ARG002 - the protocol's signature
        self.events.append(payload)

    @property
    def reports(self):
        return {event.split: event for event in self.events if isinstance(event, event_pb2.DatasetReport)}


class Control:
    def __init__(self, signal=Signal.NONE) -> None:
        self.signal = signal

    def poll(self) -> Signal:
        return self.signal


@pytest.fixture
def task(base_folder, write_rows, chat_rows, tmp_path):
    folders = worker_pb2.TaskFolders(
        work_dir=str(tmp_path / "work"),
        artifact_dir=str(tmp_path / "artifacts"),
        token_cache_dir=str(tmp_path / "tokens"),
        token_cache_bytes=1 << 20,
    )
    return worker_pb2.Task(
        job="projects/p/jobs/j",
        attempt=1,
        prepare=job_pb2.PrepareTask(),
        base=worker_pb2.TaskBaseModel(model_dir=str(base_folder)),
        dataset_file=str(write_rows(chat_rows)),
        folders=folders,
    )


def prepared(task, control=None):
    from finetree_worker.process.core import TrainingCore

    reporter = Collected()
    TrainingCore().prepare(task, Sealing(reporter, task), control or Control())
    return reporter


def test_both_splits_are_counted_exactly(task, write_rows, chat_rows, tokenizer):
    task.evaluation_file = str(write_rows(chat_rows[:3], "held.jsonl"))
    found = prepared(task).reports
    rendered = [tokenizer.apply_chat_template(row["messages"], tokenize=False) for row in chat_rows]
    lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in rendered]
    train, held = found[SPLIT_TRAIN], found[SPLIT_EVALUATION]
    # A tokenizer that begins texts with a BOS token of its own adds one to each row; this one does not.
    assert (train.profile.examples, held.profile.examples) == (11, 3)
    assert train.profile.exact
    assert train.profile.total_tokens - held.profile.total_tokens == sum(lengths[3:])
    assert train.longest_row_tokens == max(lengths)
    assert held.longest_row_tokens == max(lengths[:3])
    assert sum(bucket.count for bucket in held.profile.token_lengths) == 3
    assert train.rendered_example == rendered[0]
    assert "".join(span.text for span in train.example_spans) == rendered[0]


def test_a_share_of_the_rows_is_held_out(task):
    task.prepare.split_fraction = 0.25
    found = prepared(task).reports
    assert (found[SPLIT_EVALUATION].profile.examples, found[SPLIT_TRAIN].profile.examples) == (3, 8)


def test_without_a_sequence_length_nothing_is_cut(task):
    whole = prepared(task).reports[SPLIT_TRAIN]
    assert (whole.truncated.count, whole.sequence_length) == (0, 0)
    task.prepare.sequence_length = whole.longest_row_tokens - 1
    task.attempt, task.folders.work_dir = 2, task.folders.work_dir + "2"
    cut = prepared(task).reports[SPLIT_TRAIN]
    assert (cut.truncated.count, cut.sequence_length) == (1, whole.longest_row_tokens - 1)


def test_rows_are_kept_for_a_preview_and_announced(task):
    artifact = next(e.artifact for e in prepared(task).events if isinstance(e, event_pb2.ArtifactReady))
    lines = (Path(task.folders.artifact_dir) / "preview" / "rows.jsonl").read_text().splitlines()
    assert (artifact.kind, len(lines)) == (artifact_pb2.ARTIFACT_KIND_REPORT, 11)
    assert artifact.name == "projects/p/jobs/j/artifacts/preview"
    assert [file.path for file in artifact.files] == ["rows.jsonl"]
    assert not artifact.compat


def test_the_second_report_tokenizes_nothing(task):
    first = prepared(task).reports[SPLIT_TRAIN]
    task.attempt, task.folders.work_dir = 2, task.folders.work_dir + "2"
    second = prepared(task).reports[SPLIT_TRAIN]
    assert (first.tokens_from_cache, second.tokens_from_cache) == (False, True)
    second.tokens_from_cache = False
    assert second == first


def test_without_a_model_rows_are_checked_and_counted_in_bytes(task, write_rows):
    task.base.Clear()
    task.dataset_file = str(write_rows([{"text": "a" * 400}, {"text": ""}, {"text": "b" * 40}] + [{"text": "c"}] * 200))
    report = prepared(task).reports[SPLIT_TRAIN]
    assert (report.rows, report.profile.examples, report.skipped.count) == (202, 202, 1)
    assert (report.profile.exact, report.profile.total_tokens) == (
        False,
        100 + 10 + 200 + 202,
    )  # and where each text ends
    assert report.row_format == training_data_pb2.ROW_FORMAT_TEXT
    assert (report.percentiles.p50, report.longest_row_tokens) == (2, 101)
    assert not report.HasField("special_tokens")


def test_without_a_model_a_bad_row_is_named_too(task, write_rows):
    task.base.Clear()
    task.dataset_file = str(write_rows([{"text": "a"}, {"text": 5}], "bad.jsonl"))
    with pytest.raises(DataError) as refused:
        prepared(task)
    assert (refused.value.reason, refused.value.row) == ("MALFORMED_ROW", 2)


@pytest.mark.parametrize("named", [True, False], ids=["with a model", "without"])
def test_a_file_that_unpacks_to_far_more_is_refused_on_the_way_and_leaves_nothing(task, tmp_path, monkeypatch, named):
    monkeypatch.setattr(content, "FREE_BYTES", 100_000)
    path, rows = tmp_path / "bomb.jsonl.gz", b'{"text": "' + b"a" * 20_000 + b'"}\n'
    path.write_bytes(gzip.compress(rows * 1_000))
    task.dataset_file = str(path)
    if not named:
        task.base.Clear()
    with pytest.raises(DataError) as refused:
        prepared(task)
    assert refused.value.reason == "DATASET_TOO_LARGE"
    made = (task.folders.work_dir, task.folders.token_cache_dir, task.folders.artifact_dir)
    assert not [path for folder in made for path in Path(folder).rglob("*")]


def test_without_a_model_progress_names_rows_and_held_out_rows_are_compared(task, write_rows):
    task.base.Clear()
    rows = [{"prompt": f"{n}?", "completion": "a"} for n in range(2_000)]
    task.dataset_file = str(write_rows(rows))
    task.evaluation_file = str(write_rows(rows[:2], "held.jsonl"))
    found = prepared(task)
    assert found.reports[SPLIT_EVALUATION].leaked.count == 2
    told = [event.done for event in found.events if isinstance(event, event_pb2.PhaseProgress)]
    assert {512, 1024, 1536} <= set(told)


def test_progress_begins_and_ends(task):
    progress = [event.fraction for event in prepared(task).events if isinstance(event, event_pb2.PhaseProgress)]
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
