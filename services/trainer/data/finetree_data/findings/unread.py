# SPDX-License-Identifier: Apache-2.0
"""What a column that is not read holds, over all rows: bounded work for each value, bounded memory for a column."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from finetree_data.errors import encodable
from finetree_data.findings.finding import Severity, UnreadColumn

HEAD = 240
"""Characters of a value in which words are counted."""
WORDS, LETTERED = 5, 4
"""Words, and those of them with letters, that make a value free text: labels, names and most titles have fewer."""
NEEDED_CHARACTERS = 20
"""Mean length in characters from which a column is text whose name says that it is needed: it may be all numbers."""
CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
CJK_CHARACTERS = 10
"""Chinese or Japanese characters that make a value free text: they have no spaces between words."""
DISTINCT = 33
"""Distinct values that are told apart; a column with that many has no categories."""
CATEGORY_CHARACTERS = 80
"""Mean length in characters up to which repeated values are categories. Longer ones are templates or definitions."""
LONG_CHARACTERS = 200
"""Mean length in characters from which a text is not taken for metadata, whatever its column is called."""
LEAVES = 32
"""Texts of a nested value that are looked at."""
COMPARED = 2_000
"""Longest text in characters that is looked up in what is read."""
DOUBTS = 16
"""Rows in which a text is not found in what is read, after which it is looked up no more."""
TEXT_SHARE = 0.2
"""Share of a column's values that must be free text for it to be a column of text: a few names are long."""
REPEATED_SHARE = 0.9
"""Share of the texts looked up that must be found for a column to repeat what is read."""
LONGER_ANSWERS = 3.0
"""How many times as long as the answers that are learned a model's may be: longer ones have what those leave out."""
SURE = 200
"""Texts in a column after which its values are told from others by their lengths alone."""
EXAMPLE = 120
"""Longest example in characters."""

_LETTERS = re.compile(r"[^\W\d_]{2}")
_METADATA = re.compile(
    r"(?:^|[\W_])(?:id|ids|uid|uuid|guid|idx|index|key|hash|sha\d*|md5|url|urls|uri|link|links|href|doi|date|time|"
    r"timestamp|created|updated|lang|langs|language|languages|locale|license|licence|copyright|source|sources|origin|"
    r"dataset|datasets|datasplit|subset|split|version|path|file|filename|fname|author|authors|model|generator|"
    r"annotator|worker|country|region|city|email|tag|tags|topics?|type|category|level|grade|domain|name|status)$"
)
_ALWAYS_METADATA = re.compile(r"(?:^|[\W_])(?:meta|metadata|info|extra_info|provenance)$")
_WORSE = re.compile(r"reject|dispreferred|non_preferred|\blos(?:er|ing)\b|worse")
_OF_A_MODEL = re.compile(r"predict|(?:^|[\W_])pred(?:$|[\W_])|model.*(?:response|answer|output)|generated")
_TITLE = re.compile(r"(?:^|[\W_])(?:title|headline|subject)$")
_DERIVED = re.compile(
    r"[\W_](?:html|raw|md|markdown|toks?|tokens|tokenized|cleaned|normalized|no_value)$"
    r"|^(?:original|raw)_(?:question|problem|prompt|query|instruction|answer|solution|response|output)$"
)
_NEEDED = re.compile(
    r"(?:^|[\W_])(?:definition|instructions?|system|schema|context|passage|body|rationale|cot|chain_of_thought|"
    r"reasoning|thoughts?|thinking|explanation|steps|solution|derivation)(?:$|[\W_])|^(?:tables?|triples?|facts?)$"
)
_RATINGS = re.compile(r"score|rating|reward|rank|stars|quality|votes?|likes|temperature|tokens|length|count|price|cost")


NUMBERS, SHORT = "numbers", "short values"


@dataclass(frozen=True, slots=True)
class Beside:
    """What is read beside a column, of a file with so many rows.

    `answers` is the mean length of the answers in characters. Of `whole` rows, conversations and texts, a title is
    metadata; a prompt may be about it. `prompts` is the number of different prompts where each comes with several
    answers, 0 where the prompts tell the rows apart.
    """

    rows: int
    answers: float = 0.0
    whole: bool = False
    prompts: int = 0


