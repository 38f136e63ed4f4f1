# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN002, ANN003, ANN202, ANN205 - the functions give rows, errors; keyword arguments are fields of a Reading
"""Reads files that a test writes; the files beside tests are importable by their names."""

import json
import sys
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest
from finetree_data.errors import DatasetError
from finetree_data.options import Reading
from finetree_data.reader import RowFile

_FILES = {"usual_templates": "rows/usual_templates.py", "weight_files": "weights/weight_files.py"}


class _Finder:
    @staticmethod
    def find_spec(name, *_):
        return spec_from_file_location(name, Path(__file__).parent / _FILES[name]) if name in _FILES else None


sys.meta_path.append(_Finder)


@pytest.fixture
def read_rows(tmp_path):
    """Read a file with this content: its rows, and the RowFile with what was detected."""

    def read(data, name="upload.bin", **reading):
        file = tmp_path / name
        file.write_bytes(data if isinstance(data, bytes) else data.encode())
        found = RowFile(file, Reading(**reading))
        return list(found.rows()), found

    return read


@pytest.fixture
def refusal(read_rows):
    """Read a file that is refused: its error."""

    def read(data, name="upload.bin", **reading):
        with pytest.raises(DatasetError) as error:
            read_rows(data, name, **reading)
        return error.value

    return read


@pytest.fixture
def read_objects(read_rows):
    """Read a file of JSON lines with these objects: its rows, and the RowFile with what was detected."""

    def read(*objects, **reading):
        lines = "".join(json.dumps(each) + "\n" for each in objects)
        return read_rows(lines, "rows.jsonl", **reading)

    return read
