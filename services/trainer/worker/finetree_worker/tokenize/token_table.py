# SPDX-License-Identifier: Apache-2.0
"""Table of a file's tokenized rows, in columns mapped from disk: memory does not grow with the number of rows."""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self, overload

import numpy as np
import torch
from finetree_api.types.v1 import training_data_pb2
from finetree_data.bad_rows import BadRow
from finetree_data.findings.finding import Finding
from finetree_data.options import FileFormat
from finetree_data.remarks import Remark
from finetree_data.report.keys import row_keys
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from finetree_worker.tokenize.example import Example
from finetree_worker.tokenize.rows import RowFile, RowFormat, found_row_format
from finetree_worker.tokenize.tokenizer import RowTokenizer, TokenBlock

FILE = "tokens.safetensors"
"""Name of a table's file."""
ODD_BEGINNING, LEARNS_TO_END = 1, 2
"""Bits of the column `marks`: the row does not begin with exactly one BOS where the model wants one; its last learned
token ends a turn or a sequence."""
_WIDE = ("ends", "rows", "contents", "prompts", "targets", "firsts")
_TYPES: dict[str, tuple[str, np.dtype[Any]]] = dict.fromkeys(_WIDE, ("I64", np.dtype("<i8")))
_TYPES |= {"tokens": ("I32", np.dtype("<i4")), "learned": ("BOOL", np.dtype(bool)), "marks": ("U8", np.dtype("u1"))}
# Wide columns first: each then begins at a multiple of its width, which mapping needs.


