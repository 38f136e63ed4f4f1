# SPDX-License-Identifier: Apache-2.0
"""The header of a safetensors file: names, types and shapes of its tensors, read without any of their numbers.

Layout (safetensors' README, "Format"): 8 bytes, the header's length as a little-endian integer; the header, a JSON
object of name -> {dtype, shape, data_offsets}, with "__metadata__" beside the tensors; then the numbers.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetree_data.weights.errors import WeightsError

MAX_HEADER_BYTES = 100_000_000
"""Longest header that is read; the library's own limit (`MAX_HEADER_SIZE` in safetensors/src/tensor.rs)."""
_METADATA = "__metadata__"
_FETCH = "Fetch the file again, whole."


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Type (safetensors' name, such as "BF16") and shape of a tensor in a file."""

    dtype: str
    shape: tuple[int, ...]


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a file by name. Raises WeightsError for one that is damaged or cut off."""
    try:
        with file.open("rb") as stream:
            size = file.stat().st_size
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise _damaged(file)
            header = json.loads(stream.read(length))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(file) from error
    if not isinstance(header, dict):
        raise _damaged(file)
    header.pop(_METADATA, None)
    tensors, places = {}, []
    for name, entry in header.items():
        tensors[name], place = _tensor(file, entry)
        places.append(place)
    end = 0
    for begin, last in sorted(places):
        # The format has neither holes nor tensors that share numbers: one file would be many times its size in memory.
        if begin != end:
            raise _damaged(file)
        end = last
    if 8 + length + end != size:
        raise WeightsError(f"has a file {file.name!r} that is cut off or has bytes after its tensors", remedy=_FETCH)
    return tensors


def _tensor(file: Path, entry: Any) -> tuple[StoredTensor, tuple[int, int]]:
    """Return a tensor of the header, and where its numbers begin and end."""
    try:
        shape = tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        dtype = str(entry["dtype"])
    except (TypeError, KeyError, ValueError) as error:
        raise _damaged(file) from error
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)) or begin > end:
        raise _damaged(file)
    return StoredTensor(dtype, shape), (begin, end)


def _damaged(file: Path) -> WeightsError:
    return WeightsError(f"has a file {file.name!r} that is no whole safetensors file", remedy=_FETCH)
