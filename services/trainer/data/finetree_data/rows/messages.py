# SPDX-License-Identifier: Apache-2.0
"""Turns of conversations as public datasets write them."""

import difflib
import re
from typing import Any

from finetree_data.columns.mapping import by_lower, first_of, list_columns
from finetree_data.columns.names import ANSWERS, PAIRS, QUESTIONS
from finetree_data.errors import EmptyTextError, RowError, json_type
from finetree_data.rows.content_parts import THOUGHT, ParsedParts, parse_parts
from finetree_data.rows.row import Message
from finetree_data.rows.text import is_learnable, parse_json_cell, require_text, text_of
from finetree_data.rows.tool_calls import parse_text_calls, parse_turn_calls
from finetree_data.rows.transcripts import labelled

ROLES = ("system", "user", "assistant", "tool", "developer")
"""Roles that a message may have."""

ALIASES = {
    **{role: role for role in ROLES},
    **dict.fromkeys(("human", "prompter", "customer", "client", "caller", "patient"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bot", "chatbot", "model", "ai", "bing", "bard", "agent"), "assistant"),
    **dict.fromkeys(("function", "observation", "function_response", "tool_response", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
}
"""Names of the roles in datasets: ShareGPT's human and gpt, OpenAssistant's prompter, Gemini's model, Cohere's chatbot,
customer and agent of support transcripts, OpenAI's former function, LLaMA-Factory's observation and function_call
("call": an assistant's turn that is a call)."""

SPEAKERS = ("role", "from", "speaker", "sender", "author")
"""Keys of a turn's speaker (OpenAI, ShareGPT; Cohere's examples; OpenDialKG; PaLM)."""
TEXTS = ("content", "value", "parts", "text", "message")
"""Keys of a turn's text (OpenAI, ShareGPT, Gemini, YandexGPT, Cohere)."""
_SPEAKING = frozenset(("system", "user", "assistant", "developer"))
"""Roles of turns that need a text; a tool's may be empty."""
_UNLEARNED = frozenset(("weight", "loss_weight", "loss", "train", "trainable"))
"""Keys that mark a turn as context where they are 0 or false (OpenAI, LLaMA-Factory, ms-swift, Axolotl)."""

_BEGINS_TURNS = re.compile(r"""\s*\[\s*\{\s*["'](?:role|from|content|value)["']\s*:""")


def is_conversation(text: Any) -> bool:
    """Return whether a text is a list of messages in the notation of JSON or Python."""
    return isinstance(text, str) and text.lstrip()[:1] == "[" and _BEGINS_TURNS.match(text) is not None


def conversation(turns: Any, place: str) -> tuple[Message, ...]:
    """Parse a conversation with an answer to learn. Raises RowError, EmptyTextError where there is none."""
    messages = parse_turns(turns, place)
    if not any(message.role == "assistant" and message.learned for message in messages):
        raise EmptyTextError(place, "has no assistant message, so there is nothing to learn")
    return messages


def parse_turns(turns: Any, place: str) -> tuple[Message, ...]:
    """Parse turns: objects, pairs, or alternating strings, also as JSON text. Raises RowError."""
    if isinstance(turns, str):
        turns = parse_json_cell(turns, place)
    if not isinstance(turns, list) or not turns:
        raise (EmptyTextError if turns in (None, []) else RowError)(
            place, f"must be a list of messages, is {json_type(turns)}"
        )
    if all(isinstance(turn, str) for turn in turns):
        return _alternating(turns, place)
    messages: list[Message] = []
    last = len(turns) - 1
    for index, turn in enumerate(turns):
        plain = _plain_turn(turn)
        if plain is not None:
            messages.append(plain)
            continue
        # Where turns are pairs, the assistant may have begun a talk, and the user may have had the last word.
        silent = "" if not last else "user" if index == 0 else "assistant" if index == last else ""
        messages.extend(_turn(turn, f"{place}[{index}]", silent))
    return tuple(messages)


def _plain_turn(turn: Any) -> Message | None:
    """Return a turn that is a role and a text alone, as nearly all are; None for others, which are left to `_turn`.

    It is what `_turn` makes of it, in a quarter of the time.
    """
    if not isinstance(turn, dict) or len(turn) != 2:
        return None
    if "role" in turn:
        role, text = turn["role"], turn.get("content")
    else:
        role, text = turn.get("from"), turn.get("value")
    known = ALIASES.get(role) if isinstance(role, str) else None
    if known not in _SPEAKING or not isinstance(text, str) or not is_learnable(text):
        return None
    return Message(known, text.lstrip("\n") if known == "user" else text)


def _alternating(turns: list[str], place: str) -> tuple[Message, ...]:
    # UltraChat's own files and DailyDialog: question and answer in turn, the user first.
    if place.rpartition(".")[2].lower() == "turns":  # FastChat's questions: each of them is a user's
        raise RowError(place, "are texts without a speaker; write {role, content} objects")
    if len(turns) < 2:
        raise EmptyTextError(place, "has no assistant message, so there is nothing to learn")
    named = labelled(turns, place)
    if named:
        return tuple(Message(role, require_text(words, f"{place}[{i}]")) for i, (role, words) in enumerate(named))
    roles = ("user", "assistant")
    return tuple(Message(roles[i % 2], require_text(turn, f"{place}[{i}]")) for i, turn in enumerate(turns))


def _turn(turn: Any, place: str, silent: str) -> tuple[Message, ...]:
    if isinstance(turn, list) and len(turn) == 2:  # a pair, as in "history" of ChatGLM and ms-swift
        return _pair(dict(zip(("user", "assistant"), turn, strict=True)), place, silent)
    if not isinstance(turn, dict):
        raise RowError(place, f"must be an object, is {json_type(turn)}")
    # Columns of a table exist in every turn, null where a turn has none.
    speaker = next((key for key in SPEAKERS if turn.get(key) is not None), None)
    if speaker is not None:
        return _message(turn, place, speaker)
    given = {key: value for key, value in turn.items() if value is not None}
    asked, answered = _asked(given)
    if answered:  # Capybara's, XTuner's, ms-swift's
        question, about = given[asked], given.get("input") if asked.lower() == "instruction" else None
        if about and isinstance(about, str) and isinstance(question, str):  # Lawyer LLaMA's
            question = f"{question}\n\n{about}"
        texts = {"system": given.get("system"), "user": question, "assistant": given[answered]}
        return _pair(texts, place, silent)
    by_role = {ALIASES[key.lower()]: value for key, value in given.items() if key.lower() in ALIASES}
    if {"user", "assistant"} <= set(by_role) <= {"system", "user", "assistant"}:  # Firefly's, ms-swift's
        return _pair(by_role, place, silent)
    raise RowError(f"{place}.role", f"is missing; what the turn has: {list_columns(given)}")


def _asked(turn: dict[str, Any]) -> tuple[str, str]:
    """Keys of the question and the answer in a turn that has both; "" for other turns."""
    names = by_lower(turn)
    asked, answered = first_of(names, QUESTIONS), first_of(names, ANSWERS)
    if asked and answered:
        return asked, answered
    return next(((names[one], names[other]) for one, other in PAIRS if one in names and other in names), ("", ""))


def _pair(texts: dict[str, Any], place: str, silent: str) -> tuple[Message, ...]:
    """Parse a turn with a system message, a question and its answer; the `silent` role may be empty."""
    may_lack = ("system", silent)
    roles = [role for role in ("system", "user", "assistant") if role not in may_lack or texts.get(role)]
    return tuple(Message(role, require_text(texts[role], f"{place}.{role}")) for role in roles)


def _message(turn: dict[str, Any], place: str, speaker: str) -> tuple[Message, ...]:
    role = _role(turn[speaker], f"{place}.{speaker}")
    usual = "value" if speaker == "from" else "content"
    key = usual if usual in turn else next((key for key in TEXTS if key in turn), usual)
    if role == "call":
        text = text_of(turn, key, f"{place}.") if not isinstance(turn.get(key), list) else ""
        if text:
            return (Message("assistant", "", tool_calls=parse_text_calls(text, f"{place}.{key}")),)
        role = "assistant"
    found = _parse_content(turn, key, place)
    calls = (*parse_turn_calls(turn, place), *found.calls) if role == "assistant" else ()
    results = tuple(Message("tool", text, tool_call_id=known, name=name) for known, name, text in found.results)
    if results and not found.text.strip():
        return results
    # A call needs no words beside it, and a tool may have had nothing to say.
    words = require_text(found.text, f"{place}.{key}", may_be_empty=bool(calls) or role == "tool")
    message = Message(
        role,
        with_thought(words, found.thought or turn.get("reasoning_content"), place)
        if role == "assistant"
        else words.lstrip("\n")
        if role == "user"
        else words,
        tool_calls=calls,
        tool_call_id=_short(turn, "tool_call_id"),
        name=_short(turn, "name"),
        learned=_UNLEARNED.isdisjoint(turn) or not any(turn.get(mark, 1) in (0, False) for mark in _UNLEARNED),
    )
    return (*results, message)


def _parse_content(turn: dict[str, Any], key: str, place: str) -> ParsedParts:
    content = turn.get(key)
    if isinstance(content, list):
        return parse_parts(content, f"{place}.{key}")
    if content is None and (key in turn or turn.get("tool_calls") or turn.get("function_call")):
        # A call or a tool may be without words; of others it is found to be empty.
        return ParsedParts()
    return ParsedParts(text_of(turn, key, f"{place}.", may_be_empty=True))


def with_thought(words: str, thought: Any, place: str) -> str:
    """Put the thought before the text, unless it is there already. Raises RowError."""
    text = require_text(thought, f"{place}.reasoning_content", may_be_empty=True) if thought else ""
    return THOUGHT.format(text.strip()) + words if text.strip() and "</think>" not in words else words


def _role(role: Any, place: str) -> str:
    known = ALIASES.get(role.strip().lower()) if isinstance(role, str) else None
    if known is None:
        near = difflib.get_close_matches(str(role).lower(), ALIASES, n=1) if isinstance(role, str) else []
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RowError(place, f"must be one of {', '.join(ROLES)}, is {role!r:.40}{hint}")
    return known


def _short(turn: dict[str, Any], key: str) -> str:
    value = turn.get(key)
    return value if isinstance(value, str) else ""
