# SPDX-License-Identifier: Apache-2.0
"""Reads the events that a dead worker left in its segment and that never reached the log.

Record: 4-byte little-endian length, 4-byte little-endian CRC-32 of the body, body (a serialised WorkerEvent). The first
record that is cut off or damaged is where the worker was killed; nothing after it was complete.
"""

import struct
import zlib
from pathlib import Path

from finetree_api.trainer.v1 import worker_pb2
from google.protobuf.message import DecodeError

FILE_NAME = "segment.bin"
"""Name of the segment in a task's folder."""

MAX_RECORD_BYTES = 16 * 1024 * 1024
"""No event is as large; a length beyond it is damage."""

_HEADER = struct.Struct("<II")


def read(folder: Path, after: int) -> list[worker_pb2.WorkerEvent]:
    """Whole events of a task's folder with numbers above `after`, in order; none where there is no segment."""
    found: list[worker_pb2.WorkerEvent] = []
    try:
        stream = (folder / FILE_NAME).open("rb")
    except OSError:
        return found
    with stream:
        while len(header := stream.read(_HEADER.size)) == _HEADER.size:
            length, crc = _HEADER.unpack(header)
            body = stream.read(length) if length <= MAX_RECORD_BYTES else b""
            if len(body) != length or zlib.crc32(body) != crc:
                break
            try:
                event = worker_pb2.WorkerEvent.FromString(body)
            except DecodeError:
                break
            if event.worker_seq > after:
                found.append(event)
    return found
