# SPDX-License-Identifier: Apache-2.0
"""Headers of safetensors files: whole ones are read, damaged ones refused whatever is wrong with them."""

import json

import pytest
from finetree_data.weights.errors import WeightsError
from finetree_data.weights.safetensors_file import StoredTensor, read_header
from weight_files import safetensors

WHOLE = safetensors({"a": (2, 3), "b": ()})


def test_names_types_and_shapes_are_read(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(WHOLE)
    assert read_header(file) == {"a": StoredTensor("F32", (2, 3)), "b": StoredTensor("F32", ())}


def entry(**changes: object) -> bytes:
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}
    text = json.dumps({"a": tensor}).encode()
    return len(text).to_bytes(8, "little") + text + b"1234"


def two(*offsets: list[int]) -> bytes:
    text = json.dumps(
        {name: {"dtype": "F32", "shape": [1], "data_offsets": at} for name, at in zip("ab", offsets, strict=True)}
    )
    return len(text).to_bytes(8, "little") + text.encode() + bytes(8)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        WHOLE[:-1],
        WHOLE + b"x",
        WHOLE[:40],
        (2**63).to_bytes(8, "little") + WHOLE[8:],
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{]",
        (200_002).to_bytes(8, "little") + b"[" * 100_001 + b"]" * 100_001,
        entry(shape=[-1]),
        entry(shape="x"),
        entry(shape=[True]),
        entry(data_offsets=[4, 0]),
        entry(data_offsets=[0]),
        entry(data_offsets=[0, 2**70]),
        entry(data_offsets=None),
        # A header of 100 GB, tensors that share numbers, and a hole between two.
        (100 << 30).to_bytes(8, "little") + WHOLE[8:],
        two([0, 8], [4, 8]),
        two([0, 8], [0, 8]),
        two([0, 2], [4, 8]),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, content):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        read_header(file)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(WeightsError):
        read_header(tmp_path / "model.safetensors")