@dataclass(frozen=True, slots=True)
class ReadResult:
    """Result of reading a file: the formats of its rows and of the file, and the number of rows that were skipped.

    `bad_rows` are the first of those, `remarks` say how the rows were read, `findings` are those that no reading has
    accepted yet.
    """

    row_format: RowFormat
    file_format: FileFormat = FileFormat.JSONL
    compression: str = ""
    skipped: int = 0
    bad_rows: tuple[BadRow, ...] = ()
    remarks: tuple[Remark, ...] = ()
    findings: tuple[Finding, ...] = ()

    @classmethod
    def of(cls, file: RowFile, *more: Remark) -> Self:
        """Return the result of a file whose rows were read, with further remarks."""
        return cls(
            row_format=found_row_format(file),
            file_format=file.file_format or FileFormat.JSONL,
            compression=file.compression,
            skipped=file.skipped,
            bad_rows=tuple(file.skipped_rows),
            remarks=(*file.remarks, *more),
            findings=file.findings,
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a result from the JSON of its fields."""
        kept = json.loads(text)
        return cls(
            row_format=RowFormat(kept["row_format"]),
            file_format=FileFormat(kept["file_format"]),
            compression=kept["compression"],
            skipped=kept["skipped"],
            bad_rows=tuple(BadRow(**row) for row in kept["bad_rows"]),
            remarks=tuple(Remark(**remark) for remark in kept["remarks"]),
            findings=tuple(Finding.from_json(found) for found in kept["findings"]),
        )


@dataclass(frozen=True, slots=True)
class TokenTable:
    """All rows of a file, tokenized whole; independent of the sequence length, the split and packing.

    tokens int32 and learned bool are (all tokens,); the others are int64 (rows,), marks uint8. `ends`: end of a row's
    tokens; `rows`: its number in the file; `contents` and `prompts`: 64-bit hashes of the row and of the part before
    its last answer (0: it has no prompt); `targets`: learned tokens; `firsts`: position of the first of them (0: there
    is none, since the first token cannot be learned).
    """

    read: ReadResult
    ends: Tensor
    rows: Tensor
    contents: Tensor
    prompts: Tensor
    targets: Tensor
    firsts: Tensor
    tokens: Tensor
    learned: Tensor
    marks: Tensor

    @property
    def row_format(self) -> RowFormat:
        """Format of the rows."""
        return self.read.row_format

    @property
    def lengths(self) -> Tensor:
        """Number of tokens of each row, int64 (rows,)."""
        return torch.diff(self.ends, prepend=self.ends.new_zeros(1))

    def example(self, index: int, limit: int) -> Example:
        """Return row `index` truncated to `limit` tokens, as a view."""
        start = int(self.ends[index - 1]) if index else 0
        end = min(int(self.ends[index]), start + limit)
        return Example(int(self.rows[index]), self.tokens[start:end], self.learned[start:end])


class Selection(Sequence[Example]):
    """Some rows of a table, truncated, each made on access."""

    def __init__(self, table: TokenTable, chosen: Tensor, limit: int) -> None:
        """`chosen` int64 indexes the table's rows; `limit` is in tokens."""
        self._table, self._chosen, self._limit = table, chosen, limit
        self.lengths = table.lengths[chosen].clamp(max=limit)

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._table.example(int(self._chosen[index]), self._limit)


@dataclass(frozen=True, slots=True)
class Split:
    """The rows of a table in one split, including those without target tokens after truncation."""

    kind: training_data_pb2.Split.ValueType
    table: TokenTable
    index: Tensor
    limit: int

    def column(self, name: str) -> Tensor:
        """Return a column of the table, or its `lengths`, for the rows of this split."""
        values: Tensor = getattr(self.table, name)
        return values[self.index]

    @property
    def dropped(self) -> Tensor:
        """Whether a row has no target tokens after truncation, bool (rows,)."""
        firsts = self.column("firsts")
        return (firsts < 1) | (firsts >= self.limit)

    @property
    def kept(self) -> Selection:
        """The rows that are trained on, or evaluated."""
        return Selection(self.table, self.index[~self.dropped], self.limit)

    def kept_targets(self) -> int:
        """Return the number of learned tokens after truncation."""
        cut = self.column("lengths") > self.limit
        whole = int(self.column("targets")[~cut].sum())
        return whole + sum(self.table.example(int(i), self.limit).targets for i in self.index[cut])


def write_table(
    folder: Path, blocks: Iterable[TokenBlock], maker: RowTokenizer, *, read: Callable[[], ReadResult]
) -> None:
    """Write the table of `blocks`, made by `maker`, into `folder`; holds one of them at a time.

    `read` is called after the last block.
    """
    parts = {name: folder / f"{name}.part" for name in _TYPES}
    counts = dict.fromkeys(_TYPES, 0)
    streams = {name: path.open("wb") for name, path in parts.items()}
    try:
        for block in blocks:
            for name, values in _columns(block, maker, counts["tokens"]).items():
                streams[name].write(np.ascontiguousarray(values, _TYPES[name][1]).data)
                counts[name] += len(values)
    finally:
        for stream in streams.values():
            stream.close()
    with (folder / FILE).open("wb") as target:
        target.write(_header(read(), counts))
        for path in parts.values():
            _append(path, target)
            path.unlink()


def _columns(block: TokenBlock, maker: RowTokenizer, before: int) -> dict[str, NDArray[Any]]:
    """Return the columns of a block that follows `before` tokens."""
    ends = block.lengths.cumsum()
    starts = ends - block.lengths
    keys = np.array([row_keys(row) for row in block.rows], np.int64)
    learnable = block.learned.copy()
    learnable[starts[block.lengths > 0]] = False  # no token before the first one could predict it
    where = learnable.nonzero()[0]
    first, past = np.searchsorted(where, starts), np.searchsorted(where, ends)
    has = past > first
    firsts = np.zeros_like(starts)
    firsts[has] = where[first[has]] - starts[has]
    odd = _odd_beginnings(block, maker.bos, starts=starts, ends=ends)
    to_end = maker.learns_to_end(block.tokens, block.learned, block.lengths)
    return {
        "ends": ends + before,
        "rows": np.fromiter((row.number for row in block.rows), np.int64, len(block.rows)),
        "contents": keys[:, 0],
        "prompts": keys[:, 1],
        "targets": past - first,
        "firsts": firsts,
        "tokens": block.tokens,
        "learned": block.learned,
        "marks": ODD_BEGINNING * odd + LEARNS_TO_END * to_end,
    }


def _odd_beginnings(
    block: TokenBlock, bos: int | None, *, starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return whether a row does not begin with exactly one BOS token, where the model uses one, bool (rows,)."""
    if bos is None:
        return np.zeros(len(starts), np.bool_)
    where = (block.tokens == bos).nonzero()[0]
    first, past = np.searchsorted(where, starts), np.searchsorted(where, ends)
    odd: NDArray[np.bool_] = past - first != 1
    odd[~odd] = where[first[~odd]] != starts[~odd]
    return odd


def _header(read: ReadResult, counts: dict[str, int]) -> bytes:
    # The layout of safetensors: length of the header, the header as JSON, then the tensors without a gap.
    header: dict[str, object] = {"__metadata__": {"read": json.dumps(asdict(read))}}
    start = 0
    for name, (kind, of) in _TYPES.items():
        end = start + counts[name] * of.itemsize
        header[name] = {"dtype": kind, "shape": [counts[name]], "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _append(path: Path, target: IO[bytes]) -> None:
    with path.open("rb") as part:
        shutil.copyfileobj(part, target, 1 << 20)


def open_table(folder: Path) -> TokenTable:
    """Map the table in `folder`: it stays readable when its file is deleted. Raises OSError, SafetensorError."""
    with safe_open(folder / FILE, framework="pt") as stored:
        read = ReadResult.from_json((stored.metadata() or {})["read"])
        return TokenTable(read, **{name: stored.get_tensor(name) for name in _TYPES})
