# SPDX-License-Identifier: Apache-2.0
"""Rows in the layouts of known public datasets, written by hand: each becomes the conversation that it stands for."""

import json
from typing import Any

import pytest
from finetree_data.errors import DatasetError
from finetree_data.options import Columns, Layout, Reading
from finetree_data.reader import RowFile
from finetree_data.rows.row import Message

TOOL = {"name": "get_weather", "description": "Weather of a city", "parameters": {"type": "object", "properties": {}}}
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}


def read(tmp_path, *rows: Any, **reading: Any):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = RowFile(file, Reading(**reading))
    return list(found.rows()), found


def turns(row):
    return [(message.role, message.content) for message in row.messages]


PUBLIC = {
    "tatsu-lab/alpaca": (
        {"instruction": "Add.", "input": "1 and 2", "output": "3", "text": "Below is an instruction … 3"},
        Layout.INSTRUCTION,
        [("user", "Add.\n\n1 and 2"), ("assistant", "3")],
    ),
    "alpaca without input": (
        {"instruction": "Name a planet.", "input": "", "output": "Mars"},
        Layout.INSTRUCTION,
        [("user", "Name a planet."), ("assistant", "Mars")],
    ),
    "databricks-dolly-15k": (
        {"instruction": "When?", "context": "In 1903.", "response": "1903", "category": "closed_qa"},
        Layout.INSTRUCTION,
        [("user", "When?\n\nIn 1903."), ("assistant", "1903")],
    ),
    "Open-Orca": (
        {"id": "flan.1", "system_prompt": "Be brief.", "question": "2+2?", "response": "4"},
        Layout.PROMPT_COMPLETION,
        [("system", "Be brief."), ("user", "2+2?"), ("assistant", "4")],
    ),
    "gsm8k": (
        {"question": "How many?", "answer": "Two. #### 2"},
        Layout.PROMPT_COMPLETION,
        [("user", "How many?"), ("assistant", "Two. #### 2")],
    ),
    "hendrycks math": (
        {"problem": "x=?", "level": "Level 1", "type": "Algebra", "solution": "1"},
        Layout.PROMPT_COMPLETION,
        [("user", "x=?"), ("assistant", "1")],
    ),
    "ShareGPT": (
        {"id": "a_0", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
        Layout.SHAREGPT,
        [("user", "hi"), ("assistant", "hello")],
    ),
    "OpenAI chat": (
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
        Layout.CHAT,
        [("user", "hi"), ("assistant", "hello")],
    ),
    "OpenAI content parts": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": "c"},
            ]
        },
        Layout.CHAT,
        [("user", "ab"), ("assistant", "c")],
    ),
    "stingning/ultrachat": ({"id": "0", "data": ["q", "a"]}, Layout.CHAT, [("user", "q"), ("assistant", "a")]),
    "HuggingFaceH4/ultrachat_200k": (
        {
            "prompt": "q",
            "prompt_id": "x",
            "messages": [{"content": "q", "role": "user"}, {"content": "a", "role": "assistant"}],
        },
        Layout.CHAT,
        [("user", "q"), ("assistant", "a")],
    ),
    "LDJnr/Capybara": (
        {"source": "x", "conversation": [{"input": "q", "output": "a"}, {"input": "r", "output": "b"}]},
        Layout.CHAT,
        [("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b")],
    ),
    "timdettmers/openassistant-guanaco": ({"text": "### Human: hi ### Assistant: ho"}, Layout.TEXT, []),
    "TRL's conversational prompt and completion": (
        {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
        Layout.PROMPT_COMPLETION,
        [("user", "q"), ("assistant", "a")],
    ),
    "DialogStudio, where the assistant begins and the user ends": (
        {
            "original dialog id": "x",
            "log": [
                {"turn id": 1, "user utterance": "", "system response": "Hello?"},
                {"turn id": 2, "user utterance": "q", "system response": "a"},
                {"turn id": 3, "user utterance": "Bye.", "system response": ""},
            ],
            "prompt": ["Be brief."],
        },
        Layout.CHAT,
        [("assistant", "Hello?"), ("user", "q"), ("assistant", "a"), ("user", "Bye.")],
    ),
    "a history of queries and responses": (
        {"query": "r", "response": "b", "history": [{"query": "q", "response": "a"}]},
        Layout.PROMPT_COMPLETION,
        [("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b")],
    ),
    "Fireworks' preference pairs": (
        {
            "chosen": {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
            "rejected": {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]},
        },
        Layout.CHAT,
        [("user", "q"), ("assistant", "a")],
    ),
    "OpenDialKG, as JSON text": (
        {"Messages": json.dumps([{"sender": "user", "message": "q"}, {"sender": "assistant", "message": "a"}])},
        Layout.CHAT,
        [("user", "q"), ("assistant", "a")],
    ),
    "AMC, whose answers are numbers": (
        {"problem": "p", "answer": 27.0},
        Layout.PROMPT_COMPLETION,
        [("user", "p"), ("assistant", "27.0")],
    ),
    "Spider": (
        {"db_id": "d", "question": "How many?", "query": "SELECT count(*)", "sql": {"from": {}}},
        Layout.PROMPT_COMPLETION,
        [("user", "How many?"), ("assistant", "SELECT count(*)")],
    ),
    "CONCODE": (
        {"code": "int f ( ) {}", "nl": "does f"},
        Layout.PROMPT_COMPLETION,
        [("user", "does f"), ("assistant", "int f ( ) {}")],
    ),
    "a question about a passage": (
        {"question": "q", "passage": "p", "answer": "a"},
        Layout.PROMPT_COMPLETION,
        [("user", "q\n\np"), ("assistant", "a")],
    ),
    "glaiveai/glaive-function-calling-v2": (
        {
            "system": "SYSTEM: You have functions.",
            "chat": "USER: q\n\n\nASSISTANT: <functioncall> {} <|endoftext|>\n\n\n"
            "FUNCTION RESPONSE: {}\n\n\nASSISTANT: a <|endoftext|>\n\n\n",
        },
        Layout.CHAT,
        [
            ("system", "You have functions."),
            *(("user", "q"), ("assistant", "<functioncall> {}"), ("tool", "{}"), ("assistant", "a")),
        ],
    ),
    "PaLM": (
        {"messages": [{"author": "user", "content": "q"}, {"author": "bot", "content": "a"}]},
        Layout.CHAT,
        [("user", "q"), ("assistant", "a")],
    ),
    "names in capitals": (
        {"Question": "q", "Answer": "a"},
        Layout.PROMPT_COMPLETION,
        [("user", "q"), ("assistant", "a")],
    ),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_layout_is_found_by_its_columns(tmp_path, name):
    row, layout, conversation = PUBLIC[name]
    rows, found = read(tmp_path, row)
    assert found.layout is layout
    assert turns(rows[0]) == conversation
    assert bool(rows[0].text) == (layout is Layout.TEXT)


def test_a_row_that_is_a_list_of_instructions_is_a_talk(tmp_path):
    talk = [{"instruction": "i", "input": "about", "output": "a"}, {"instruction": "r", "input": "", "output": "b"}]
    rows, found = read(tmp_path, [talk, talk[1:]])  # Lawyer LLaMA's
    assert found.layout is Layout.CHAT
    assert turns(rows[0]) == [("user", "i\n\nabout"), ("assistant", "a"), ("user", "r"), ("assistant", "b")]
    with pytest.raises(DatasetError) as error:
        read(tmp_path, talk, talk)  # a list a line may as well be a batch of rows
    assert "must be a JSON object, is a list" in error.value.problem


def test_a_row_that_is_a_list_of_texts_has_numbered_columns(tmp_path):
    cells = ["where is my card?", "card_arrival"]
    with pytest.raises(DatasetError) as error:
        read(tmp_path, cells, cells)
    assert 'columns {prompt: "0", completion: "1"}' in error.value.problem
    rows, _ = read(tmp_path, cells, cells, columns=Columns(prompt="0", completion="1"))
    assert turns(rows[1]) == [("user", "where is my card?"), ("assistant", "card_arrival")]


def test_tool_calls_their_results_and_the_tools_are_kept(tmp_path):
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
    row = read(tmp_path, openai)[0][0]
    assert row.messages[1] == Message("assistant", "", tool_calls=({"id": "c1", **CALL},))
    assert row.messages[2] == Message("tool", "rain", tool_call_id="c1")
    assert row.tools == ({"type": "function", "function": TOOL},)


def test_function_calls_in_the_way_of_llama_factory_are_the_same_calls(tmp_path):
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
    row = read(tmp_path, sharegpt)[0][0]
    assert [message.role for message in row.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert row.messages[2].tool_calls == (CALL,)
    assert row.tools == ({"type": "function", "function": TOOL},)


def test_answers_that_are_calls_are_the_same_calls(tmp_path):
    answers = json.dumps([{"name": "get_weather", "arguments": {"city": "Oslo"}}])
    row = read(tmp_path, {"id": 1, "query": "Weather in Oslo?", "answers": answers, "tools": json.dumps([TOOL])})[0][0]
    assert row.messages == (Message("user", "Weather in Oslo?"), Message("assistant", "", tool_calls=(CALL,)))  # xLAM's
    assert row.tools == ({"type": "function", "function": TOOL},)


def test_content_parts_and_weights_in_the_way_of_llama_factory_are_the_same_turns(tmp_path):
    def turn(role: str, text: str, weight: float) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "value": text}], "loss_weight": weight}

    row = read(
        tmp_path, {"messages": [turn("user", "q", 0.0), turn("assistant", "a", 1.0), turn("assistant", "b", 0.0)]}
    )
    assert turns(row[0][0]) == [("user", "q"), ("assistant", "a"), ("assistant", "b")]
    assert [message.learned for message in row[0][0].messages[1:]] == [True, False]


