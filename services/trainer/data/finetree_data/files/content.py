# SPDX-License-Identifier: Apache-2.0
"""The bytes of a file: unpacked as they are read, within bounds, and looked at for what they are written in."""

import codecs
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from finetree_data.errors import DatasetError
from finetree_data.files.utf16 import Narrowed, is_wide
from finetree_data.files.zstd_frames import is_whole

MAX_ROW_BYTES = 16 * 1024 * 1024
"""Longest row. A longer line is a file without line breaks, not a row."""

MAX_RATIO = 200
"""Unpacked bytes for each packed one. Text packs to a fifth or a twentieth; gzip's bound is 1032 (zlib's manual,
"Technical details"), and only a file made to fill memory comes near it."""

FREE_BYTES = 64 * 1024 * 1024
"""Unpacked bytes that are read whatever the ratio: small files of equal rows pack very well."""

MAX_CONTENT_BYTES = 64 * 1024**3
"""Unpacked bytes of a packed file at most."""

HEAD_BYTES = 64 * 1024
"""Bytes in which the format is looked for."""

BUFFER_BYTES = 256 * 1024
"""Bytes that are read at once."""

GZIP, ZSTD, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
"""Magic bytes: RFC 1952 section 2.3.1, RFC 8878 section 3.1.1, and the Parquet format's "File format"."""

