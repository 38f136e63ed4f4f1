# SPDX-License-Identifier: Apache-2.0
"""What is known of a file before anything tokenizes it."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finetree_data import file_profile as module
from finetree_data.errors import DatasetError
from finetree_data.file_profile import file_profile
from finetree_data.options import FileFormat, Reading
from finetree_trainer.datasets.validate import validate_file

ROWS = [{"prompt": f"What is {n}?", "completion": f"It is the number {n},\nand more"} for n in range(50)]


def as_csv() -> bytes:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, ["prompt", "completion"])
    table.writeheader()
    table.writerows(ROWS)
    return text.getvalue().encode()


def as_parquet() -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), stream)
    return stream.getvalue()


LINES = "\n".join(map(json.dumps, ROWS)).encode()
FILES = {
    "rows.csv": as_csv(),
    "rows.jsonl": LINES,
    "rows.jsonl.gz": gzip.compress(LINES),
    "rows.json": json.dumps(ROWS).encode(),
    "rows.parquet": as_parquet(),
}


@pytest.mark.parametrize("name", FILES)
def test_rows_are_counted_as_the_trainer_counts_them(tmp_path, name):
    """Lines would say 101 rows of the CSV, and next to nothing of what is compressed."""
    file = tmp_path / name
    file.write_bytes(FILES[name])
    found = file_profile(file, Reading())
    assert found.profile == validate_file(file).profile
    assert (found.profile.examples, found.share, found.profile.exact) == (50, 1.0, False)
    assert found.values_read is (name != "rows.parquet")
    assert (found.file_format is FileFormat.CSV) is (name == "rows.csv")


def test_skipped_rows_are_counted_apart(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(LINES + b'\n{"prompt": 1, "completion": "x"}\n')
    found = file_profile(file, Reading(skip_bad_rows=True))
    assert (found.profile.examples, found.skipped) == (50, 1)
    with pytest.raises(DatasetError) as caught:
        file_profile(file, Reading())
    assert (caught.value.reason, caught.value.row) == ("MALFORMED_ROW", 51)


def test_of_a_large_file_the_beginning_stands_for_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "READ_BYTES", 1 << 20)
    file = tmp_path / "rows.jsonl"
    file.write_bytes((LINES + b"\n") * 2000)
    found = file_profile(file, Reading())
    assert found.read_bytes == 1 << 20
    assert 0.1 < found.share < 0.6
    assert found.profile.examples == pytest.approx(100_000, rel=0.01)


@pytest.mark.parametrize(("name", "reason"), [("missing.jsonl", "DATASET_NOT_FOUND"), ("empty.jsonl", "EMPTY_DATASET")])
def test_a_file_without_rows_is_refused(tmp_path, name, reason):
    (tmp_path / "empty.jsonl").write_bytes(b"")
    with pytest.raises(DatasetError) as caught:
        file_profile(tmp_path / name, Reading())
    assert caught.value.reason == reason
