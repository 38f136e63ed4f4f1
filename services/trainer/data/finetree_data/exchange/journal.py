# SPDX-License-Identifier: Apache-2.0
"""The journal of an attempt's events: what the worker appends to and the service reads when the worker is dead.

Record: 4-byte little-endian length of the body, 4-byte little-endian CRC-32 of the body, body (a serialized
WorkerEvent). A reader stops at the first record that is cut off or damaged: that is where the writer was killed, and
nothing after it was complete.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from finetree_api.worker.v1 import worker_pb2
from google.protobuf.message import DecodeError

from finetree_data.confinement.own_files import open_own

FILE_NAME = "journal.bin"
"""Name of the journal in an attempt's folder."""
MAX_RECORD_BYTES = 16 * 1024 * 1024
"""Longest body that is read; no event is as large, so a longer one is damage."""
_HEADER = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class Record:
    """One event of a journal. `end` is the offset of the record that follows, in bytes from the file's beginning."""

    event: worker_pb2.WorkerEvent
    size: int
    """Bytes of its body."""
    end: int


def encode(event: worker_pb2.WorkerEvent) -> bytes:
    """Return the record that holds an event."""
    body = event.SerializeToString()
    return _HEADER.pack(len(body), zlib.crc32(body)) + body


def read(stream: BinaryIO, offset: int = 0) -> Iterator[Record]:
    """Yield the whole records from a record's offset on; end without an error at the first that is cut or damaged."""
    stream.seek(offset)
    while len(header := stream.read(_HEADER.size)) == _HEADER.size:
        length, checksum = _HEADER.unpack(header)
        # No body is empty: a run of zeros, left by a file system that lost power, is not a record.
        body = stream.read(length) if 0 < length <= MAX_RECORD_BYTES else b""
        if not body or len(body) < length or zlib.crc32(body) != checksum:
            return
        try:
            event = worker_pb2.WorkerEvent.FromString(body)
        except DecodeError:
            return
        offset += _HEADER.size + length
        yield Record(event, length, offset)


def events_after(folder: Path, worker_seq: int) -> list[worker_pb2.WorkerEvent]:
    """Read the events in an attempt's folder with numbers above `worker_seq`; none where there is no journal."""
    try:
        stream = open_own(folder / FILE_NAME)
    except OSError:
        return []
    with stream:
        return [record.event for record in read(stream) if record.event.worker_seq > worker_seq]
