# SPDX-License-Identifier: Apache-2.0
"""A file's rows as tokens, in columns that are mapped from disk: memory does not grow with the number of rows."""

import json
import shutil
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import IO, overload

import torch
from safetensors import safe_open
from torch import Tensor

from finetree_worker.events import BadRow
from finetree_worker.formats import Format, Row
from finetree_worker.packing import Example

FILE = "tokens.safetensors"
"""Name of the file that holds a table."""
ODD_BEGINNING, LEARNS_TO_END = 1, 2
"""Bits of the column `marks`: the row does not begin with exactly one BOS where the model wants one; its last learned
token ends a turn or a sequence."""
_WIDE = ("ends", "rows", "contents", "prompts", "targets", "firsts")
_TYPES = dict.fromkeys(_WIDE, ("I64", "q", 8)) | {"tokens": ("I32", "i", 4), "learned": ("BOOL", "B", 1)}
_TYPES |= {"marks": ("U8", "B", 1)}
# Wide columns first: each then begins at a multiple of its width, as a mapping wants it.


@dataclass(frozen=True, slots=True)
class TokenizedRow:
    """One row, whole: its tokens and the bits of `marks`."""

    row: Row
    example: Example
    marks: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """What reading the file showed: what its rows hold, what it is written in, the rows that were left out.

    `notes` say how the rows were read.
    """

    format: Format
    file_format: str = ""
    skipped: int = 0
    bad_rows: tuple[BadRow, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenTable:
    """All rows of a file, tokenised whole; nothing in it hangs on the sequence length, the split or packing.

    tokens int32 and learned bool are (all tokens,); the others are int64 (rows,), marks uint8. `ends`: where a row's
    tokens end; `rows`: its number in the file; `contents` and `prompts`: 64-bit hashes of the row and of what stands
    before its last answer (0: it has no prompt); `targets`: learned tokens; `firsts`: position of the first of them
    (0: there is none, since the first token cannot be learned).
    """

    found: Found
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
    def format(self) -> Format:
        """What the rows hold."""
        return self.found.format

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row, int64 (rows,)."""
        return torch.diff(self.ends, prepend=self.ends.new_zeros(1))

    def example(self, index: int, limit: int) -> Example:
        """Row `index` of the table, cut at `limit` tokens; a view, nothing is copied."""
        start = int(self.ends[index - 1]) if index else 0
        end = min(int(self.ends[index]), start + limit)
        return Example(int(self.rows[index]), self.tokens[start:end], self.learned[start:end])


class Selection(Sequence[Example]):
    """Some rows of a table, cut at a length, each made when it is asked for."""

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
    """The rows of a table that one split has, those included that the cut leaves nothing to learn of."""

    table: TokenTable
    index: Tensor
    limit: int

    def column(self, name: str) -> Tensor:
        """A column of the table (`lengths` is one), for the rows of this split."""
        values: Tensor = getattr(self.table, name)
        return values[self.index]

    @property
    def dropped(self) -> Tensor:
        """Whether nothing that is left of a row can be learned, bool (rows,)."""
        firsts = self.column("firsts")
        return (firsts < 1) | (firsts >= self.limit)

    @property
    def kept(self) -> Selection:
        """What is trained on, or evaluated."""
        return Selection(self.table, self.index[~self.dropped], self.limit)

    def kept_targets(self) -> int:
        """Learned tokens that are left after the cut."""
        cut = self.column("lengths") > self.limit
        whole = int(self.column("targets")[~cut].sum())
        return whole + sum(self.table.example(int(i), self.limit).targets for i in self.index[cut])


def content_key(row: Row) -> int:
    """64 bits that stand for what a row says, wherever it stands.

    That any two of ten million different rows share theirs has a probability of 3e-6 (n^2 / 2^65, the birthday bound).
    """
    return _hash(repr(replace(row, number=0)))


def prompt_key(row: Row) -> int:
    """The same for what stands before the last answer; 0 where there is no question and answer."""
    answers = [i for i, message in enumerate(row.messages) if message.role == "assistant"]
    return (_hash(repr(row.messages[: answers[-1]])) or 1) if answers and answers[-1] else 0


def _hash(text: str) -> int:
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def write_table(folder: Path, batches: Iterable[Sequence[TokenizedRow]], found: Callable[[], Found]) -> None:
    """Write the table of `batches` into `folder`; holds one batch in memory at a time. `found` is asked at the end."""
    parts = {name: folder / f"{name}.part" for name in _TYPES}
    counts = dict.fromkeys(_TYPES, 0)
    streams = {name: path.open("wb") for name, path in parts.items()}
    try:
        for batch in batches:
            for name, values in _columns(batch, counts["tokens"]).items():
                values.tofile(streams[name])
                counts[name] += len(values)
    finally:
        for stream in streams.values():
            stream.close()
    with (folder / FILE).open("wb") as target:
        target.write(_header(found(), counts))
        for path in parts.values():
            _append(path, target)
            path.unlink()


def _columns(batch: Sequence[TokenizedRow], end: int) -> "dict[str, array[int]]":
    columns = {name: array(code) for name, (_, code, _) in _TYPES.items()}
    for item in batch:
        example = item.example
        end += len(example)
        found = example.is_target[1:].nonzero()
        columns["ends"].append(end)
        columns["rows"].append(example.row)
        columns["contents"].append(content_key(item.row))
        columns["prompts"].append(prompt_key(item.row))
        columns["targets"].append(len(found))
        columns["firsts"].append(int(found[0]) + 1 if len(found) else 0)
        columns["tokens"].frombytes(example.tokens.numpy().tobytes())
        columns["learned"].frombytes(example.is_target.numpy().tobytes())
        columns["marks"].append(item.marks)
    return columns


def _header(found: Found, counts: dict[str, int]) -> bytes:
    # The layout of safetensors: length of the header, the header as JSON, then the tensors without a gap.
    header: dict[str, object] = {"__metadata__": {"found": json.dumps(asdict(found))}}
    start = 0
    for name, (kind, _, width) in _TYPES.items():
        end = start + counts[name] * width
        header[name] = {"dtype": kind, "shape": [counts[name]], "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _append(path: Path, target: IO[bytes]) -> None:
    with path.open("rb") as part:
        shutil.copyfileobj(part, target, 1 << 20)


def open_table(folder: Path) -> TokenTable:
    """The table in `folder`, mapped: it stays readable when the file is deleted. Raises OSError, SafetensorError."""
    with safe_open(folder / FILE, framework="pt") as stored:
        said = json.loads((stored.metadata() or {})["found"])
        faults = tuple(BadRow(**fault) for fault in said["bad_rows"])
        notes = tuple(said["notes"])
        found = Found(Format(said["format"]), said["file_format"], said["skipped"], faults, notes)
        return TokenTable(found, **{name: stored.get_tensor(name) for name in _TYPES})
