# SPDX-License-Identifier: Apache-2.0
"""Objects of JSON documents of any size, read through a window."""

import codecs
import json
from collections.abc import Iterator
from typing import Any

from finetree_data.errors import DatasetError, RowError
from finetree_data.files.content import MAX_ROW_BYTES, Content
from finetree_data.files.json_lines import CHUNK, DECODER, LISTS, PYTHON, ROOTS, TASKS, Record, to_object

_SPACE = " \t\r\n"


def json_document(stream: Content) -> Iterator[Record]:
    """Yield the objects of an array, of an object's list (LISTS), or written one after another.

    Raises DatasetError MALFORMED_FILE where the document is broken: nothing after that place can be trusted.
    """
    text = _Text(stream)
    last = 0
    while char := text.peek():
        if char == "[":
            for place, record in _array(text, last):
                last = place
                yield place, record
        elif char == "{":
            found: dict[str, Any] = {}
            before = last
            for place, record in _object(text, last, found):
                last = place
                yield place, record
            if last == before and found:
                last += 1
                yield last, found
        else:
            raise text.broken(f"an array or an object is needed, {char!r} stands there", last + 1)


def _array(text: "_Text", number: int) -> Iterator[Record]:
    text.take("[")
    if text.peek() == "]":
        text.take("]")
        return
    while True:
        number += 1
        value = text.value(number)
        try:
            yield number, to_object(value, inside=True)
        except RowError as error:
            yield number, error
        if text.peek() == "]":
            text.take("]")
            return
        text.take(",", number)
        if text.peek() == "]":
            raise text.broken("a comma stands before the closing bracket", number)


def _object(text: "_Text", number: int, found: dict[str, Any]) -> Iterator[Record]:
    """Yield the rows of a list in the object; its other members go to `found`."""
    last = number
    text.take("{")
    begin = text.position
    while text.peek() != "}":
        if text.position - begin > MAX_ROW_BYTES:
            raise text.broken(f"an object is longer than {MAX_ROW_BYTES} characters, and no list of rows", last + 1)
        key = text.value(last + 1)
        if not isinstance(key, str):
            raise text.broken("a name in quotes is needed", last + 1)
        text.take(":", last + 1)
        is_rows = key in LISTS and not any(task in found for task in TASKS)
        if is_rows and text.peek() == "[" and text.peek(1) in ("{", "]"):
            for place, record in _array(text, last):
                last = place
                yield place, record
                begin = text.position  # rows are not kept
        elif key in ROOTS and text.peek() == "{":
            inner: dict[str, Any] = {}
            before = last
            for place, record in _object(text, last, inner):
                last = place
                yield place, record
            if last == before:
                found[key] = inner
            else:
                begin = text.position
        else:
            found[key] = text.value(last + 1)
        if text.peek() != "}":
            text.take(",", last + 1)
    text.take("}")


class _Text:
    """A JSON text of which only a window is in memory."""

    def __init__(self, stream: Content) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._window, self._at, self._ended = "", 0, False
        self._before = 0

    @property
    def position(self) -> int:
        """Number of characters that were consumed."""
        return self._before + self._at

    def peek(self, skip: int = 0) -> str:
        """Return the next character that is not white space, or with `skip` 1 the one after it; "" at the end."""
        at = self._at
        while True:
            while at < len(self._window) and self._window[at] in _SPACE:
                at += 1
            if at < len(self._window):
                if skip == 0:
                    return self._window[at]
                skip, at = 0, at + 1
            elif self._ended:
                return ""
            else:
                at -= self._at
                self._more()
                at += self._at

    def take(self, char: str, number: int = 0) -> None:
        """Consume `char`. Raises DatasetError where something else comes."""
        found = self.peek()
        if found != char:
            raise self.broken(
                f"{char!r} is needed, " + (f"{found!r} stands there" if found else "the file ends"), number
            )
        while self._window[self._at] in _SPACE:
            self._at += 1
        self._at += 1

    def value(self, number: int) -> Any:
        """Parse the next value. Raises DatasetError where there is none."""
        if not self.peek():
            raise self.broken("the file ends", number)
        while self._window[self._at] in _SPACE:
            self._at += 1
        while True:
            value, end = self._try_value(number)
            # A number at the window's end may go on beyond it.
            if end and (self._ended or end < len(self._window)):
                self._at = end
                return value
            if len(self._window) - self._at > MAX_ROW_BYTES:
                raise self.broken(f"it is broken, or longer than {MAX_ROW_BYTES} characters", number)
            self._more()

    def _try_value(self, number: int) -> tuple[Any, int]:
        """Parse a value; also return where it ends, 0 if that may be beyond the window."""
        try:
            return DECODER.raw_decode(self._window, self._at)
        except RecursionError:
            raise self.broken("it is nested too deeply", number) from None
        except json.JSONDecodeError as error:
            if self._ended:
                hint = PYTHON if self._window.startswith("{'", self._at) else ""
                raise self.broken(error.msg + hint, number) from None
            return None, 0
        except ValueError as error:
            raise self.broken("a number has too many digits", number) from error

    def _more(self) -> None:
        """Read as much again as is not consumed, so that a long value is not tried too often."""
        waiting = len(self._window) - self._at
        data = self._stream.read(max(CHUNK, waiting))
        self._ended = not data
        try:
            text = self._decoder.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise DatasetError(
                "NOT_UTF8",
                f"The file is not UTF-8: it holds the byte 0x{byte:02x} where no such byte may be.",
                remedy="Convert it, for example with iconv -f WINDOWS-1252 -t UTF-8.",
            ) from None
        self._before += self._at
        self._window, self._at = self._window[self._at :] + text, 0

    def broken(self, what: str, number: int) -> DatasetError:
        """Build the error for a document that is not JSON at this place."""
        return DatasetError(
            "MALFORMED_FILE",
            f"The file is not JSON: {what}.",
            remedy="Write an array of objects, or one JSON object a line.",
            row=number,
        )
