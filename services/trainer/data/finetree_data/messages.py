# SPDX-License-Identifier: Apache-2.0
"""Turns of a conversation, in the ways that public datasets write them."""

import difflib
import json
from typing import Any

from finetree_data.faults import RowError, kind
from finetree_data.rows import Message

ROLES = ("system", "user", "assistant", "tool", "developer")
"""Roles that a message may have."""

ALIASES = {
    **{role: role for role in ROLES},
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bot", "model", "ai", "bing", "bard"), "assistant"),
    **dict.fromkeys(("function", "observation", "function_response", "tool_response", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
}
"""What datasets call the roles: ShareGPT's human and gpt, OpenAssistant's prompter, Gemini's model, OpenAI's former
function, LLaMA-Factory's observation and function_call ("call": an assistant's turn that is a function call)."""


def conversation(turns: Any, place: str) -> tuple[Message, ...]:
    """Turns as {role, content}, {from, value}, {input, output} pairs, or strings in turn. Raises RowError."""
    if isinstance(turns, str):
        turns = nested(turns, place)
    if not isinstance(turns, list) or not turns:
        raise RowError(place, f"must be a list of messages, is {kind(turns)}")
    if all(isinstance(turn, str) for turn in turns):
        return _alternating(turns, place)
    messages: list[Message] = []
    for index, turn in enumerate(turns):
        messages.extend(_turn(turn, f"{place}[{index}]"))
    if not any(message.role == "assistant" and message.learned for message in messages):
        raise RowError(place, "have no assistant message, so there is nothing to learn")
    return tuple(messages)


def nested(text: str, place: str) -> Any:
    """JSON in a table's cell. Raises RowError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        hint = "; it looks like Python, not JSON" if text.lstrip().startswith(("[{'", "{'", "['")) else ""
        raise RowError(place, f"must be a list, or a list as JSON text{hint}") from None


def _alternating(turns: list[str], place: str) -> tuple[Message, ...]:
    # UltraChat's own files: question and answer in turn, the user first.
    if len(turns) < 2:
        raise RowError(place, "have no assistant message, so there is nothing to learn")
    roles = ("user", "assistant")
    return tuple(Message(roles[i % 2], sound(turn, f"{place}[{i}]")) for i, turn in enumerate(turns))


def _turn(turn: Any, place: str) -> tuple[Message, ...]:
    if not isinstance(turn, dict):
        raise RowError(place, f"must be an object, is {kind(turn)}")
    # Columns of a table exist in every turn, null where a turn has none.
    if turn.get("role") is not None:
        return (_message(turn, place, "role", "content"),)
    if turn.get("from") is not None:
        return (_message(turn, place, "from", "value"),)
    if "input" in turn and "output" in turn:  # Capybara's
        return (
            Message("user", text_of(turn, "input", f"{place}.")),
            Message("assistant", text_of(turn, "output", f"{place}.")),
        )
    raise RowError(f"{place}.role", "is missing")


def _message(turn: dict[str, Any], place: str, role_key: str, text_key: str) -> Message:
    role = _role(turn[role_key], f"{place}.{role_key}")
    text_key = text_key if text_key in turn or "value" not in turn else "value"
    if role == "call":
        text = text_of(turn, text_key, f"{place}.")
        calls = _calls_in(text, f"{place}.{text_key}")
        return Message("assistant", "", tool_calls=calls)
    calls = _calls(turn, place) if role == "assistant" else ()
    # A call needs no words beside it, and a tool may have had nothing to say.
    optional = bool(calls) or role == "tool"
    text = _content(turn, text_key, place, may_be_empty=optional)
    return Message(
        role,
        text,
        tool_calls=calls,
        tool_call_id=_short(turn, "tool_call_id"),
        name=_short(turn, "name"),
        learned=turn.get("weight", 1) != 0 and turn.get("loss_weight", 1) != 0,
    )


def _role(role: Any, place: str) -> str:
    known = ALIASES.get(role.strip().lower()) if isinstance(role, str) else None
    if known is None:
        near = difflib.get_close_matches(str(role).lower(), ALIASES, n=1) if isinstance(role, str) else []
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RowError(place, f"must be one of {', '.join(ROLES)}, is {role!r:.40}{hint}")
    return known


def _content(turn: dict[str, Any], key: str, place: str, *, may_be_empty: bool) -> str:
    value = turn.get(key)
    if isinstance(value, list):  # OpenAI's content parts
        parts = [_part(part, f"{place}.{key}[{i}]") for i, part in enumerate(value)]
        value = "".join(parts)
        return sound(value, f"{place}.{key}", may_be_empty=may_be_empty)
    if value is None and may_be_empty:
        return ""
    return text_of(turn, key, f"{place}.", may_be_empty=may_be_empty)


def _part(part: Any, place: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or part.get("type", "text") != "text":
        what = repr(part.get("type"))[:40] if isinstance(part, dict) else kind(part)
        raise RowError(place, f"must be a text part, is {what}; only text is trained on")
    # LLaMA-Factory's second format says "value" where OpenAI says "text".
    return sound(part.get("text", part.get("value")), f"{place}.text", may_be_empty=True)


def _calls(turn: dict[str, Any], place: str) -> tuple[dict[str, Any], ...]:
    calls = turn.get("tool_calls")
    place = f"{place}.tool_calls"
    if not calls and turn.get("function_call"):  # OpenAI's before November 2023
        calls, place = [{"function": turn["function_call"]}], place.replace("tool_calls", "function_call")
    if not calls:
        return ()
    if isinstance(calls, str):
        calls = nested(calls, place)
    if not isinstance(calls, list):
        raise RowError(place, f"must be a list of calls, is {kind(calls)}")
    return tuple(_call(call, f"{place}[{i}]") for i, call in enumerate(calls))


def _calls_in(text: str, place: str) -> tuple[dict[str, Any], ...]:
    value = nested(text, place)
    calls = value if isinstance(value, list) else [value]
    return tuple(_call(call, place) for call in calls)


def _call(call: Any, place: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError(place, 'must be a call: {"function": {"name": …, "arguments": …}}')
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        # Templates write arguments with `tojson`: as text they would be quoted twice.
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            raise RowError(f"{place}.function.arguments", "must be JSON") from None
    known = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return ({"id": call["id"]} if isinstance(call.get("id"), str) else {}) | known


def tools_of(value: Any, place: str) -> tuple[dict[str, Any], ...]:
    """Function schemas of a row: a list, or a list as JSON text; none where there are none. Raises RowError."""
    if isinstance(value, str):
        value = nested(value, place) if value.strip() else None
    if value is None or value == []:
        return ()
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise RowError(place, f"must be a list of function schemas, is {kind(value)}")
    return tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in value)


def _short(turn: dict[str, Any], key: str) -> str:
    value = turn.get(key)
    return value if isinstance(value, str) else ""


def text_of(value: dict[str, Any], name: str, prefix: str = "", *, may_be_empty: bool = False) -> str:
    """A string that can be tokenised. Raises RowError."""
    if name not in value:
        raise RowError(prefix + name, "is missing")
    return sound(value[name], prefix + name, may_be_empty=may_be_empty)


def sound(text: Any, place: str, *, may_be_empty: bool = False) -> str:
    """The text, if it is one. Raises RowError."""
    if not isinstance(text, str):
        raise RowError(place, f"must be a string, is {kind(text)}")
    if not may_be_empty and not text.strip():
        raise RowError(place, "is empty")
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise RowError(place, "holds half of a surrogate pair (\\ud800 to \\udfff), which is no character")
    return text
