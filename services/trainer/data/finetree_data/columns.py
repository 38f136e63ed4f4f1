# SPDX-License-Identifier: Apache-2.0
"""Which column holds what: found under its usual names in the first sound row, or named by the user."""

import difflib
from dataclasses import dataclass, field
from typing import Any

from finetree_data.faults import DatasetError, RowError
from finetree_data.reading import Columns, Layout

CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns")
"""Usual names of a list of turns (OpenAI, ShareGPT, Capybara)."""

QUESTIONS = ("instruction", "prompt", "question", "query", "problem", "input")
"""Usual names of what is asked (Alpaca, Dolly; TRL; GSM8K, OpenOrca; MetaMath; MATH), the surest first."""

ANSWERS = ("completion", "output", "response", "answer", "solution")
"""Usual names of what is answered (TRL; Alpaca; Dolly, OpenOrca; GSM8K; MATH)."""

CONTEXTS = ("input", "context")
"""Usual names of what an instruction is about (Alpaca; Dolly)."""

SYSTEMS = ("system", "system_prompt")
"""Usual names of a system message (LLaMA-Factory; OpenOrca)."""

_ADVICE = (
    (("input_ids",), "it is tokenised already; give the text it was made of"),
    (("message_id", "parent_id"), "each row is one message of a tree; join the messages of a branch into one row"),
    (
        ("chosen", "rejected"),
        "it holds preference pairs; to learn the chosen answers, map columns.completion to chosen",
    ),
    (
        ("chosen_messages",),
        "it holds preference pairs; to learn the chosen answers, map columns.messages to chosen_messages",
    ),
    (("paragraphs",), "its answers are nested in paragraphs; write one question with its answer a row"),
    (("question", "answers"), "an answer is nested; map columns {prompt: question, completion: answers.text.0}"),
)
"""Known datasets that cannot be taken as they are, by columns that tell them, and what to do."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """Where the parts of a row are: turns; prompt, completion and context; or text. And system and tools."""

    layout: Layout
    parts: dict[str, str] = field(default_factory=dict)

    @property
    def main(self) -> tuple[str, ...]:
        """The columns that a row of this layout cannot do without."""
        return tuple(self.parts[part] for part in ("turns", "prompt", "completion", "text") if part in self.parts)


def mapping_for(value: dict[str, Any], layout: Layout | None, columns: Columns) -> Mapping:
    """How rows like this one are read.

    Raises DatasetError COLUMN_NOT_FOUND or COLUMNS_INCOMPLETE where what was named does not fit, RowError where
    nothing was named and nothing has a usual name.
    """
    named = columns.given()
    if not named and layout is None:
        found = guess(value)
        if found is None:
            raise RowError("", _unknown(value))
        return found
    for part, path in named.items():
        _require_column(value, part, path)
    return _parts(value, layout or _layout_of(named) or _guessed_layout(value), named)


def guess(value: dict[str, Any]) -> Mapping | None:
    """The mapping by usual names; None where there are none."""
    layout = _guess_layout(value)
    return None if layout is None else Mapping(layout, _usual(value, layout) | _beside(value))


def _guess_layout(value: dict[str, Any]) -> Layout | None:
    names = _by_lower(value)
    turns = _first(names, CONVERSATIONS)
    if turns or _is_strings(value.get("data")):
        return Layout.SHAREGPT if turns and _speaks_sharegpt(value[turns]) else Layout.CHAT
    asked, answered = _first(names, QUESTIONS), _first(names, ANSWERS)
    if asked and answered and asked != answered:
        return Layout.INSTRUCTION if asked.lower() == "instruction" else Layout.PROMPT_COMPLETION
    if "text" in names and not _told(value):
        return Layout.TEXT
    if ("prompt" in names or "completion" in names) and not _told(value):
        return Layout.PROMPT_COMPLETION
    return None


def _guessed_layout(value: dict[str, Any]) -> Layout:
    found = _guess_layout(value)
    if found is None:
        raise RowError("", _unknown(value))
    return found


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(item, str) for item in value)


def _speaks_sharegpt(turns: Any) -> bool:
    if isinstance(turns, list):
        return bool(turns) and isinstance(turns[0], dict) and "from" in turns[0] and "role" not in turns[0]
    return isinstance(turns, str) and '"from"' in turns[:200]


def _usual(value: dict[str, Any], layout: Layout) -> dict[str, str]:
    names = _by_lower(value)
    if layout in (Layout.CHAT, Layout.SHAREGPT):
        usual = _first(names, CONVERSATIONS) or ("data" if _is_strings(value.get("data")) else "messages")
        return {"turns": usual}
    if layout is Layout.TEXT:
        return {"text": names.get("text", "text")}
    asked = _first(names, QUESTIONS) or ("instruction" if layout is Layout.INSTRUCTION else "prompt")
    parts = {"prompt": asked, "completion": _first(names, ANSWERS) or "completion"}
    # "context" beside a question is what the question is about; "input" is, beside an instruction.
    contexts = CONTEXTS if layout is Layout.INSTRUCTION else ("context",)
    context = _first(names, contexts)
    return parts | ({"context": context} if context and context not in parts.values() else {})


def _beside(value: dict[str, Any]) -> dict[str, str]:
    names = _by_lower(value)
    found = {"system": _first(names, SYSTEMS), "tools": _first(names, ("tools", "functions"))}
    return {part: name for part, name in found.items() if name}


def _layout_of(named: dict[str, str]) -> Layout | None:
    if "messages" in named:
        return Layout.CHAT
    if "conversations" in named:
        return Layout.SHAREGPT
    if "text" in named:
        return Layout.TEXT
    if "instruction" in named:
        return Layout.INSTRUCTION
    return Layout.PROMPT_COMPLETION if {"prompt", "completion", "input", "output"} & set(named) else None


def _parts(value: dict[str, Any], layout: Layout, named: dict[str, str]) -> Mapping:
    parts = _usual(value, layout) | _beside(value)
    given = {
        "turns": named.get("messages") or named.get("conversations"),
        "prompt": named.get("instruction") or named.get("prompt"),
        "completion": named.get("output") or named.get("completion"),
        "text": named.get("text"),
        "system": named.get("system"),
        "tools": named.get("tools"),
    }
    if "input" in named:
        given["context" if given["prompt"] or layout is Layout.INSTRUCTION else "prompt"] = named["input"]
    mine = {part for part in parts if part in ("turns", "prompt", "completion", "text")}
    kept = {part: path for part, path in given.items() if path and part in mine | {"system", "tools", "context"}}
    parts |= kept
    if parts.get("context") in (parts.get("prompt"), parts.get("completion")):
        parts.pop("context", None)
    missing = next((part for part in sorted(mine) if not _present(value, parts[part])), "")
    if missing and named:
        raise DatasetError(
            "COLUMNS_INCOMPLETE",
            f"The columns that were named do not say where the {missing} is; the file has: {listed(value)}.",
            remedy=f"Name it in columns.{'messages' if missing == 'turns' else missing}.",
            field="columns",
        )
    return Mapping(layout, parts)


def _require_column(value: dict[str, Any], part: str, path: str) -> None:
    if _present(value, path):
        return
    near = difflib.get_close_matches(path, list(value), n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise DatasetError(
        "COLUMN_NOT_FOUND",
        f"There is no column {path[:60]!r} in the file; it has: {listed(value)}.{hint}",
        remedy="Column names are told apart by upper and lower case.",
        field=f"columns.{part}",
    )


def _present(value: dict[str, Any], path: str) -> bool:
    """Whether the column is there; what is nested in it may be missing in a row."""
    return path in value or path.partition(".")[0] in value


def _unknown(value: dict[str, Any]) -> str:
    text = (
        'needs "messages" or "conversations", "prompt" and "completion", "instruction" and "output", or "text"; '
        f"its columns are: {listed(value)}"
    )
    told = _told(value)
    return f"{text}: {told}" if told else f"{text}; name yours in columns, such as columns {{prompt: …, completion: …}}"


def _told(value: dict[str, Any]) -> str:
    return next((advice for columns, advice in _ADVICE if all(column in value for column in columns)), "")


def listed(value: dict[str, Any]) -> str:
    """The object's columns, for people."""
    return ", ".join(sorted(str(key) for key in value)[:12])[:200] or "none"


def _by_lower(value: dict[str, Any]) -> dict[str, str]:
    return {key.lower(): key for key in reversed(value)}


def _first(names: dict[str, str], wanted: tuple[str, ...]) -> str:
    return next((names[name] for name in wanted if name in names), "")


def has(value: Any, path: str) -> bool:
    """Whether there is anything at the path: a column's name, or names and list places joined by dots."""
    try:
        lookup(value, path)
    except RowError:
        return False
    return True


def lookup(value: Any, path: str) -> Any:
    """What is at the path. Raises RowError where nothing is."""
    if isinstance(value, dict) and path in value:
        return value[path]
    for name in path.split("."):
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and len(name) < 9 and int(name) < len(value):
            value = value[int(name)]
        else:
            raise RowError(path, "is missing")
    return value
