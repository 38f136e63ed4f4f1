# SPDX-License-Identifier: Apache-2.0
"""A log of bounded size: its beginning and its newest lines are kept, at offsets that never change.

The worker writes it, the service reads it while it is written. Bytes are counted from the first that was ever written:
NAME holds those from 0 on, NAME.{offset} those from that offset on. When a file is full the next one begins; the
oldest but the first is removed. So a library that writes without end fills no disk, and what a run began with and what
it died of are both still there.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from finetree_data.confinement.own_files import open_own

OPERATOR_LOG = "worker.log"
"""Name of the log in an attempt's folder that is the operator's alone: it may hold paths and secrets."""
JOB_LOG = "job.log"
"""Name of the log in an attempt's folder that clients read."""
SEGMENT_BYTES = 1024 * 1024
"""Bytes of one file, after which the next begins."""
NEWEST = 7
"""Files that are kept beside the first: 8 MiB in all."""
MAX_LINE_BYTES = 16 * 1024
"""Longest line that is written whole."""
_READ_BACK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of a log: the offset of its first byte, and its bytes so far."""

    start: int
    size: int
    path: Path

    @property
    def end(self) -> int:
        """Offset behind its last byte."""
        return self.start + self.size


class LogFile:
    """Writes a log. Not thread-safe; goes on behind what is there already."""

    def __init__(self, folder: Path, name: str, *, segment_bytes: int = SEGMENT_BYTES, newest: int = NEWEST) -> None:
        self._folder, self._name = folder, name
        self._segment_bytes, self._newest = segment_bytes, newest
        found = segments(folder, name)
        self._start = found[-1].start if found else 0
        self._size = found[-1].size if found else 0
        self._later = [segment.path for segment in found if segment.start]
        self._stream = _path(folder, name, self._start).open("ab", buffering=0)

    def write(self, text: str) -> None:
        """Append lines, each ended by a line feed; what is no Unicode is replaced. Raises OSError."""
        data = b"".join(map(_line, text.split("\n")))
        if self._size and self._size + len(data) > self._segment_bytes:
            self._begin_segment()
        self._stream.write(data)
        self._size += len(data)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _begin_segment(self) -> None:
        start = self._start + self._size
        path = _path(self._folder, self._name, start)
        stream = path.open("ab", buffering=0)
        self._stream.close()
        self._stream, self._start, self._size = stream, start, 0
        self._later.append(path)
        while len(self._later) > self._newest:
            self._later.pop(0).unlink(missing_ok=True)


def segments(folder: Path, name: str) -> list[Segment]:
    """The files of a log in the order of their offsets; none where there is no log."""
    suffix = re.compile(rf"{re.escape(name)}(?:\.(\d{{16}}))?")
    found = []
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            if (match := suffix.fullmatch(path.name)) is not None:
                with suppress(FileNotFoundError):
                    found.append(Segment(int(match[1] or 0), path.lstat().st_size, path))
    return sorted(found, key=lambda segment: segment.start)


def read(folder: Path, name: str, offset: int, *, limit: int, whole_lines: bool = True) -> tuple[int, bytes]:
    """At most `limit` bytes from an offset on, and the offset of the first of them.

    That offset is larger than the one asked for where the lines between are removed. With `whole_lines` the bytes end
    with a line feed: a line that is still being written is left for later.
    """
    for segment in segments(folder, name):
        if segment.end <= offset:
            continue
        start = max(offset, segment.start)
        try:
            data = _bytes(segment, start, limit)
        except FileNotFoundError:
            # Removed since it was listed: the next file is there.
            continue
        if whole_lines:
            data = data[: data.rfind(b"\n") + 1]
        if data:
            return start, data
    return offset, b""


def start_of_last(folder: Path, name: str, lines: int) -> int:
    """Offset at which the newest `lines` lines begin; where fewer are there without a gap, of the first of them."""
    begin = 0
    for count, begin in enumerate(_line_starts(segments(folder, name))):  # noqa: B007 - the last one is the answer
        if count == lines:
            break
    return begin


def _line_starts(found: list[Segment]) -> Iterator[int]:
    """Offsets behind the line feeds of a log, from its end on, and at last the one at which its newest part begins."""
    begin = found[-1].end if found else 0
    for segment in reversed(found):
        if segment.end != begin:
            break
        end = segment.end
        while end > segment.start:
            start = max(segment.start, end - _READ_BACK)
            try:
                data = _bytes(segment, start, end - start)
            except FileNotFoundError:
                return
            place = len(data)
            while (place := data.rfind(b"\n", 0, place)) >= 0:
                yield start + place + 1
            end = start
        begin = segment.start
    yield begin


def _bytes(segment: Segment, start: int, count: int) -> bytes:
    with open_own(segment.path) as stream:
        stream.seek(start - segment.start)
        return stream.read(count)


def _path(folder: Path, name: str, start: int) -> Path:
    return folder / (f"{name}.{start:016d}" if start else name)


def _line(text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    if len(data) > MAX_LINE_BYTES:
        kept = data[:MAX_LINE_BYTES].decode("utf-8", "ignore")
        data = f"{kept} … {len(data) - MAX_LINE_BYTES} bytes more".encode()
    return data + b"\n"
