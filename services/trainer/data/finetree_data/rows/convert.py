# SPDX-License-Identifier: Apache-2.0
"""From an object to a row, by the mapping of its columns."""

import json
import math
from typing import Any

from finetree_data.columns.detection import guess
from finetree_data.columns.mapping import Mapping, has, listed, lookup, optional
from finetree_data.errors import EmptyError, MarkedError, MixedError, RowError
from finetree_data.options import Layout
from finetree_data.rows.content_parts import said
from finetree_data.rows.messages import SPEAKERS, conversation, transcript, turns_of
from finetree_data.rows.row import Message, Row
from finetree_data.rows.text import sound
from finetree_data.rows.tool_calls import calls_in, tools_of

MEDIA = frozenset(
    f"{kind}{more}"
    for kind in ("image", "video", "audio", "img")
    for more in ("", "s", "_path", "_paths", "_url", "_file")
)
"""Columns of what is no text. A row that has any is refused, since its text was written to go with it."""


def to_row(number: int, value: dict[str, Any], mapping: Mapping) -> Row:
    """The row. Raises RowError, MixedError for a row that has the columns of another layout."""
    if not any(has(value, path) for path in mapping.main):
        _refuse_other(value, mapping)
    if not mapping.named:
        _refuse_media(value, mapping)
    verdict = mapping.parts.get("verdict", "")
    if verdict and value.get(verdict) is False:
        raise MarkedError(verdict, "is false: the file marks this as a bad answer")
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


def _refuse_media(value: dict[str, Any], mapping: Mapping) -> None:
    if MEDIA.isdisjoint(value):
        return
    for name, medium in value.items():
        if name in MEDIA and medium:
            named = {"turns": "messages", "context": "input"}
            said_so = ", ".join(
                f"{named.get(part, part)}: {path}" for part, path in mapping.parts.items() if has(value, path)
            )
            text = f"is no text, and only text is trained on; to learn the rest alone, map columns {{{said_so}}}"
            raise RowError(name, text)


def _chat(number: int, value: dict[str, Any], mapping: Mapping) -> Row:
    path, better = mapping.parts["turns"], mapping.parts.get("chosen", "")
    found = lookup(value, path)
    if isinstance(found, str) and not found.lstrip().startswith("["):
        turns = transcript(found, path)
        if not turns:
            turns_of(found, path)  # says what is wrong with it
    else:
        turns = turns_of(found, path)
    # Files of preference pairs may repeat the chosen answer behind the turns.
    if better and turns[-1].role != "assistant" and optional(value, better) is not None:
        turns = (*turns, *_answer(optional(value, better), better))
    if not any(turn.role == "assistant" and turn.learned for turn in turns):
        raise EmptyError(path, "have no assistant message, so there is nothing to learn")
    system = _system(value, mapping)
    if system and turns[0].role not in ("system", "developer"):
        turns = (Message("system", system), *turns)
    return Row(number, turns, tools=_tools(value, mapping))


def _answer(value: Any, path: str) -> tuple[Message, ...]:
    """An answer: its words, one message, or messages; or xLAM's, calls as JSON text."""
    if path.lower() == "answers" and isinstance(value, str) and value.lstrip().startswith("[{"):
        return (Message("assistant", "", tool_calls=calls_in(value, path)),)
    if isinstance(value, dict) and any(isinstance(value.get(name), str) for name in SPEAKERS):
        value = [value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        # A table's cell with a number is a text, so is a number; NaN and Infinity stand for nothing, as in a JSON file.
        value = json.dumps(value) if math.isfinite(value) else None
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        return conversation(value, path)
    return (Message("assistant", sound(value, path)),)


def _pair(number: int, value: dict[str, Any], mapping: Mapping) -> Row:
    asked, answered = mapping.parts["prompt"], mapping.parts["completion"]
    prompt, completion = lookup(value, asked), lookup(value, answered)
    if (asked, answered) == ("input", "output") and _are_texts(prompt) and _are_texts(completion):
        # Chinese-Vicuna's: a talk's questions, and their answers. Under other names they are columns of a table.
        if len(prompt) != len(completion):
            raise RowError(answered, f"has {len(completion)} answers to {len(prompt)} questions")
        turns = conversation([list(pair) for pair in zip(prompt, completion, strict=True)], answered)
    else:
        answer = _answer(completion, answered)
        whole = answer[0].role != "assistant"  # of a preference pair, the question is in it
        turns = answer if whole else (*_question(value, prompt, mapping), *answer)
    system = _system(value, mapping)
    if system and turns[0].role not in ("system", "developer"):
        turns = (Message("system", system), *turns)
    return Row(number, turns, tools=_tools(value, mapping))


def _question(value: dict[str, Any], prompt: Any, mapping: Mapping) -> tuple[Message, ...]:
    path = mapping.parts["prompt"]
    if isinstance(prompt, list):  # TRL's conversational prompt
        return turns_of(prompt, path)
    about, earlier = _words(value, mapping, "context"), mapping.parts.get("history", "")
    text = sound(prompt, path, may_be_empty=mapping.layout is Layout.PROMPT_COMPLETION or bool(about))
    question = Message("user", f"{text}\n\n{about}" if about else text)
    history = optional(value, earlier)
    return (*turns_of(history, earlier), question) if history else (question,)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _system(value: dict[str, Any], mapping: Mapping) -> str:
    """The system message: a text, or parts of text as Anthropic's, Bedrock's and Gemini's."""
    path = mapping.parts.get("system", "")
    found = optional(value, path)
    if isinstance(found, dict):
        found = found.get("parts", [found])
    if isinstance(found, list):
        return said(found, path).text
    return _words(value, mapping, "system")


def _words(value: dict[str, Any], mapping: Mapping, part: str) -> str:
    path = mapping.parts.get(part, "")
    found = optional(value, path)
    text = "" if found is None else sound(found, path, may_be_empty=True)
    return text.removeprefix("SYSTEM: ") if text.strip() else ""  # Glaive's begin so


def _tools(value: dict[str, Any], mapping: Mapping) -> tuple[dict[str, Any], ...]:
    path = mapping.parts.get("tools", "")
    return tools_of(optional(value, path), path)
