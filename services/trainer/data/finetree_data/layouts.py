# SPDX-License-Identifier: Apache-2.0
"""From an object to a row, by the mapping of its columns."""

from typing import Any

from finetree_data.columns import Mapping, guess, has, listed, lookup
from finetree_data.faults import MixedError, RowError
from finetree_data.messages import conversation, sound, tools_of
from finetree_data.reading import Layout
from finetree_data.rows import Message, Row


def to_row(number: int, value: dict[str, Any], mapping: Mapping) -> Row:
    """The row. Raises RowError, MixedError for a row that has the columns of another layout."""
    if not any(has(value, path) for path in mapping.main):
        _refuse_other(value, mapping)
    if mapping.layout is Layout.TEXT:
        path = mapping.parts["text"]
        return Row(number, text=sound(lookup(value, path), path))
    if "turns" in mapping.parts:
        return _chat(number, value, mapping)
    return _pair(number, value, mapping)


def _refuse_other(value: dict[str, Any], mapping: Mapping) -> None:
    other = guess(value)
    if other is not None and other.layout is not mapping.layout:
        text = f"is of the format {other.layout.value}, the rows before it are {mapping.layout.value}"
        raise MixedError("", text)
    wanted = " and ".join(f'"{path}"' for path in mapping.main)
    raise RowError("", f"needs {wanted}; its columns are: {listed(value)}")


def _chat(number: int, value: dict[str, Any], mapping: Mapping) -> Row:
    path = mapping.parts["turns"]
    try:
        turns = conversation(lookup(value, path), path)
    except RowError as error:
        if "chosen" not in value:
            raise
        text = (
            f"{error.problem}; these are preference pairs, whose answers are beside it: write the chosen one behind it"
        )
        raise RowError(error.field, text) from None
    system = _optional(value, mapping, "system")
    if system and turns[0].role not in ("system", "developer"):
        turns = (Message("system", system), *turns)
    return Row(number, turns, tools=_tools(value, mapping))


def _pair(number: int, value: dict[str, Any], mapping: Mapping) -> Row:
    asked, answered = mapping.parts["prompt"], mapping.parts["completion"]
    prompt, completion = lookup(value, asked), lookup(value, answered)
    if isinstance(prompt, list) and isinstance(completion, list):  # TRL's conversational prompt and completion
        turns = conversation([*prompt, *completion], answered)
        return Row(number, turns, tools=_tools(value, mapping))
    about, system = _optional(value, mapping, "context"), _optional(value, mapping, "system")
    text = sound(prompt, asked, may_be_empty=mapping.layout is Layout.PROMPT_COMPLETION or bool(about))
    question = f"{text}\n\n{about}" if about else text
    turns = (Message("user", question), Message("assistant", sound(completion, answered)))
    return Row(number, (Message("system", system), *turns) if system else turns, tools=_tools(value, mapping))


def _optional(value: dict[str, Any], mapping: Mapping, part: str) -> str:
    path = mapping.parts.get(part, "")
    found = lookup(value, path) if path and has(value, path) else None
    text = "" if found is None else sound(found, path, may_be_empty=True)
    return text if text.strip() else ""


def _tools(value: dict[str, Any], mapping: Mapping) -> tuple[dict[str, Any], ...]:
    path = mapping.parts.get("tools", "")
    return tools_of(lookup(value, path), path) if path and has(value, path) else ()
