# SPDX-License-Identifier: Apache-2.0
"""Parquet files that are far larger than their bytes: refused before they fill the memory."""

import pytest
from finetree_data.errors import DatasetError
from finetree_data.files import parquet

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def write(path, text, rows, *, typed=True):
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))
    pq.write_table(pa.table({"text": column}), path, compression="zstd", store_schema=typed)
    return path


@pytest.mark.parametrize("typed", [True, False])
def test_a_dictionary_of_one_long_text_for_every_row_is_refused(tmp_path, monkeypatch, typed):
    monkeypatch.setattr(parquet, "MAX_BATCH_BYTES", 1 << 20)
    file = write(tmp_path / "bomb.parquet", "x" * (1 << 16), 50_000, typed=typed)
    assert file.stat().st_size < 4000
    with pytest.raises(DatasetError, match="64 rows from row 1 on have 4") as caught:
        list(parquet.parquet_rows(file))
    assert caught.value.reason == "DATASET_TOO_LARGE"


def test_columns_that_unpack_to_far_more_than_the_file_are_refused_by_the_footer(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "FREE_BYTES", 1 << 16)
    file = write(tmp_path / "bomb.parquet", "x" * (1 << 20), 3)
    with pytest.raises(DatasetError, match="are read of a file of its size"):
        next(iter(parquet.parquet_rows(file)))


def test_a_text_that_every_row_repeats_is_read(tmp_path):
    file = write(tmp_path / "rows.parquet", "You are a helpful assistant. " * 20, 500)
    rows = list(parquet.parquet_rows(file))
    assert [number for number, _ in rows] == list(range(1, 501))
