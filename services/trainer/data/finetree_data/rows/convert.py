# SPDX-License-Identifier: Apache-2.0
"""Converts objects to rows by the mapping of their columns."""

import json
import math
from dataclasses import replace
from typing import Any

from finetree_data.columns.detection import detect_mapping
from finetree_data.columns.mapping import Mapping, has, list_columns, lookup, optional
from finetree_data.columns.template_marks import rendered_by, without_end
from finetree_data.errors import EmptyTextError, MixedFormatError, RowError
from finetree_data.options import RowFormat
from finetree_data.remarks import Remark
from finetree_data.rows.choices import choices_of
from finetree_data.rows.content_parts import parse_parts
from finetree_data.rows.messages import SPEAKERS, conversation, is_conversation, parse_turns, with_thought
from finetree_data.rows.rendered_chat import READ_BACK, parse_rendered
from finetree_data.rows.row import Message, Row
from finetree_data.rows.text import require_text
from finetree_data.rows.tool_calls import parse_text_calls, parse_tools
from finetree_data.rows.transcripts import transcript

MEDIA = frozenset(
    f"{kind}{more}"
    for kind in ("image", "video", "audio", "img")
    for more in ("", "s", "_path", "_paths", "_url", "_file")
)
"""Columns of media. A row that has any is refused, since its text was written to go with them."""


def to_row(number: int, value: dict[str, Any], mapping: Mapping) -> Row:
    """Convert an object to a row. Raises RowError, MixedFormatError for a row of another format."""
    if not any(has(value, path) for path in mapping.main):
        _refuse_other(value, mapping)
    if not mapping.named:
        _refuse_media(value, mapping)
    if mapping.row_format is RowFormat.TEXT:
        path = mapping.parts["text"]
        text = require_text(lookup(value, path), path)
        return Row(number, text=text if mapping.named else without_end(text))
    if "turns" in mapping.parts:
        return _chat(number, value, mapping)
    return _pair(number, value, mapping)


def remarks_on(value: dict[str, Any], mapping: Mapping) -> tuple[Remark, ...]:
    """Return what was decided about the rows of a file, as the first of them shows."""
    rendered = any(rendered_by(optional(value, mapping.parts.get(part, ""))) for part in ("turns", "prompt"))
    return (*mapping.remarks, READ_BACK) if rendered else mapping.remarks


def _refuse_other(value: dict[str, Any], mapping: Mapping) -> None:
    other = detect_mapping(value)
    if other is not None and other.row_format is not mapping.row_format:
        text = f"has the format {other.row_format.value}, the rows before it have {mapping.row_format.value}"
        raise MixedFormatError("", text)
    wanted = " and ".join(f'"{path}"' for path in mapping.main)
    raise RowError("", f"needs {wanted}; its columns are: {list_columns(value)}")


def _refuse_media(value: dict[str, Any], mapping: Mapping) -> None:
    if MEDIA.isdisjoint(value):
        return
    for name, medium in value.items():
        if name in MEDIA and medium:
            named = {"turns": "messages", "context": "input"}
            said_so = ", ".join(
                f"{named.get(part, part)}: {path}" for part, path in mapping.parts.items() if has(value, path)
            )
            text = f"is not text, and only text is trained on; to train on the rest alone, map columns {{{said_so}}}"
            raise RowError(name, text)


def _chat(number: int, value: dict[str, Any], mapping: Mapping) -> Row:
    path, better = mapping.parts["turns"], mapping.parts.get("chosen", "")
    found = lookup(value, path)
    if isinstance(found, str) and rendered_by(found):
        turns = parse_rendered(found, path)
    elif isinstance(found, str) and not found.lstrip().startswith(("[{", "[[", "['", '["')):
        turns = transcript(found, path)
        if not turns:
            parse_turns(found, path)  # says what is wrong with it
    else:
        turns = parse_turns(found, path)
    # Files of preference pairs may repeat the chosen answer behind the turns.
    if better and turns[-1].role != "assistant" and optional(value, better) is not None:
        turns = (*turns, *_answer(optional(value, better), better))
    if not any(turn.role == "assistant" and turn.learned for turn in turns):
        raise EmptyTextError(path, "has no assistant message, so there is nothing to learn")
    system = _system(value, mapping)
    if system and turns[0].role not in ("system", "developer"):
        turns = (Message("system", system), *turns)
    return Row(number, _without_marks(turns, path), tools=_tools(value, mapping))


def _without_marks(turns: tuple[Message, ...], path: str) -> tuple[Message, ...]:
    """Return turns without the ends that a template has written behind answers; refuse those that hold a whole chat."""
    if not any("<" in turn.content or "[INST]" in turn.content for turn in turns):
        return turns
    for index, turn in enumerate(turns):
        if turn.role in ("user", "assistant") and (name := rendered_by(turn.content)):
            text = f"begins with the marks of {name} inside a turn; write the text of the turn alone"
            raise RowError(f"{path}[{index}]", text)
    return tuple(
        replace(turn, content=without_end(turn.content)) if turn.role == "assistant" else turn for turn in turns
    )


