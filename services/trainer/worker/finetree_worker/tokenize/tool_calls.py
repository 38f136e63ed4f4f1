# SPDX-License-Identifier: Apache-2.0
"""Functions and their calls written as text, for chat templates without support for them.

The form is that of the templates of the Hermes models and Qwen 2.5: schemas in <tools>, a call in <tool_call>, its
result in <tool_response> in a turn of the user. Servers parse it (vLLM's "hermes" parser).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from finetree_data.remarks import Remark
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from finetree_worker.tokenize.limits import limited_call
from finetree_worker.tokenize.rows import Message, Row

WRITTEN_AS_TEXT = Remark(
    "TOOLS_WRITTEN_AS_TEXT",
    "The model's chat template does not support functions: they are written into the messages as <tools>, <tool_call> "
    "and <tool_response>; prompts for the trained model must use the same form.",
)
"""Remark of a report on rows whose functions were written as text."""
TEMPLATE_ERRORS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""Errors that a chat template raises: its own, and those of the Python that it is compiled to."""
_PROBE = "probe_of_finetree"


def uses_tools(row: Row) -> bool:
    """Return whether functions are offered, called or answered in the row."""
    return bool(row.tools) or any(message.tool_calls or message.role == "tool" for message in row.messages)


def knows_tools(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the chat template renders functions that are offered, and calls of them."""
    call = {"type": "function", "id": "call00001", "function": {"name": _PROBE, "arguments": {"value": _PROBE}}}
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "b", "name": _PROBE, "tool_call_id": "call00001"},
        {"role": "assistant", "content": "c"},
    ]
    schema = {"name": _PROBE, "description": "d", "parameters": {"type": "object", "properties": {}}}
    tools: list[Any] = [{"type": "function", "function": schema}]
    try:
        with limited_call("Rendering a call of a function"):
            offered = str(tokenizer.apply_chat_template(turns[:1], tools=tools, tokenize=False))
            called = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except TEMPLATE_ERRORS:
        return False
    return _PROBE in offered and _PROBE in called


def written_out(row: Row) -> Row:
    """Return the row as a chat whose functions are text."""
    messages = list(_joined(_as_text(message) for message in row.messages))
    if row.tools:
        messages = _with_tools(messages, row.tools)
    return replace(row, messages=tuple(messages), tools=())


def _with_tools(messages: list[Message], tools: Sequence[dict[str, Any]]) -> list[Message]:
    schemas = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    offer = f"You may call these functions:\n<tools>\n{schemas}\n</tools>"
    if messages[0].role in ("system", "developer"):
        return [replace(messages[0], content=f"{messages[0].content}\n\n{offer}"), *messages[1:]]
    return [Message("system", offer), *messages]


def _as_text(message: Message) -> Message:
    if message.role == "tool":
        return Message("user", f"<tool_response>\n{message.content}\n</tool_response>")
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.tool_calls]
    written = [f"<tool_call>\n{call}\n</tool_call>" for call in calls]
    words = [message.content] if message.content.strip() else []
    return replace(message, content="\n".join(words + written), tool_calls=()) if calls else message


def _joined(messages: Iterator[Message]) -> Iterator[Message]:
    """Join consecutive results into one turn: many templates need user and assistant in turns."""
    last: Message | None = None
    for message in messages:
        if last is not None and last.role == message.role == "user" and "<tool_response>" in last.content:
            last = replace(last, content=f"{last.content}\n{message.content}")
            continue
        if last is not None:
            yield last
        last = message
    if last is not None:
        yield last
