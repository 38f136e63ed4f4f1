# SPDX-License-Identifier: Apache-2.0
import json

from finetree_data.rows.row import Message

TOOL = {"name": "get_weather", "description": "Weather of a city", "parameters": {"type": "object", "properties": {}}}
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}


def test_tool_calls_their_results_and_the_tools_are_kept(read_objects):
    openai = {
        "tools": [{"type": "function", "function": TOOL}],
        "messages": [
            {"role": "user", "content": "Weather in Oslo?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
            {"role": "assistant", "content": "Rain."},
        ],
    }
    row = read_objects(openai)[0][0]
    assert row.messages[1] == Message("assistant", "", tool_calls=({"id": "c1", **CALL},))
    assert row.messages[2] == Message("tool", "rain", tool_call_id="c1")
    assert row.tools == ({"type": "function", "function": TOOL},)


def test_function_calls_in_the_way_of_llama_factory_are_the_same_calls(read_objects):
    sharegpt = {
        "conversations": [
            {"from": "human", "value": "Weather in Oslo?"},
            {"from": "function_call", "value": '{"name": "get_weather", "arguments": {"city": "Oslo"}}'},
            {"from": "observation", "value": "rain"},
            {"from": "gpt", "value": "Rain."},
        ],
        "system": "Be brief.",
        "tools": json.dumps([TOOL]),
    }
    row = read_objects(sharegpt)[0][0]
    assert [message.role for message in row.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert row.messages[2].tool_calls == (CALL,)
    assert row.tools == ({"type": "function", "function": TOOL},)


def test_answers_that_are_calls_are_the_same_calls(read_objects):
    answers = json.dumps([{"name": "get_weather", "arguments": {"city": "Oslo"}}])
    row = read_objects({"id": 1, "query": "Weather in Oslo?", "answers": answers, "tools": json.dumps([TOOL])})[0][0]
    assert row.messages == (Message("user", "Weather in Oslo?"), Message("assistant", "", tool_calls=(CALL,)))  # xLAM's
    assert row.tools == ({"type": "function", "function": TOOL},)