_OTHER_FILES = {
    b"PK\x03\x04": "a zip archive (or a spreadsheet); unpack it, or export the sheet as CSV",
    b"BZh": "packed with bzip2; pack it with gzip or zstd instead",
    b"\xfd7zXZ": "packed with xz; pack it with gzip or zstd instead",
    b"%PDF": "a PDF; extract its text first",
    b"SQLite format 3": "an SQLite database; export a table as CSV",
    b"ARROW1": "an Arrow file; write it as Parquet, as `to_parquet` of a data set does",
    b"\xff\xff\xff\xff": "an Arrow stream; write it as Parquet, as `to_parquet` of a data set does",
    b"\x80\x04\x95": "a Python pickle, which is never read; write JSONL or Parquet",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull`",
}
_UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


class Content:
    """The unpacked bytes of a file. `compression` is "", "gzip" or "zstd", `count` how many bytes were read so far."""

    def __init__(self, stream: io.BufferedReader, compression: str, raw: io.BufferedReader, size: int) -> None:
        self._stream, self._raw, self._size = stream, raw, size
        self.compression, self.count = compression, 0

    @property
    def fraction(self) -> float:
        """How much of the file was read, 0 to 1."""
        return 1.0 if self._raw.closed or not self._size else min(1.0, self._raw.tell() / self._size)

    def head(self) -> bytes:
        """The first bytes, which are read again later."""
        return self._stream.peek(HEAD_BYTES)[:HEAD_BYTES]

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end."""
        data = self._stream.read(size)
        self.count += len(data)
        return data

    def readline(self, size: int) -> bytes:
        """A line, or its first `size` bytes."""
        data = self._stream.readline(size)
        self.count += len(data)
        return data


@contextmanager
def opened(path: Path) -> Iterator[Content]:
    """The file's content, unpacked.

    Raises DatasetError DATASET_NOT_FOUND, and while it is read DATASET_UNREADABLE for damaged compressed data or
    DATASET_TOO_LARGE for one that unpacks to far more than it may.
    """
    try:
        raw = cast("io.BufferedReader", path.open("rb", buffering=BUFFER_BYTES))
    except OSError as error:
        raise DatasetError("DATASET_NOT_FOUND", "The dataset's file cannot be read.") from error
    with raw:
        magic = raw.peek(4)[:4]
        size = os.fstat(raw.fileno()).st_size
        if magic[:2] == GZIP:
            unpacked = _Unpacked(cast("BinaryIO", gzip.GzipFile(fileobj=raw)), size, "gzip")
            yield _content(io.BufferedReader(unpacked, BUFFER_BYTES), "gzip", raw, size)
        elif magic == ZSTD:
            if not is_whole(raw):
                raise damaged("zstd", 0)
            # Frames may ask for a window of gigabytes; 128 MiB is what `zstd --ultra` writes without --long.
            unpacker = zstandard.ZstdDecompressor(max_window_size=128 * 1024 * 1024)
            stream = unpacker.stream_reader(raw, read_across_frames=True, closefd=False)
            yield _content(io.BufferedReader(_Unpacked(stream, size, "zstd"), BUFFER_BYTES), "zstd", raw, size)
        else:
            yield _content(raw, "", raw, size)


def _content(stream: io.BufferedReader, compression: str, raw: io.BufferedReader, size: int) -> Content:
    if is_wide(stream.peek(4)[:4]):
        stream = io.BufferedReader(Narrowed(stream), BUFFER_BYTES)
    return Content(stream, compression, raw, size)


class _Unpacked(io.RawIOBase):
    """Reads from an unpacker and stops it where more comes out than may."""

    def __init__(self, stream: BinaryIO, packed: int, name: str) -> None:
        super().__init__()
        self._stream, self._name = stream, name
        self._limit = min(max(FREE_BYTES, MAX_RATIO * packed), MAX_CONTENT_BYTES)
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        try:
            data = self._stream.read(len(buffer))
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise damaged(self._name, self._read) from error
        self._read += len(data)
        if self._read > self._limit:
            text = f"It unpacks to more than {self._limit} bytes, {MAX_RATIO} times what it has packed."
            raise DatasetError("DATASET_TOO_LARGE", text, remedy="Send it unpacked if it really is that repetitive.")
        buffer[: len(data)] = data
        return len(data)


def damaged(name: str, unpacked: int) -> DatasetError:
    """The error for compressed data that does not open; `unpacked` bytes came out of it before."""
    where = f" after {unpacked} unpacked bytes" if unpacked else ""
    text = f"Its {name} data is damaged or cut off{where}."
    return DatasetError("DATASET_UNREADABLE", text, remedy="Pack the file again and send it whole.")


def require_text(head: bytes) -> None:
    """Refuse what is no UTF-8 text by its first bytes. Raises DatasetError UNSUPPORTED_FILE or NOT_UTF8."""
    for magic, what in _OTHER_FILES.items():
        if head.startswith(magic):
            raise DatasetError("UNSUPPORTED_FILE", f"The file is {what.partition(';')[0]}.", remedy=_advice(what))
    if head[257:262] == b"ustar":
        raise DatasetError("UNSUPPORTED_FILE", "The file is a tar archive.", remedy="Unpack it.")
    if head.startswith(_UTF32):
        raise _not_utf8("The file is UTF-32 by its byte order mark")
    if b"\x00" in head:
        # Of UTF-16, the letters of Latin text have a zero byte each, always at the same side.
        zeros = sorted((head[::2].count(0), head[1::2].count(0)))
        is_wide_text = zeros[0] * 20 < zeros[1] and zeros[1] * 5 > len(head)
        what = "looks like UTF-16 without a byte order mark" if is_wide_text else "holds NUL bytes, so it is no text"
        raise _not_utf8(f"The file {what}")


def _advice(what: str) -> str:
    advice = what.partition("; ")[2]
    return advice[:1].upper() + advice[1:] + "."


def _not_utf8(what: str) -> DatasetError:
    text = f"{what}; UTF-8 is read, and UTF-16 with a byte order mark."
    return DatasetError("NOT_UTF8", text, remedy="Save it as UTF-8, for example with iconv.")


def decode(data: bytes, *, first: bool = False) -> str:
    """UTF-8, with a byte order mark left out where it begins the file. Raises ValueError that names the byte."""
    try:
        return data.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(undecodable(data[error.start], error.start)) from None


def undecodable(byte: int, position: int) -> str:
    """What to say of a byte that is no UTF-8."""
    text = f"is not UTF-8 at byte {position} (0x{byte:02x})"
    return text + ("; Latin-1 and Windows-1252 files have such bytes: convert it with iconv" if byte >= 0x80 else "")
