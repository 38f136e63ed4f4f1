# SPDX-License-Identifier: Apache-2.0
"""A training row after reading, the same for every file and row format."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat.

    `role` is one of messages.ROLES. `tool_calls` are OpenAI's, {"type": "function", "function": {"name", "arguments"}},
    with the arguments as an object; `name` is a tool's, `tool_call_id` says which call it answers. `learned` is False
    for an assistant's turn that the file marks with weight 0.
    """

    role: str
    content: str
    tool_calls: tuple[dict[str, Any], ...] = ()
    tool_call_id: str = ""
    name: str = ""
    learned: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """One training row; `number` is its line in a file of lines, else its place among the rows, from 1.

    All but plain-text rows are messages; `text` holds a plain-text row. `tools` are JSON schemas of the functions that
    the assistant may call. `choices` are those of a question, of which the last message is the right one.
    """

    number: int
    messages: tuple[Message, ...] = ()
    text: str = ""
    tools: tuple[dict[str, Any], ...] = ()
    choices: tuple[str, ...] = ()