def test_an_answer_of_weight_zero_is_shown_and_not_learned(tmp_path):
    ask, bad = {"role": "user", "content": "q"}, {"role": "assistant", "content": "no", "weight": 0}
    row = read(tmp_path, {"messages": [ask, bad, ask, {"role": "assistant", "content": "yes", "weight": 1}]})[0][0]
    assert [message.learned for message in row.messages if message.role == "assistant"] == [False, True]


SQUAD = {"id": "1", "title": "t", "context": "c", "question": "q", "answers": {"text": ["a"], "answer_start": [0]}}


def test_how_rows_were_read_is_said(tmp_path):
    _, found = read(tmp_path, {"id": 1, "question": "q", "chosen": "a", "rejected": "b", "system": "s"})
    assert found.remarks[0].message == (
        'Read as prompt_completion: prompt from "question", completion from "chosen", system from "system". '
        "Not read: id, rejected."
    )
    assert found.remarks[1].message.startswith("Preference pairs: the chosen answers are learned")


def test_a_nested_answer_can_be_named(tmp_path):
    columns = Columns(prompt="question", input="context", completion="answers.text.0")
    rows, _ = read(tmp_path, SQUAD, columns=columns)
    assert turns(rows[0]) == [("user", "q\n\nc"), ("assistant", "a")]


