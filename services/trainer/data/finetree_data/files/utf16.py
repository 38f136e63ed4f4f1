# SPDX-License-Identifier: Apache-2.0
"""Reads UTF-16 with a byte order mark as UTF-8: Excel's "Unicode Text" and tools of Windows write it."""

import codecs
import io

from finetree_data.errors import DatasetError

MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""Byte order marks of UTF-16; followed by two NUL bytes, the first one is UTF-32's."""

_PIECE = 256 * 1024
"""Bytes that are read at once: more than the head in which the format is detected (content.HEAD_BYTES)."""


def is_utf16(head: bytes) -> bool:
    """Return whether a file with these first bytes is UTF-16."""
    return head.startswith(MARKS) and not head.startswith(codecs.BOM_UTF32_LE)


class Utf16Reader(io.RawIOBase):
    """The UTF-8 bytes of a UTF-16 stream, a piece at a time.

    Reading raises DatasetError NOT_UTF8 where half of a character stands alone, or the last byte is missing.
    """

    def __init__(self, stream: io.BufferedReader) -> None:
        super().__init__()
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-16")()
        self._waiting, self._read, self._ended = b"", 0, False

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        """Read the next bytes into `buffer`; return how many, 0 at the end."""
        while not self._waiting and not self._ended:
            self._waiting = self._piece()
        piece, self._waiting = self._waiting[: len(buffer)], self._waiting[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)

    def _piece(self) -> bytes:
        data = self._stream.read(_PIECE)
        self._ended = not data
        try:
            text = self._decoder.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            raise DatasetError(
                "NOT_UTF8",
                f"The file is UTF-16 by its byte order mark, and broken near byte {self._read + error.start}.",
                remedy="Save it again, best as UTF-8.",
            ) from error
        self._read += len(data)
        return text.encode()
