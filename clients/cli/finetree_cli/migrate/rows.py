# SPDX-License-Identifier: Apache-2.0
"""Rows of OpenAI's training files as the trainer reads them: what differs is converted, what cannot be is named."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHOWN = 5
"""Rows that a refusal names."""
MEDIA = {
    "image_url": "an image",
    "input_image": "an image",
    "image": "an image",
    "input_audio": "audio",
    "audio": "audio",
    "file": "a file",
    "input_file": "a file",
}
"""Parts of a content that are no text, by their type."""


@dataclass(slots=True)
class Conversion:
    """What became of a file's rows.

    Attributes:
        rows: how many there are.
        counts: rows by what was found in them: kept as it is, or converted.
        problems: what cannot be trained on, with its place, such as "line 3: messages[1].content[0] is an image".
    """

    rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """One line for each thing found, for people."""
        return [f"{NOTES[name]} ({count} of {self.rows} rows)" for name, count in sorted(self.counts.items())]

    def refusal(self) -> str:
        """Why the rows cannot be trained on, with the first places."""
        more = f", and {len(self.problems) - SHOWN} more" if len(self.problems) > SHOWN else ""
        return f"{'; '.join(self.problems[:SHOWN])}{more}"


NOTES = {
    "functions": "functions and function_call are read as tools",
    "parallel_tool_calls": "parallel_tool_calls left out: training does not depend on it",
    "refusal": "refusals written as the text of the answer",
    "tools": "tools and tool calls are kept, and rendered by the base model's chat template",
    "weight": "answers with weight 0 are context and not learned",
}
"""What is said of each thing found."""


def convert_file(source: Path, target: Path) -> Conversion:
    """Write a file's rows as the trainer reads them; rows with a problem are left out of the target."""
    found = Conversion()
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open(encoding="utf-8-sig") as lines, target.open("w", encoding="utf-8") as out:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            found.rows += 1
            problems = [f"line {number}: {text}" for text in _write(line, found.counts, out.write)]
            found.problems += problems
    return found


def _write(line: str, counts: Counter[str], write: Any) -> Iterator[str]:
    """Convert one line and write it; the problems are what is iterated over."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        yield f"not JSON: {error}"
        return
    if not isinstance(row, dict):
        yield "not a JSON object"
        return
    if "preferred_output" in row or "non_preferred_output" in row:
        yield "a preference pair, which needs DPO; it is not trained here"
        return
    problems = list(_problems(row))
    if problems:
        yield from problems
        return
    kinds = set(_convert(row))
    counts.update(kinds)
    write(json.dumps(row, ensure_ascii=False) + "\n")


def _problems(row: dict[str, Any]) -> Iterator[str]:
    for place, message in _messages(row):
        if message.get("audio"):
            yield f"{place}.audio is audio; only text is trained on"
        content = message.get("content")
        for index, part in enumerate(content if isinstance(content, list) else ()):
            kind = part.get("type") if isinstance(part, dict) else None
            if kind in MEDIA:
                yield f"{place}.content[{index}] is {MEDIA[kind]}; only text is trained on"


def _convert(row: dict[str, Any]) -> Iterator[str]:
    """Change a row in place; the kinds of what was found are what is iterated over."""
    if row.pop("parallel_tool_calls", None) is not None:
        yield "parallel_tool_calls"
    yield from (name for name in ("tools", "functions") if row.get(name))
    for _, message in _messages(row):
        if message.get("weight") == 0:
            yield "weight"
        if message.get("tool_calls"):
            yield "tools"
        if message.get("function_call"):
            yield "functions"
        if _convert_refusal(message):
            yield "refusal"


def _convert_refusal(message: dict[str, Any]) -> bool:
    refusal, content = message.pop("refusal", None), message.get("content")
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "refusal"]
        for part in parts:
            part["type"], part["text"] = "text", part.pop("refusal", "")
        return bool(parts)
    if refusal and not content:
        message["content"] = refusal
        return True
    return False


def _messages(row: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    messages = row.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, dict):
            yield f"messages[{index}]", message
