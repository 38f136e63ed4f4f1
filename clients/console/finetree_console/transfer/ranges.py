# SPDX-License-Identifier: Apache-2.0
"""Parts of a file as HTTP names them (RFC 9110, section 14)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from finetree_console.errors import HttpError, invalid

_RANGE = re.compile(r"bytes\s*=\s*(\d{0,16})\s*-\s*(\d{0,16})\s*", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes\s+(\d{1,16})-(\d{1,16})/(\d{1,16}|\*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes from `start` up to `end`, which is not among them; `whole` where no part was asked for."""

    start: int
    end: int
    whole: bool


def requested(header: str | None, size: int) -> Part:
    """Read the Range header of a download.

    Several ranges at once, and what is no range of bytes, count as no header: the whole file is the answer.

    Raises:
        HttpError: RANGE_NOT_SATISFIABLE: it begins behind the end.
    """
    whole = Part(0, size, whole=True)
    found = _RANGE.fullmatch(header.strip()) if header else None
    if found is None or not (found[1] or found[2]):
        return whole
    if not found[1]:
        start, end = max(0, size - int(found[2])), size
    else:
        start, end = int(found[1]), min(size, int(found[2]) + 1) if found[2] else size
        if found[2] and int(found[2]) < start:
            return whole
    if start >= size or start >= end:
        raise HttpError(
            f"[range]: the file has {size} bytes, and none from {start} on",
            status=416,
            code="OUT_OF_RANGE",
            reason="RANGE_NOT_SATISFIABLE",
            metadata={"size_bytes": str(size)},
            headers={"Content-Range": f"bytes */{size}"},
        )
    return Part(start, end, whole=False)


def sent_from(header: str | None) -> int | None:
    """Read the offset in the Content-Range header of an upload, as `curl -C OFFSET -T FILE` sends it; None without one.

    Raises:
        HttpError: INVALID_REQUEST.
    """
    if header is None:
        return None
    found = _CONTENT_RANGE.fullmatch(header.strip())
    if found is None or int(found[2]) < int(found[1]):
        raise invalid("[content-range]", f"{header!r} is not of the form bytes FIRST-LAST/SIZE")
    return int(found[1])
