# SPDX-License-Identifier: Apache-2.0
"""The content of a file: decompressed as it is read, within bounds, and refused where it is not text."""

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
from finetree_data.files.utf16 import Utf16Reader, is_utf16
from finetree_data.files.zstd_frames import is_whole

MAX_ROW_BYTES = 16 * 1024 * 1024
"""Longest row in bytes. A longer line is a file without line breaks, not a row."""

MAX_RATIO = 200
"""Most decompressed bytes per compressed byte. Text compresses to a fifth or a twentieth; gzip's bound is 1032 (zlib's
manual, "Technical details"), and only a file made to fill memory comes near it."""

FREE_BYTES = 64 * 1024 * 1024
"""Decompressed bytes that are read whatever the ratio: small files of equal rows compress very well."""

MAX_CONTENT_BYTES = 64 * 1024**3
"""Most decompressed bytes of a compressed file."""

HEAD_BYTES = 64 * 1024
"""Bytes in which the format is detected."""

BUFFER_BYTES = 256 * 1024
"""Bytes that are read at once."""

GZIP, ZSTD, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
"""Magic bytes: RFC 1952 section 2.3.1, RFC 8878 section 3.1.1, and the Parquet format's "File format"."""

_OTHER_FILES = {
    b"PK\x03\x04": "a zip archive (or a spreadsheet); extract it, or export the sheet as CSV",
    b"BZh": "compressed with bzip2; compress it with gzip or zstd instead",
    b"\xfd7zXZ": "compressed with xz; compress it with gzip or zstd instead",
    b"%PDF": "a PDF; extract its text first",
    b"SQLite format 3": "an SQLite database; export a table as CSV",
    b"ARROW1": "an Arrow file; write it as Parquet, as `Dataset.to_parquet` does",
    b"\xff\xff\xff\xff": "an Arrow stream; write it as Parquet, as `Dataset.to_parquet` does",
    b"\x80\x04\x95": "a Python pickle, which is never read; write JSONL or Parquet",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull`",
}
_UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


class Content:
    """The decompressed bytes of a file. `compression` is "", "gzip" or "zstd", `count` the bytes read so far."""

    def __init__(self, stream: io.BufferedReader, raw: io.BufferedReader, *, compression: str, size: int) -> None:
        self._stream, self._raw, self._size = stream, raw, size
        self.compression, self.count = compression, 0

    @property
    def fraction(self) -> float:
        """Share of the file's bytes that were read, 0 to 1."""
        return 1.0 if self._raw.closed or not self._size else min(1.0, self._raw.tell() / self._size)

    def head(self) -> bytes:
        """Return the first bytes without moving on."""
        return self._stream.peek(HEAD_BYTES)[:HEAD_BYTES]

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes; none at the end."""
        data = self._stream.read(size)
        self.count += len(data)
        return data

    def readline(self, size: int) -> bytes:
        """Read a line, or its first `size` bytes."""
        data = self._stream.readline(size)
        self.count += len(data)
        return data


@contextmanager
def open_content(path: Path) -> Iterator[Content]:
    """Open a file's content, decompressed.

    Raises DatasetError DATASET_NOT_FOUND, and while it is read DATASET_UNREADABLE for damaged compressed data or
    DATASET_TOO_LARGE where far more comes out than may.
    """
    try:
        raw = cast("io.BufferedReader", path.open("rb", buffering=BUFFER_BYTES))
    except OSError as error:
        raise DatasetError("DATASET_NOT_FOUND", "The dataset's file cannot be read.") from error
    with raw:
        magic = raw.peek(4)[:4]
        size = os.fstat(raw.fileno()).st_size
        if magic[:2] == GZIP:
            stream = _Decompressed(cast("BinaryIO", gzip.GzipFile(fileobj=raw)), size, "gzip")
            yield _content(io.BufferedReader(stream, BUFFER_BYTES), raw, compression="gzip", size=size)
        elif magic == ZSTD:
            if not is_whole(raw):
                raise damaged("zstd", 0)
            # Frames may ask for a window of gigabytes; 128 MiB is what `zstd --ultra` writes without --long.
            decompressor = zstandard.ZstdDecompressor(max_window_size=128 * 1024 * 1024)
            frames = decompressor.stream_reader(raw, read_across_frames=True, closefd=False)
            stream = _Decompressed(frames, size, "zstd")
            yield _content(io.BufferedReader(stream, BUFFER_BYTES), raw, compression="zstd", size=size)
        else:
            yield _content(raw, raw, compression="", size=size)


def _content(stream: io.BufferedReader, raw: io.BufferedReader, *, compression: str, size: int) -> Content:
    if is_utf16(stream.peek(4)[:4]):
        stream = io.BufferedReader(Utf16Reader(stream), BUFFER_BYTES)
    return Content(stream, raw, compression=compression, size=size)


class _Decompressed(io.RawIOBase):
    """Reads from a decompressor and stops it where more comes out than may."""

    def __init__(self, stream: BinaryIO, compressed: int, name: str) -> None:
        super().__init__()
        self._stream, self._name = stream, name
        self._limit = min(max(FREE_BYTES, MAX_RATIO * compressed), MAX_CONTENT_BYTES)
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
            text = f"It decompresses to more than {self._limit} bytes, {MAX_RATIO} times its compressed size."
            raise DatasetError(
                "DATASET_TOO_LARGE", text, remedy="Send it uncompressed if it really is that repetitive."
            )
        buffer[: len(data)] = data
        return len(data)


def damaged(name: str, decompressed: int) -> DatasetError:
    """Build the error for damaged compressed data; `decompressed` bytes came out of it before."""
    where = f" after {decompressed} decompressed bytes" if decompressed else ""
    text = f"Its {name} data is damaged or cut off{where}."
    return DatasetError("DATASET_UNREADABLE", text, remedy="Compress the file again and send it whole.")


def require_text_file(head: bytes) -> None:
    """Raise DatasetError UNSUPPORTED_FILE or NOT_UTF8 unless the first bytes are those of a text file."""
    for magic, what in _OTHER_FILES.items():
        if head.startswith(magic):
            raise DatasetError("UNSUPPORTED_FILE", f"The file is {what.partition(';')[0]}.", remedy=_advice(what))
    if head[257:262] == b"ustar":
        raise DatasetError("UNSUPPORTED_FILE", "The file is a tar archive.", remedy="Extract it.")
    if head.startswith(_UTF32):
        raise _not_utf8("The file is UTF-32 by its byte order mark")
    if b"\x00" in head:
        # In UTF-16 each Latin letter has a zero byte, always on the same side.
        zeros = sorted((head[::2].count(0), head[1::2].count(0)))
        is_wide_text = zeros[0] * 20 < zeros[1] and zeros[1] * 5 > len(head)
        what = "looks like UTF-16 without a byte order mark" if is_wide_text else "has NUL bytes, so it is not text"
        raise _not_utf8(f"The file {what}")


def _advice(what: str) -> str:
    advice = what.partition("; ")[2]
    return advice[:1].upper() + advice[1:] + "."


def _not_utf8(what: str) -> DatasetError:
    text = f"{what}; only UTF-8, and UTF-16 with a byte order mark, can be read."
    return DatasetError("NOT_UTF8", text, remedy="Save it as UTF-8, for example with iconv.")


def decode(data: bytes, *, first: bool = False) -> str:
    """Decode UTF-8, without the byte order mark of a file's `first` line. Raises ValueError that names the byte."""
    try:
        return data.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(undecodable(data[error.start], error.start)) from None


def undecodable(byte: int, position: int) -> str:
    """Describe a byte that is not UTF-8."""
    text = f"is not UTF-8 at byte {position} (0x{byte:02x})"
    return text + ("; Latin-1 and Windows-1252 files have such bytes: convert it with iconv" if byte >= 0x80 else "")
