# SPDX-License-Identifier: Apache-2.0
"""Rows in the formats of known public datasets, written by hand: each becomes the conversation that it stands for."""

import json

import pytest
from finetree_data.options import RowFormat


def turns(row):
    return [(message.role, message.content) for message in row.messages]


PUBLIC = {
    "tatsu-lab/alpaca": (
        {"instruction": "Add.", "input": "1 and 2", "output": "3", "text": "Below is an instruction … 3"},
        RowFormat.INSTRUCTION,
        [("user", "Add.\n\n1 and 2"), ("assistant", "3")],
    ),
    "alpaca without input": (
        {"instruction": "Name a planet.", "input": "", "output": "Mars"},
        RowFormat.INSTRUCTION,
        [("user", "Name a planet."), ("assistant", "Mars")],
    ),
    "databricks-dolly-15k": (
        {"instruction": "When?", "context": "In 1903.", "response": "1903", "category": "closed_qa"},
        RowFormat.INSTRUCTION,
        [("user", "When?\n\nIn 1903."), ("assistant", "1903")],
    ),
    "Open-Orca": (
        {"id": "flan.1", "system_prompt": "Be brief.", "question": "2+2?", "response": "4"},
        RowFormat.PROMPT_COMPLETION,
        [("system", "Be brief."), ("user", "2+2?"), ("assistant", "4")],
    ),
    "gsm8k": (
        {"question": "How many?", "answer": "Two. #### 2"},
        RowFormat.PROMPT_COMPLETION,
        [("user", "How many?"), ("assistant", "Two. #### 2")],
    ),
    "hendrycks math": (
        {"problem": "x=?", "level": "Level 1", "type": "Algebra", "solution": "1"},
        RowFormat.PROMPT_COMPLETION,
        [("user", "x=?"), ("assistant", "1")],
    ),
    "ShareGPT": (
        {"id": "a_0", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
        RowFormat.SHAREGPT,
        [("user", "hi"), ("assistant", "hello")],
    ),
    "OpenAI chat": (
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
        RowFormat.CHAT,
        [("user", "hi"), ("assistant", "hello")],
    ),
    "OpenAI content parts": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": "c"},
            ]
        },
        RowFormat.CHAT,
        [("user", "ab"), ("assistant", "c")],
    ),
    "stingning/ultrachat": ({"id": "0", "data": ["q", "a"]}, RowFormat.CHAT, [("user", "q"), ("assistant", "a")]),
    "HuggingFaceH4/ultrachat_200k": (
        {
            "prompt": "q",
            "prompt_id": "x",
            "messages": [{"content": "q", "role": "user"}, {"content": "a", "role": "assistant"}],
        },
        RowFormat.CHAT,
        [("user", "q"), ("assistant", "a")],
    ),
    "LDJnr/Capybara": (
        {"source": "x", "conversation": [{"input": "q", "output": "a"}, {"input": "r", "output": "b"}]},
        RowFormat.CHAT,
        [("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b")],
    ),
    "timdettmers/openassistant-guanaco": ({"text": "### Human: hi ### Assistant: ho"}, RowFormat.TEXT, []),
    "TRL's conversational prompt and completion": (
        {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
        RowFormat.PROMPT_COMPLETION,
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
        RowFormat.CHAT,
        [("assistant", "Hello?"), ("user", "q"), ("assistant", "a"), ("user", "Bye.")],
    ),
    "a history of queries and responses": (
        {"query": "r", "response": "b", "history": [{"query": "q", "response": "a"}]},
        RowFormat.PROMPT_COMPLETION,
        [("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b")],
    ),
    "Fireworks' preference pairs": (
        {
            "chosen": {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
            "rejected": {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]},
        },
        RowFormat.CHAT,
        [("user", "q"), ("assistant", "a")],
    ),
    "OpenDialKG, as JSON text": (
        {"Messages": json.dumps([{"sender": "user", "message": "q"}, {"sender": "assistant", "message": "a"}])},
        RowFormat.CHAT,
        [("user", "q"), ("assistant", "a")],
    ),
    "AMC, whose answers are numbers": (
        {"problem": "p", "answer": 27.0},
        RowFormat.PROMPT_COMPLETION,
        [("user", "p"), ("assistant", "27.0")],
    ),
    "Spider": (
        {"db_id": "d", "question": "How many?", "query": "SELECT count(*)", "sql": {"from": {}}},
        RowFormat.PROMPT_COMPLETION,
        [("user", "How many?"), ("assistant", "SELECT count(*)")],
    ),
    "CONCODE": (
        {"code": "int f ( ) {}", "nl": "does f"},
        RowFormat.PROMPT_COMPLETION,
        [("user", "does f"), ("assistant", "int f ( ) {}")],
    ),
    "a question about a passage": (
        {"question": "q", "passage": "p", "answer": "a"},
        RowFormat.PROMPT_COMPLETION,
        [("user", "q\n\np"), ("assistant", "a")],
    ),
    "glaiveai/glaive-function-calling-v2": (
        {
            "system": "SYSTEM: You have functions.",
            "chat": "USER: q\n\n\nASSISTANT: <functioncall> {} <|endoftext|>\n\n\n"
            "FUNCTION RESPONSE: {}\n\n\nASSISTANT: a <|endoftext|>\n\n\n",
        },
        RowFormat.CHAT,
        [
            ("system", "You have functions."),
            *(("user", "q"), ("assistant", "<functioncall> {}"), ("tool", "{}"), ("assistant", "a")),
        ],
    ),
    "PaLM": (
        {"messages": [{"author": "user", "content": "q"}, {"author": "bot", "content": "a"}]},
        RowFormat.CHAT,
        [("user", "q"), ("assistant", "a")],
    ),
    "names in capitals": (
        {"Question": "q", "Answer": "a"},
        RowFormat.PROMPT_COMPLETION,
        [("user", "q"), ("assistant", "a")],
    ),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_layout_is_found_by_its_columns(read_objects, name):
    row, row_format, conversation = PUBLIC[name]
    rows, found = read_objects(row)
    assert found.row_format is row_format
    assert turns(rows[0]) == conversation
    assert bool(rows[0].text) == (row_format is RowFormat.TEXT)


def test_how_rows_were_read_is_said(read_objects):
    _, found = read_objects({"id": 1, "question": "q", "chosen": "a", "rejected": "b", "system": "s"})
    assert found.remarks[0].message == (
        'Read as prompt_completion: prompt from "question", completion from "chosen", system from "system". '
        "Not read: id, rejected."
    )
    assert found.remarks[1].message.startswith("Preference pairs: the chosen answers are learned")
