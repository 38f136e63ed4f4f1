# SPDX-License-Identifier: Apache-2.0
"""A task's events on disk: an append-only file, kept until the service has them in its log.

Record: 4-byte little-endian length, 4-byte little-endian CRC-32 of the body, body (a serialized WorkerEvent). Whoever
reads stops at the first record that is cut off or whose checksum is wrong: that is where the writer was killed.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from finetree_api.trainer.v1 import worker_pb2

FILE_NAME = "segment.bin"
"""Name of the segment in a task's folder."""
RESERVE_NAME = "segment.reserve"
"""Name of the file whose space the last records get when the disk is full."""
RESERVE_BYTES = 256 * 1024
OUTCOME_BYTES = RESERVE_BYTES // 2
"""Of the reserve, what only the last record gets: the others must not use up what says how the task ended."""
MAX_RECORD_BYTES = 16 * 1024 * 1024
"""No event is as large; a length beyond it is read as damage."""
_HEADER = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class Record:
    """One event as stored: its number, its bytes, and the offset of the record that follows."""

    worker_seq: int
    body: bytes
    end: int


def encode(body: bytes) -> bytes:
    """A body with its header."""
    return _HEADER.pack(len(body), zlib.crc32(body)) + body


def read(stream: BinaryIO, offset: int = 0) -> Iterator[Record]:
    """Whole records from a record's offset on; ends without an error at the file's end or at a torn record."""
    stream.seek(offset)
    while len(header := stream.read(_HEADER.size)) == _HEADER.size:
        length, checksum = _HEADER.unpack(header)
        # No body is empty: a run of zeros, left by a file system that lost power, is not a record.
        if not 0 < length <= MAX_RECORD_BYTES:
            return
        body = stream.read(length)
        if len(body) < length or zlib.crc32(body) != checksum:
            return
        offset += _HEADER.size + length
        yield Record(worker_pb2.WorkerEvent.FromString(body).worker_seq, body, offset)


class Segment:
    """Writer of one segment. `append` belongs to one thread; `after` and `batch` may be called from another.

    What `append` has returned from is with the operating system: a killed worker loses none of it. With `durable` it
    is on the disk as well.
    """

    def __init__(self, folder: Path) -> None:
        """Open or create the segment in `folder`; a torn tail is cut off, numbers go on after the last whole record.

        Raises OSError.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(folder / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._path = folder / FILE_NAME
        self._reader = self._path.open("rb", buffering=0)
        self._end, self._last_seq = 0, 0
        with self._path.open("rb") as stream:
            for record in read(stream):
                self._end, self._last_seq = record.end, record.worker_seq
        os.ftruncate(self._fd, self._end)
        self._reserve = folder / RESERVE_NAME
        with suppress(OSError):
            self._reserve.write_bytes(b"\0" * RESERVE_BYTES)
        _sync_folder(folder)

    @property
    def last_seq(self) -> int:
        """Number of the newest event; 0 for none."""
        return self._last_seq

    @property
    def end(self) -> int:
        """Bytes of whole records."""
        return self._end

    def append(self, events: Iterable[worker_pb2.WorkerEvent], *, durable: bool) -> None:
        """Number the events and write them in one go. Raises OSError, with nothing of them in the segment."""
        chunk, seq = bytearray(), self._last_seq
        for event in events:
            seq += 1
            event.worker_seq = seq
            chunk += encode(event.SerializeToString())
        try:
            self._write(bytes(chunk))
            if durable:
                os.fdatasync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self._end)
            raise
        self._end += len(chunk)
        # The reading thread looks at the number first, so the bytes must be there before it.
        self._last_seq = seq

    def _write(self, chunk: bytes) -> None:
        written = 0
        while written < len(chunk):
            written += os.pwrite(self._fd, chunk[written:], self._end + written)

    def release_reserve(self, *, keep: int = 0) -> None:
        """Give the disk the reserved space back but for `keep` bytes: for the last records on a full disk."""
        with suppress(OSError):
            if keep:
                os.truncate(self._reserve, min(keep, self._reserve.stat().st_size))
            else:
                self._reserve.unlink(missing_ok=True)

    def after(self, worker_seq: int) -> int:
        """Offset of the first record newer than `worker_seq`."""
        offset = 0
        with self._path.open("rb") as stream:
            for record in read(stream):
                if record.worker_seq > worker_seq:
                    break
                offset = record.end
        return offset

    def batch(self, offset: int, max_bytes: int) -> list[Record]:
        """Records from `offset` on, of about `max_bytes` together; at least one where there is one."""
        found: list[Record] = []
        size, end = 0, self._end
        if offset >= end:
            return found
        for record in read(self._reader, offset):
            found.append(record)
            size += len(record.body)
            if size >= max_bytes or record.end >= end:
                break
        return found

    def close(self) -> None:
        """Flush to disk and close; the reserve goes, the segment stays for the service."""
        with suppress(OSError):
            os.fsync(self._fd)
        os.close(self._fd)
        self._reader.close()
        self.release_reserve()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
