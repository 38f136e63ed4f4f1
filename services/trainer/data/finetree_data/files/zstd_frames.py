# SPDX-License-Identifier: Apache-2.0
"""Whether a zstd file is complete: the library takes one that is cut off for one that ends there.

The frames are followed by their headers alone (RFC 8878, section 3.1); nothing is decompressed.
"""

import os
from typing import BinaryIO

import zstandard

_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_LONGEST_HEADER = 18  # magic 4, descriptor 1, window 1, dictionary 4, content size 8
_RAW, _RLE, _COMPRESSED = 0, 1, 2


def is_whole(stream: BinaryIO) -> bool:
    """Return whether the frames end where the file ends; the position is set back to the beginning."""
    size = os.fstat(stream.fileno()).st_size
    position = 0
    while 0 <= position < size:
        position = _end_of_frame(stream, position)
    stream.seek(0)
    return position == size


def _end_of_frame(stream: BinaryIO, position: int) -> int:
    """Where the frame at `position` ends; -1 where there is no frame."""
    stream.seek(position)
    head = stream.read(_LONGEST_HEADER)
    if int.from_bytes(head[:4], "little") in _SKIPPABLE and len(head) >= 8:
        return position + 8 + int.from_bytes(head[4:8], "little")
    try:
        position += zstandard.frame_header_size(head)
        checksum = 4 if zstandard.get_frame_parameters(head).has_checksum else 0
    except zstandard.ZstdError:
        return -1
    last = False
    while not last:
        stream.seek(position)
        block = stream.read(3)
        value = int.from_bytes(block, "little")
        last, kind, length = bool(value & 1), value >> 1 & 3, value >> 3
        if len(block) < 3 or kind not in (_RAW, _RLE, _COMPRESSED):
            return -1
        position += 3 + (1 if kind == _RLE else length)
    return position + checksum
