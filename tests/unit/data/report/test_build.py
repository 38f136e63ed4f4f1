# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN002, ANN003, ANN202 - inner functions pass on what their callers give
"""Reports on all rows of a file without a tokenizer, and the program that makes them."""

import importlib.util
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finetree_api.trainer.v1 import job_pb2
from finetree_api.types.v1 import training_data_pb2
from finetree_data import __main__ as program
from finetree_data.errors import DatasetError
from finetree_data.options import Reading
from finetree_data.reader import RowFile
from finetree_data.report.build import FIRST_ROWS, PROGRESS_ROWS, read_rows

TRAIN = training_data_pb2.SPLIT_TRAIN


@pytest.fixture
def report(tmp_path):
    def read(rows, **how):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_rows(RowFile(path, Reading(name="rows.jsonl")), TRAIN, **how)

    return read


def test_lengths_are_estimated_and_percentiles_are_by_nearest_rank(report):
    made = report([{"text": "t" * 4 * n} for n in range(1, 21)]).report
    ranks = made.percentiles
    # A token ends each text. Bounds of the histogram are an eighth apart beyond 16.
    assert (ranks.p50, ranks.p90, ranks.p95, ranks.p99, ranks.max) == (11, 20, 20, 21, 21)
    assert (made.rows, made.longest_row_tokens, made.target_tokens) == (20, 21, 230)
    assert not made.profile.exact
    assert not made.HasField("special_tokens")
    assert made.suggested_sequence_length == 0


def test_skipped_rows_are_counted_beside_the_others(report):
    made = report([{"text": "a"}] * 200 + [{"text": ""}]).report
    assert (made.rows, made.skipped.count, list(made.skipped.rows), made.duplicates.count) == (200, 1, [201], 199)
    assert made.bad_rows[0].problem == "is empty"
    assert len(made.duplicates.rows) == 100


def test_the_first_rows_are_kept(report):
    made = report([{"text": f"{n}"} for n in range(9)])
    assert [row.row for row in made.first_rows] == list(range(1, FIRST_ROWS + 1))
    assert made.report.rendered_example == "0"


def test_progress_tells_rows_and_may_stop(report):
    told = []
    report([{"text": "a"}] * (2 * PROGRESS_ROWS + 1), on_progress=lambda fraction, rows: told.append((fraction, rows)))
    assert [rows for _, rows in told] == [PROGRESS_ROWS, 2 * PROGRESS_ROWS, 2 * PROGRESS_ROWS + 1]
    assert told[-1][0] == 1.0

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        report([{"text": "a"}] * PROGRESS_ROWS, on_progress=stop)


@pytest.fixture
def table(tmp_path):
    rows = [{"question": f"{n}?", "answer": "a", "body": f"What question {n} is about, in words."} for n in range(50)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    return job_pb2.PrepareTask(dataset={"path": str(tmp_path / "rows.parquet")})


def test_rows_of_parquet_are_read(table, capsys):
    (made,) = program.reports(table)
    assert (made.report.rows, [one.code for one in made.report.findings]) == (50, ["UNREAD_COLUMNS"])
    assert json.loads(capsys.readouterr().out)["progress"]["fraction"] == 1.0


def test_without_pyarrow_the_columns_of_parquet_are_checked_and_that_is_said(table, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    (made,) = program.reports(table)
    assert (made.report.rows, made.report.row_format) == (50, training_data_pb2.ROW_FORMAT_PROMPT_COMPLETION)
    assert not made.first_rows
    assert "install pyarrow" in made.report.remarks[0].message
    table.dataset.reading.columns.prompt = "nothing"
    with pytest.raises(DatasetError, match="There is no column 'nothing'") as refused:
        list(program.reports(table))
    assert refused.value.problem.startswith("rows.parquet: ")
