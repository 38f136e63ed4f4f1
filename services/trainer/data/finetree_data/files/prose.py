# SPDX-License-Identifier: Apache-2.0
"""Rows of plain text: its lines, or its paragraphs where the lines are wrapped to a width."""

from collections.abc import Iterator
from itertools import pairwise

from finetree_data.errors import RowError
from finetree_data.files.content import MAX_ROW_BYTES, Content, decode
from finetree_data.files.json_lines import Record, lines

WIDEST = 200
"""Longest line of wrapped prose in characters: editors wrap at 60 to 120, Project Gutenberg's books at 75."""
BREAKS = 5
"""Line breaks inside paragraphs that are needed to tell; fewer may be chance."""
NEARLY = 0.93
"""Share of the width that a line with the next word must exceed: some lines are longer than an editor's width."""
WRAPPED_SHARE = 0.85
"""Share of the line breaks inside paragraphs behind which the next word would not have fitted into the line."""


def width_of(head: str) -> int:
    """Return the width in characters that the lines of a text are wrapped to; 0 for lines that end anywhere.

    A line is wrapped where the next word would make it too long. Lines that are documents or sentences of their own
    end anywhere.
    """
    written = [line.rstrip() for line in head.splitlines()[:-1] if not line.lstrip().startswith(("#", "|", "```"))]
    # Headings and last lines of a paragraph are shorter; nothing is longer than the width.
    width = max(map(len, written), default=0)
    breaks = [(one, other) for one, other in pairwise(written) if one and other]
    if width > WIDEST or len(breaks) < BREAKS or len(breaks) * 4 < sum(map(bool, written)):
        return 0
    full = sum(_is_full(one, other, width) for one, other in breaks)
    wrapped = full >= WRAPPED_SHARE * len(breaks) and sum(" " in one for one, _ in breaks) > len(breaks) // 2
    return width if wrapped else 0


def _is_full(line: str, following: str, width: int) -> bool:
    """Return whether the next line's first word would not have fitted into a line."""
    return len(line) + 1 + len(following.split(None, 1)[0]) > NEARLY * width


def text_lines(stream: Content) -> Iterator[Record]:
    """Yield the lines of plain text that are not blank: as Hugging Face's "text" loader, each one is a row."""
    for number, line in lines(stream):
        try:
            yield number, {"text": _line(line, number)}
        except RowError as error:
            yield number, error


def paragraphs(stream: Content, width: int) -> Iterator[Record]:
    """Yield the paragraphs of a text that is wrapped to a width; a row's number is that of its first line.

    Lines are joined by spaces where they are full; others, of verse, lists and code, keep their breaks.
    """
    first, parts, size, last, before = 0, list[str](), 0, 0, ""
    for number, line in lines(stream):
        if parts and number != last + 1:
            yield first, {"text": "".join(parts)}
            parts, size = [], 0
        last = number
        try:
            text = _line(line, number).rstrip()
        except RowError as error:
            yield number, error
            continue
        if parts:
            parts.append(" " + text.lstrip() if _is_full(before, text, width) else "\n" + text)
        else:
            first, parts = number, [text]
        before = text
        size += len(line)
        if size > MAX_ROW_BYTES:
            yield first, RowError("text", f"is a paragraph of more than {MAX_ROW_BYTES} bytes")
            parts, size = [], 0
    if parts:
        yield first, {"text": "".join(parts)}


def _line(line: bytes, number: int) -> str:
    """Return a line's text. Raises RowError."""
    if len(line) > MAX_ROW_BYTES:
        raise RowError("text", f"is a line of more than {MAX_ROW_BYTES} bytes")
    if b"\x00" in line:
        raise RowError("text", "has a NUL byte, which no text has")
    try:
        return decode(line, first=number == 1).rstrip("\r\n")
    except ValueError as error:
        raise RowError("text", str(error)) from None