class UnreadValues:
    """Counts of one column, `late` if the first row lacks it."""

    def __init__(self, name: str, *, late: bool = False) -> None:
        self.name, self.late = name, late
        self.rows = self.characters = self.longest = 0
        self.text_rows = self.numbers = self.compared = self.found = 0
        self.lowest = self.highest = 0.0
        self.example = ""
        self.nested = self.listed = False
        self._distinct: set[int] = set()

    def add(self, value: Any, read: Sequence[str]) -> None:
        """Count a value; `read` are the texts of its row that are read."""
        if value is None or value in ("", [], {}):
            return
        self.rows += 1
        if isinstance(value, str):
            text = value
            if len(text) < 9 and text.strip().removeprefix("-").replace(".", "", 1).isdecimal():
                self._number(float(text))
        elif isinstance(value, bool | int | float):
            self._number(float(value))
            text = str(value)
        else:
            self.listed = self.listed or isinstance(value, list)
            self.nested = self.nested or not (isinstance(value, list) and all(isinstance(item, str) for item in value))
            text = longest_leaf(value)
        self.characters += len(text)
        self.longest = max(self.longest, len(text))
        if len(self._distinct) < DISTINCT:
            self._distinct.add(hash(text))
        if self.text_rows >= SURE:
            self.text_rows += len(text) >= NEEDED_CHARACTERS
        elif is_free_text(text):
            self._text(text, read)
        elif not self.example:
            self.example = text[: 4 * EXAMPLE]

    def _number(self, value: float) -> None:
        self.lowest = value if not self.numbers else min(self.lowest, value)
        self.highest = value if not self.numbers else max(self.highest, value)
        self.numbers += 1

    def _text(self, text: str, read: Sequence[str]) -> None:
        if not self.text_rows:
            self.example = text[: 4 * EXAMPLE]
        self.text_rows += 1
        if self.compared - self.found < DOUBTS:
            self.compared += 1
            self.found += repeats(text[:COMPARED], read)

    def summary(self, beside: "Beside") -> UnreadColumn:
        """Describe the column, beside what is read of the rows."""
        severity, kind = self._judge(beside)
        return UnreadColumn(
            name=encodable(self.name[:256]),
            severity=severity,
            kind=kind,
            rows=self.rows,
            share=self.rows / beside.rows,
            mean=round(self.characters / self.rows),
            longest=self.longest,
            example=one_line(self.example),
        )

    def _judge(self, beside: "Beside") -> tuple[Severity, str]:
        """Return how grave it is to leave the column out, and what it holds."""
        note = self._harmless(beside)
        if note in (NUMBERS, SHORT) and self._tells_apart(beside):
            return Severity.ERROR, "what rows of one prompt differ by"
        if note:
            return Severity.NOTE, note
        if self._repeats and not _NEEDED.search(self.name.lower()):
            return Severity.WARNING, f"{len(self._distinct)} different texts" if len(self._distinct) > 1 else "one text"
        return Severity.ERROR, "text"

    @property
    def _repeats(self) -> bool:
        """Whether the same few values come again and again."""
        return len(self._distinct) < DISTINCT and len(self._distinct) * 4 <= self.rows

    def _tells_apart(self, beside: "Beside") -> bool:
        """Whether rows with the same prompt and other answers have other values here: the prompt cannot do without."""
        if not beside.prompts or len(self._distinct) < min(DISTINCT, 2 * beside.prompts):
            return False
        name = self.name.lower()
        named = _METADATA.search(name) or _ALWAYS_METADATA.search(name) or _RATINGS.search(name)
        # Of several answers to each of some questions, numbers are counts and temperatures.
        return not named and (self.numbers < self.rows or beside.prompts == 1)

    def _harmless(self, beside: "Beside") -> str:
        """Return what the column holds where it may be left out; "" where it may not."""
        name, mean = self.name.lower(), self.characters / self.rows
        needed = _NEEDED.search(name)
        long_enough = min(NEEDED_CHARACTERS, beside.answers + 1)
        is_short = self.text_rows < TEXT_SHARE * self.rows and not (needed and (self.nested or mean >= long_enough))
        about = _METADATA.search(name) or (beside.whole and _TITLE.search(name))
        kinds = (
            ("the worse answers", _WORSE.search(name)),
            (NUMBERS, self.numbers == self.rows),
            (SHORT, is_short),
            ("metadata", _ALWAYS_METADATA.search(name) or (about and mean < LONG_CHARACTERS)),
            ("text that is read elsewhere", self.compared and self.found >= REPEATED_SHARE * self.compared),
            ("another form of a text", _DERIVED.search(name)),
            ("answers of a model", _OF_A_MODEL.search(name) and mean <= LONGER_ANSWERS * beside.answers),
            ("categories", self._repeats and mean <= CATEGORY_CHARACTERS and not needed),
        )
        return next((kind for kind, holds in kinds if holds), "")


def is_free_text(text: str) -> bool:
    """Return whether a value is text for people, and no identifier, number, date, address or short label."""
    if len(text) < CJK_CHARACTERS:
        return False
    head = text[:HEAD]
    parts = head.split(None, 24)
    if len(parts) >= WORDS and sum(_LETTERS.search(part) is not None for part in parts) >= LETTERED:
        return True
    return not head.isascii() and len(CJK.findall(head)) >= CJK_CHARACTERS


def repeats(text: str, read: Iterable[str]) -> bool:
    """Return whether a text is in what is read, or all that is read is in it."""
    read = [part for part in read if part]
    bare = text.strip()
    return any(bare in part for part in read) or (bool(read) and all(part.strip() in text for part in read))


def longest_leaf(value: Any) -> str:
    """Return the longest of the first LEAVES texts of a nested value; "" where it has none."""
    longest, waiting, seen = "", [value], 0
    while waiting and seen < LEAVES:
        item = waiting.pop()
        seen += 1
        if isinstance(item, str):
            longest = item if len(item) > len(longest) else longest
        elif isinstance(item, dict):
            waiting.extend(list(item.values())[:LEAVES])
        elif isinstance(item, list):
            waiting.extend(item[:LEAVES])
    return longest


def one_line(text: str) -> str:
    """Return a text cut to EXAMPLE characters, on one line, without control characters."""
    line = "".join(char if char.isprintable() else " " for char in " ".join(text.split()))
    return line if len(line) <= EXAMPLE else line[: EXAMPLE - 1] + "…"
