# SPDX-License-Identifier: Apache-2.0
"""Tools that an assistant may call, and its calls, as public datasets write them."""

import json
from collections.abc import Iterator
from typing import Any

from finetree_data.errors import RowError, json_type
from finetree_data.rows.text import parse_json_cell, require_text

Call = dict[str, Any]
"""{"type": "function", "function": {"name", "arguments"}}, with the arguments as an object; "id" where it has one."""


def parse_turn_calls(turn: dict[str, Any], place: str) -> tuple[Call, ...]:
    """Parse the calls beside a turn's content, as OpenAI writes them. Raises RowError."""
    calls = turn.get("tool_calls")
    place = f"{place}.tool_calls"
    if not calls and turn.get("function_call"):  # OpenAI's before November 2023
        calls, place = [{"function": turn["function_call"]}], place.replace("tool_calls", "function_call")
    if not calls:
        return ()
    if isinstance(calls, str):
        calls = parse_json_cell(calls, place)
    if not isinstance(calls, list):
        raise RowError(place, f"must be a list of calls, is {json_type(calls)}")
    return tuple(parse_call(one, f"{place}[{i}]") for i, one in enumerate(calls))


def parse_text_calls(text: str, place: str) -> tuple[Call, ...]:
    """Parse calls that are a turn's text, one or a list, as LLaMA-Factory writes them. Raises RowError."""
    value = parse_json_cell(text, place)
    calls = value if isinstance(value, list) else [value]
    return tuple(parse_call(one, place) for one in calls)


def parse_call(value: Any, place: str) -> Call:
    """Parse a call: OpenAI's, or {"name", "arguments"} alone. Raises RowError."""
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError(place, 'must be a call: {"function": {"name": …, "arguments": …}}')
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        # Templates write arguments with `tojson`: as text they would be quoted twice.
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            raise RowError(f"{place}.function.arguments", "must be JSON") from None
    _require_text(function["name"], f"{place}.function.name")
    _require_text(arguments, f"{place}.function.arguments")
    known = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return ({"id": value["id"]} if isinstance(value.get("id"), str) else {}) | known


def parse_tools(value: Any, place: str) -> tuple[dict[str, Any], ...]:
    """Parse the function schemas of a row, as OpenAI, Anthropic, Bedrock or Gemini write them.

    Raises RowError for what is neither a list of them nor that list as JSON text.
    """
    if isinstance(value, str):
        value = parse_json_cell(value, place) if value.strip() else None
    if isinstance(value, dict) and "tools" in value:  # Bedrock's toolConfig
        value = value["tools"]
    if value is None or value == []:
        return ()
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise RowError(place, f"must be a list of function schemas, is {json_type(value)}")
    _require_text(value, place)
    return tuple(schema for tool in value for schema in _schemas(tool))


def _require_text(value: Any, place: str) -> None:
    """Raise RowError unless a template can write the value: half a character cannot be tokenized."""
    require_text(json.dumps(value, ensure_ascii=False), place)


def _schemas(tool: dict[str, Any]) -> Iterator[dict[str, Any]]:
    declared = tool.get("functionDeclarations", tool.get("function_declarations"))
    if isinstance(declared, list):  # Gemini's
        yield from ({"type": "function", "function": function} for function in declared if isinstance(function, dict))
    elif isinstance(tool.get("toolSpec"), dict):  # Bedrock's
        spec = tool["toolSpec"]
        schema = spec.get("inputSchema")
        yield _schema(spec, schema.get("json") if isinstance(schema, dict) else None)
    elif "input_schema" in tool:  # Anthropic's
        yield _schema(tool, tool["input_schema"])
    else:
        yield tool if "function" in tool else {"type": "function", "function": tool}


def _schema(tool: dict[str, Any], parameters: Any) -> dict[str, Any]:
    facts = {name: tool[name] for name in ("name", "description") if name in tool}
    return {"type": "function", "function": facts | {"parameters": parameters or {}}}