def test_named_columns_come_before_the_usual_ones(tmp_path):
    row = {"question": "q", "answer": "a", "title": "t", "summary": "s"}
    rows, found = read(tmp_path, row, columns=Columns(prompt="title", completion="summary"))
    assert turns(rows[0]) == [("user", "t"), ("assistant", "s")]
    assert found.layout is Layout.PROMPT_COMPLETION


def test_a_named_layout_comes_before_the_one_that_is_found(tmp_path):
    rows, found = read(tmp_path, PUBLIC["tatsu-lab/alpaca"][0], layout=Layout.TEXT)
    assert (found.layout, rows[0].text) == (Layout.TEXT, "Below is an instruction … 3")


def test_a_column_that_is_not_there_is_named_with_the_nearest_one(tmp_path):
    with pytest.raises(DatasetError) as error:
        read(tmp_path, {"question": "q", "answer": "a"}, columns=Columns(prompt="qestion"))
    assert (error.value.reason, error.value.field) == ("COLUMN_NOT_FOUND", "columns.prompt")
    assert "'question'" in error.value.problem


def test_a_mapping_that_leaves_the_answer_open_is_refused(tmp_path):
    with pytest.raises(DatasetError) as error:
        read(tmp_path, {"title": "t", "summary": "s"}, columns=Columns(prompt="title"))
    assert error.value.reason == "COLUMNS_INCOMPLETE"
    assert "columns.completion" in error.value.remedy
