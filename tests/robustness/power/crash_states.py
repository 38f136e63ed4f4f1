# SPDX-License-Identifier: Apache-2.0
"""What may be on a disk after a power cut: rebuilt from what a program wrote, flushed and renamed (disk_recorder.c).

A crash state is made at some point of the record. What was flushed is there. Of the writes since, each is there, is
not, or is there in its first sectors; so is each change of a name (made, renamed, linked, deleted) that its folder was
not flushed after. That is what POSIX allows; file systems are kinder. A rename is done or not done, never half.
"""

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

SECTOR = 512
MARKS = ".marks"
"""File in which the program writes what it has acknowledged: these writes are marks in the record, and no file."""
_HEAD = struct.Struct("<cIIQQ")


@dataclass(frozen=True, slots=True)
class Operation:
    """One change: w(rite), t(runcate), f(lush), c(reate), r(ename), l(ink), u(nlink), m(ake folder)."""

    kind: str
    path: str
    other: str = ""
    offset: int = 0
    data: bytes = b""


def read(log: Path, root: Path) -> list[Operation]:
    """The operations of a record, with paths below `root`; "" is the root itself."""
    content, at, found = log.read_bytes(), 0, []
    while at < len(content):
        kind, length, other_length, offset, size = _HEAD.unpack_from(content, at)
        at += _HEAD.size
        path, other = content[at : at + length].decode(), content[at + length : at + length + other_length].decode()
        at += length + other_length
        data = b""
        if kind == b"w":
            data, at = content[at : at + size], at + size
        names = [str(Path(name).relative_to(root)) if name else "" for name in (path, other)]
        found.append(Operation(kind.decode(), *["" if name == "." else name for name in names], offset, data))
    return found


@dataclass(slots=True)
class _File:
    """Bytes that are flushed, and the changes since."""

    content: bytearray = field(default_factory=bytearray)
    pending: list[Operation] = field(default_factory=list)


@dataclass(slots=True)
class _Name:
    """A change of the tree, the folders whose flush makes it durable, and the file that it gives a name."""

    operation: Operation
    folders: set[str]
    file: _File | None


class Disk:
    """A disk as far as a record has got; `crash` rebuilds what a power cut could leave of it."""

    def __init__(self) -> None:
        self._durable: dict[str, _File | None] = {"": None}
        """Names that are on the disk; None for a folder."""
        self._now: dict[str, _File | None] = {"": None}
        self._names: list[_Name] = []
        self.marks: list[str] = []

    def apply(self, operation: Operation) -> None:
        """Do what the program did."""
        if operation.path == MARKS:
            if operation.kind == "w":
                self.marks += operation.data.decode().splitlines()
            return
        if operation.kind in "wt":
            file = self._now.get(operation.path)
            if file is not None:
                file.pending.append(operation)
        elif operation.kind == "f":
            self._flush(operation.path)
        else:
            self._rename(operation)

    def _flush(self, path: str) -> None:
        file = self._now.get(path, None)
        if file is not None:
            for each in file.pending:
                _write(file.content, each)
            file.pending.clear()
            return
        if path in self._now:
            done = [name for name in self._names if path in name.folders]
            self._names = [name for name in self._names if path not in name.folders]
            for name in done:
                _change(self._durable, name)

    def _rename(self, operation: Operation) -> None:
        target = operation.other or operation.path
        file = _File() if operation.kind == "c" else self._now.get(operation.path)
        # A rename is durable once the folder that has the new name is flushed.
        name = _Name(operation, {_parent(target)}, file)
        self._names.append(name)
        _change(self._now, name)

    def crash(self, folder: Path, shuffle: random.Random) -> None:
        """Write what a power cut could leave into an empty folder."""
        tree = dict(self._durable)
        keep = shuffle.choice((0.0, 0.5, 0.9, 1.0))
        for name in self._names:
            if shuffle.random() < keep:
                _change(tree, name)
        for path, file in sorted(tree.items()):
            place = folder / path
            if file is None:
                if place.parent.is_dir() or path == "":
                    place.mkdir(exist_ok=True)
            elif place.parent.is_dir() and not path.endswith("-shm"):
                place.write_bytes(_torn(file, shuffle))


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _change(tree: dict[str, "_File | None"], name: _Name) -> None:
    """Change the names of a tree; what belongs to names that are not there (yet) is left out."""
    operation = name.operation
    source, target = operation.path, operation.other
    match operation.kind:
        case "c" | "m":
            tree[source] = name.file if operation.kind == "c" else None
        case "u":
            for path in [path for path in tree if path == source or path.startswith(source + "/")]:
                del tree[path]
        case "l":
            tree[target] = name.file
        case "r":
            if source in tree or name.file is not None:
                moved = [path for path in tree if path == source or path.startswith(source + "/")]
                for path in moved:
                    tree[target + path[len(source) :]] = tree.pop(path)
                if not moved:
                    tree[target] = name.file


def _write(content: bytearray, operation: Operation) -> None:
    if operation.kind == "t":
        del content[operation.offset :]
        content.extend(bytes(operation.offset - len(content)))
        return
    end = operation.offset + len(operation.data)
    content.extend(bytes(max(0, end - len(content))))
    content[operation.offset : end] = operation.data


def _torn(file: _File, shuffle: random.Random) -> bytes:
    if not file.pending:
        return bytes(file.content)
    content, keep = bytearray(file.content), shuffle.choice((0.0, 0.3, 0.7, 1.0))
    for operation in file.pending:
        if shuffle.random() >= keep:
            continue
        if operation.kind == "w" and shuffle.random() < 0.2:
            sectors = shuffle.randint(0, -(-len(operation.data) // SECTOR))
            _write(content, replace(operation, data=operation.data[: sectors * SECTOR]))
        else:
            _write(content, operation)
    return bytes(content)


def states(operations: list[Operation], count: int, shuffle: random.Random) -> Iterator[tuple[int, Disk]]:
    """Disks at `count` random points of a record, each after all operations before it, in their order."""
    points = sorted(shuffle.randrange(len(operations) + 1) for _ in range(count))
    disk, done = Disk(), 0
    for point in points:
        for operation in operations[done:point]:
            disk.apply(operation)
        done = max(done, point)
        yield point, disk
