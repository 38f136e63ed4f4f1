# SPDX-License-Identifier: Apache-2.0
"""Turns whose content is a list of parts: text, thoughts, calls and their results.

OpenAI's parts have a type; so have Anthropic's (tool_use, tool_result, thinking) and LLaMA-Factory's (reasoning,
tool_call, with "value" for the text). Bedrock's and Gemini's have one key alone (toolUse, functionCall …).
"""

import json
from dataclasses import dataclass, field
from typing import Any

from finetree_data.errors import RowError, json_type
from finetree_data.rows.text import require_text
from finetree_data.rows.tool_calls import Call, parse_call, parse_text_calls

TEXT_TYPES = ("text", "input_text", "output_text")
"""Types of text parts (OpenAI's chats and Responses)."""

THOUGHT = "<think>\n{}\n</think>\n\n"
"""A thought before an answer, as DeepSeek-R1 and Qwen 3 write it; their templates know it there."""


@dataclass(slots=True)
class ParsedParts:
    """The content of a turn's parts. A result is (id of the call, name of the function, text)."""

    text: str = ""
    thought: str = ""
    calls: list[Call] = field(default_factory=list)
    results: list[tuple[str, str, str]] = field(default_factory=list)


def parse_parts(parts: list[Any], place: str) -> ParsedParts:
    """Parse the parts of a turn. Raises RowError for images, files and unknown types."""
    found = ParsedParts()
    for index, part in enumerate(parts):
        _take(part, f"{place}[{index}]", found)
    return found


def _take(part: Any, place: str, found: ParsedParts) -> None:
    if isinstance(part, str):
        found.text += require_text(part, place, may_be_empty=True)
        return
    if not isinstance(part, dict):
        raise RowError(place, f"must be a text part, is {json_type(part)}; only text is trained on")
    # Columns of a table exist in every part, null where a part has none.
    given = {key: value for key, value in part.items() if value is not None}
    of_type = given.pop("type", None)
    if of_type in TEXT_TYPES or (of_type is None and "text" in given):
        # LLaMA-Factory's second format says "value" where OpenAI says "text".
        key = "text" if "text" in given or "value" not in given else "value"
        found.text += require_text(part.get(key), f"{place}.text", may_be_empty=True)
    elif of_type in ("reasoning", "thinking") or "reasoningContent" in given:
        found.thought += _thought(given, place)
    elif not _take_call(found, of_type, given, place=place) and not _take_result(found, of_type, given, place=place):
        what = of_type if of_type is not None else next(iter(given), "nothing")
        raise RowError(place, f"must be a text part, is {str(what)[:40]!r}; only text is trained on")


def _thought(part: dict[str, Any], place: str) -> str:
    inner = part.get("reasoningContent")
    if isinstance(inner, dict):
        inner = inner.get("reasoningText", inner)
        part = inner if isinstance(inner, dict) else {}
    text = next((part[key] for key in ("thinking", "reasoning", "text", "value") if key in part), None)
    return require_text(text, place, may_be_empty=True)


def _take_call(found: ParsedParts, of_type: Any, part: dict[str, Any], *, place: str) -> bool:
    if of_type == "tool_call":
        found.calls += parse_text_calls(require_text(part.get("value"), f"{place}.value"), f"{place}.value")
        return True
    for key, arguments, known in (("toolUse", "input", "toolUseId"), ("functionCall", "args", "id")):
        if isinstance(part.get(key), dict):
            found.calls.append(_called(part[key], arguments, known, place=f"{place}.{key}"))
            return True
    if of_type != "tool_use":
        return False
    found.calls.append(_called(part, "input", "id", place=place))
    return True


def _called(part: dict[str, Any], arguments: str, known: str, *, place: str) -> Call:
    written = {"name": part.get("name"), "arguments": part.get(arguments) or {}}
    return parse_call({"id": part.get(known), "function": written}, place)


def _take_result(found: ParsedParts, of_type: Any, part: dict[str, Any], *, place: str) -> bool:
    if isinstance(part.get("functionResponse"), dict):
        answer = part["functionResponse"]
        found.results.append(("", str(answer.get("name", "")), _as_text(answer.get("response"), place)))
        return True
    result = part.get("toolResult") if isinstance(part.get("toolResult"), dict) else None
    if result is None and of_type == "tool_result":
        result = part
    if result is None:
        return False
    known = result.get("toolUseId", result.get("tool_use_id"))
    found.results.append((str(known or ""), "", _as_text(result.get("content"), f"{place}.content")))
    return True


def _as_text(content: Any, place: str) -> str:
    """Convert a result to the text that a template shows."""
    if content is None or isinstance(content, str):
        return require_text(content or "", place, may_be_empty=True)
    if isinstance(content, list):
        values = [item["json"] if isinstance(item, dict) and "json" in item else None for item in content]
        if not any(values):
            return parse_parts(content, place).text
        content = values[0] if len(values) == 1 else values
    return require_text(json.dumps(content, ensure_ascii=False), place, may_be_empty=True)