def _answer(value: Any, path: str) -> tuple[Message, ...]:
    """Convert an answer: a text, a message, messages, or xLAM's calls as JSON text."""
    if path.lower() == "answers" and isinstance(value, str) and value.lstrip().startswith("[{"):
        return (Message("assistant", "", tool_calls=parse_text_calls(value, path)),)
    if isinstance(value, dict) and any(isinstance(value.get(name), str) for name in SPEAKERS):
        value = [value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        # A table's cell with a number is a text, so is a number; NaN and Infinity stand for nothing, as in a JSON file.
        value = json.dumps(value) if math.isfinite(value) else None
    if (isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value)) or is_conversation(value):
        return conversation(value, path)
    return (Message("assistant", require_text(value, path)),)


def _pair(number: int, value: dict[str, Any], mapping: Mapping) -> Row:
    asked, answered = mapping.parts["prompt"], mapping.parts["completion"]
    prompt, completion = lookup(value, asked), lookup(value, answered)
    choices: tuple[str, ...] = ()
    if "choices" in mapping.parts:
        choices, completion = choices_of(value, mapping.parts["choices"], answer=completion, answered=answered)
    if (asked, answered) == ("input", "output") and _are_texts(prompt) and _are_texts(completion):
        # Chinese-Vicuna's: a talk's questions, and their answers. Under other names they are columns of a table.
        if len(prompt) != len(completion):
            raise RowError(answered, f"has {len(completion)} answers to {len(prompt)} questions")
        turns = conversation([list(pair) for pair in zip(prompt, completion, strict=True)], answered)
    elif rendered_by(prompt):
        turns = _rendered_pair(value, mapping, prompt, require_text(completion, answered))
    else:
        answer = _thoughtful(_answer(completion, answered), value, mapping)
        whole = answer[0].role != "assistant"  # of a preference pair, the question is in it
        turns = answer if whole else (*_question(value, prompt, mapping), *answer)
    system = _system(value, mapping)
    if system and turns[0].role not in ("system", "developer"):
        turns = (Message("system", system), *turns)
    return Row(number, _without_marks(turns, answered), tools=_tools(value, mapping), choices=choices)


def _thoughtful(answer: tuple[Message, ...], value: dict[str, Any], mapping: Mapping) -> tuple[Message, ...]:
    """Put what was thought before an answer in front of it."""
    path = mapping.parts.get("thought", "")
    thought = optional(value, path)
    if not thought or path == mapping.parts["completion"] or answer[-1].role != "assistant":
        return answer
    text = require_text(thought, path, may_be_empty=True)
    return (*answer[:-1], replace(answer[-1], content=with_thought(answer[-1].content, text, path)))


def _rendered_pair(value: dict[str, Any], mapping: Mapping, prompt: str, completion: str) -> tuple[Message, ...]:
    """Read back a prompt that a template has rendered, and the answer to it, which may begin with its header."""
    path, answered = mapping.parts["prompt"], mapping.parts["completion"]
    beside = next(
        (part for part in ("context", "history", "thought") if optional(value, mapping.parts.get(part, ""))), ""
    )
    if beside:
        raise RowError(path, f'is rendered by a chat template, and "{mapping.parts[beside]}" beside it is not in it')
    if rendered_by(completion) or completion.lstrip().startswith("[/INST]"):
        return parse_rendered(prompt + completion, path)
    turns = parse_rendered(prompt, path)
    if not turns or turns[-1].role not in ("user", "tool"):
        raise RowError(path, "is rendered by a chat template, and does not end with a question")
    return (*turns, Message("assistant", require_text(without_end(completion), answered)))


def _question(value: dict[str, Any], prompt: Any, mapping: Mapping) -> tuple[Message, ...]:
    path = mapping.parts["prompt"]
    if isinstance(prompt, list) or is_conversation(prompt):  # TRL's conversational prompt, in a table as text
        return parse_turns(prompt, path)
    about, earlier = _words(value, mapping, "context"), mapping.parts.get("history", "")
    text = require_text(prompt, path, may_be_empty=mapping.row_format is RowFormat.PROMPT_COMPLETION or bool(about))
    question = Message("user", "\n\n".join(part for part in (text.lstrip("\n"), about) if part))
    history = optional(value, earlier)
    return (*parse_turns(history, earlier), question) if history else (question,)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _system(value: dict[str, Any], mapping: Mapping) -> str:
    """The system message: a text, or text parts as Anthropic, Bedrock and Gemini write them."""
    path = mapping.parts.get("system", "")
    found = optional(value, path)
    if isinstance(found, dict):
        found = found.get("parts", [found])
    if isinstance(found, list):
        return parse_parts(found, path).text
    return _words(value, mapping, "system")


def _words(value: dict[str, Any], mapping: Mapping, part: str) -> str:
    path = mapping.parts.get(part, "")
    found = optional(value, path)
    if part == "context" and _are_texts(found):  # passages, each of them a text
        found = "\n\n".join(found)
    text = "" if found is None else require_text(found, path, may_be_empty=True)
    return text.removeprefix("SYSTEM: ") if text.strip() else ""  # Glaive's begin so


def _tools(value: dict[str, Any], mapping: Mapping) -> tuple[dict[str, Any], ...]:
    path = mapping.parts.get("tools", "")
    return parse_tools(optional(value, path), path)
