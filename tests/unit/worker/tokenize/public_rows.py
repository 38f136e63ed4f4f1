# SPDX-License-Identifier: Apache-2.0
"""Rows of our own in the shapes that public projects write, with what the model reads and learns of them.

They are shown as test_rows_public_formats.py renders them: each turn as [role]text, what is learned between « and ».
"""

import json
from typing import Any

from finetree_worker.tokenize.rows import RowFormat

PAIR = "[user]Name a gas.[assistant]«Argon.»"
TWO_PAIRS = "[user]Name a gas.[assistant]«Argon.»[user]Another?[assistant]«Neon.»"
ASKED = {"role": "user", "content": "Name a gas."}
ANSWERED = {"role": "assistant", "content": "Argon."}
HUMAN, GPT = {"from": "human", "value": "Name a gas."}, {"from": "gpt", "value": "Argon."}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TIDE = {"name": "tide", "description": "Height of the tide", "parameters": SCHEMA}
TIDES = '(tide)[user]Tide at Brest?[assistant]«<tide {"city": "Brest"}>»[tool]2.1[assistant]«It is 2.1 m.»'
CHAT, SHAREGPT, TEXT = RowFormat.CHAT, RowFormat.SHAREGPT, RowFormat.TEXT
PAIRS, INSTRUCTION = RowFormat.PROMPT_COMPLETION, RowFormat.INSTRUCTION

ONE_ROW: dict[str, tuple[Any, RowFormat, str]] = {
    # Questions and answers, under the names that projects give them.
    "Alpaca": ({"instruction": "Name a gas.", "input": "", "output": "Argon."}, INSTRUCTION, PAIR),
    "Alpaca with an input": (
        {"instruction": "Translate.", "input": "la mer", "output": "the sea"},
        INSTRUCTION,
        "[user]Translate.\n\nla mer[assistant]«the sea»",
    ),
    "Dolly": (
        {"instruction": "When?", "context": "In 1903.", "response": "1903", "category": "qa"},
        INSTRUCTION,
        "[user]When?\n\nIn 1903.[assistant]«1903»",
    ),
    "distilabel": ({"instruction": "Name a gas.", "generation": "Argon."}, INSTRUCTION, PAIR),
    "OpenOrca": (
        {"system_prompt": "Be brief.", "question": "Name a gas.", "response": "Argon."},
        PAIRS,
        "[system]Be brief." + PAIR,
    ),
    "GSM8K": ({"question": "Name a gas.", "answer": "Argon."}, PAIRS, PAIR),
    "NuminaMath": ({"problem": "1+1?", "solution": "Add: 2.", "answer": "2"}, PAIRS, "[user]1+1?[assistant]«Add: 2.»"),
    "FLAN": ({"inputs": "Name a gas.", "targets": "Argon.", "task": "x"}, PAIRS, PAIR),
    "P3": (
        {"inputs": [5, 7], "targets": [9], "inputs_pretokenized": "Name a gas.", "targets_pretokenized": "Argon."},
        PAIRS,
        PAIR,
    ),
    "Firefly's and BELLE's pairs": ({"kind": "qa", "input": "Name a gas.", "target": "Argon."}, PAIRS, PAIR),
    "Vertex AI's former pairs": ({"input_text": "Name a gas.", "output_text": "Argon."}, PAIRS, PAIR),
    "AdvertiseGen": ({"content": "Name a gas.", "summary": "Argon."}, PAIRS, PAIR),
    "SAMSum": ({"id": "1", "dialogue": "Name a gas.", "summary": "Argon."}, PAIRS, PAIR),
    "HumanEval": ({"task_id": "1", "prompt": "Name a gas.", "canonical_solution": "Argon."}, PAIRS, PAIR),
    "columns called as roles": ({"human": "Name a gas.", "assistant": "Argon."}, PAIRS, PAIR),
    "OpenAI's evals": ({"input": [ASKED], "ideal": "Argon."}, PAIRS, PAIR),
    "YandexGPT": ({"request": [{"role": "user", "text": "Name a gas."}], "response": "Argon."}, PAIRS, PAIR),
    "TRL's prompt and completion": ({"prompt": [ASKED], "completion": [ANSWERED]}, PAIRS, PAIR),
    "ms-swift's history": (
        {"query": "Another?", "response": "Neon.", "history": [["Name a gas.", "Argon."]]},
        PAIRS,
        TWO_PAIRS,
    ),
    "Chinese-Vicuna's lists": (
        {"input": ["Name a gas.", "Another?"], "output": ["Argon.", "Neon."]},
        PAIRS,
        TWO_PAIRS,
    ),
    "SQuAD's rows": (
        {"question": "When?", "context": "In 1903.", "answers": {"text": ["1903", "in 1903"], "answer_start": [3, 0]}},
        PAIRS,
        "[user]When?\n\nIn 1903.[assistant]«1903»",
    ),
    # Conversations.
    "OpenAI": ({"messages": [ASKED, ANSWERED]}, CHAT, PAIR),
    "a list of messages alone": ([ASKED, ANSWERED], CHAT, PAIR),
    "ShareGPT": ({"id": "a", "conversations": [HUMAN, GPT]}, SHAREGPT, PAIR),
    "conversations of role and content": ({"conversations": [ASKED, ANSWERED]}, CHAT, PAIR),
    "ShareGPT with a system column": (
        {"conversations": [HUMAN, GPT], "system": "Be brief."},
        SHAREGPT,
        "[system]Be brief." + PAIR,
    ),
    "Cohere's roles": (
        {
            "messages": [
                {"role": "System", "content": "Be brief."},
                {"role": "User", "content": "Name a gas."},
                {"role": "Chatbot", "content": "Argon."},
            ]
        },
        CHAT,
        "[system]Be brief." + PAIR,
    ),
    "UltraChat": ({"id": "0", "data": ["Name a gas.", "Argon.", "Another?", "Neon."]}, CHAT, TWO_PAIRS),
    "Capybara": ({"conversation": [{"input": "Name a gas.", "output": "Argon."}]}, CHAT, PAIR),
    "XTuner": (
        {"conversation": [{"system": "Be brief.", "input": "Name a gas.", "output": "Argon."}]},
        CHAT,
        "[system]Be brief." + PAIR,
    ),
    "Firefly's and ms-swift's turns": ({"conversation": [{"human": "Name a gas.", "assistant": "Argon."}]}, CHAT, PAIR),
    "Baize": ({"topic": "x", "input": "A talk.\n[|Human|] Name a gas.\n[|AI|] Argon.\n[|Human|] "}, CHAT, PAIR),
    "OpenAI's parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Name a gas."}]}, ANSWERED]},
        CHAT,
        PAIR,
    ),
    "Anthropic's thoughts": (
        {
            "messages": [
                ASKED,
                {
                    "role": "assistant",
                    "content": [{"type": "thinking", "thinking": "A noble one."}, {"type": "text", "text": "Argon."}],
                },
            ]
        },
        CHAT,
        "[user]Name a gas.[assistant]«<think>\nA noble one.\n</think>\n\nArgon.»",
    ),
    "DeepSeek's thoughts": (
        {"messages": [ASKED, ANSWERED | {"reasoning_content": "A noble one."}]},
        CHAT,
        "[user]Name a gas.[assistant]«<think>\nA noble one.\n</think>\n\nArgon.»",
    ),
    "Gemini": (
        {
            "systemInstruction": {"role": "system", "parts": [{"text": "Be brief."}]},
            "contents": [
                {"role": "user", "parts": [{"text": "Name a gas."}]},
                {"role": "model", "parts": [{"text": "Argon."}]},
            ],
        },
        CHAT,
        "[system]Be brief." + PAIR,
    ),
    "Bedrock": (
        {
            "schemaVersion": "bedrock-conversation-2024",
            "system": [{"text": "Be brief."}],
            "messages": [
                {"role": "user", "content": [{"text": "Name a gas."}]},
                {"role": "assistant", "content": [{"text": "Argon."}]},
            ],
        },
        CHAT,
        "[system]Be brief." + PAIR,
    ),
    "turns that are not learned": (
        {
            "messages": [
                ASKED,
                ANSWERED | {"weight": 0},
                {"role": "user", "content": "Another?"},
                {"role": "assistant", "content": "Neon.", "loss": True},
            ]
        },
        CHAT,
        "[user]Name a gas.[assistant]Argon.[user]Another?[assistant]«Neon.»",
    ),
    # Functions.
    "OpenAI's tools": (
        {
            "tools": [{"type": "function", "function": TIDE}],
            "messages": [
                {"role": "user", "content": "Tide at Brest?"},
                {"role": "assistant", "tool_calls": [{"function": {"name": "tide", "arguments": '{"city": "Brest"}'}}]},
                {"role": "tool", "content": "2.1"},
                {"role": "assistant", "content": "It is 2.1 m."},
            ],
        },
        CHAT,
        TIDES,
    ),
    "OpenAI's former functions": (
        {
            "functions": [TIDE],
            "messages": [
                {"role": "user", "content": "Tide at Brest?"},
                {
                    "role": "assistant",
                    "content": None,
                    "function_call": {"name": "tide", "arguments": '{"city": "Brest"}'},
                },
                {"role": "function", "name": "tide", "content": "2.1"},
                {"role": "assistant", "content": "It is 2.1 m."},
            ],
        },
        CHAT,
        TIDES,
    ),
    "LLaMA-Factory's tools": (
        {
            "tools": json.dumps([TIDE]),
            "conversations": [
                {"from": "human", "value": "Tide at Brest?"},
                {"from": "function_call", "value": '{"name": "tide", "arguments": {"city": "Brest"}}'},
                {"from": "observation", "value": "2.1"},
                {"from": "gpt", "value": "It is 2.1 m."},
            ],
        },
        SHAREGPT,
        TIDES,
    ),
    "Anthropic's tools": (
        {
            "tools": [{"name": "tide", "description": "Height", "input_schema": SCHEMA}],
            "messages": [
                {"role": "user", "content": "Tide at Brest?"},
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "t1", "name": "tide", "input": {"city": "Brest"}}],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "2.1"}]},
                {"role": "assistant", "content": "It is 2.1 m."},
            ],
        },
        CHAT,
        TIDES,
    ),
    "Bedrock's tools": (
        {
            "toolConfig": {"tools": [{"toolSpec": {"name": "tide", "inputSchema": {"json": SCHEMA}}}]},
            "messages": [
                {"role": "user", "content": [{"text": "Tide at Brest?"}]},
                {
                    "role": "assistant",
                    "content": [{"toolUse": {"toolUseId": "t1", "name": "tide", "input": {"city": "Brest"}}}],
                },
                {"role": "user", "content": [{"toolResult": {"toolUseId": "t1", "content": [{"text": "2.1"}]}}]},
                {"role": "assistant", "content": [{"text": "It is 2.1 m."}]},
            ],
        },
        CHAT,
        TIDES,
    ),
    "Gemini's tools": (
        {
            "tools": [{"functionDeclarations": [{"name": "tide", "parameters": SCHEMA}]}],
            "contents": [
                {"role": "user", "parts": [{"text": "Tide at Brest?"}]},
                {"role": "model", "parts": [{"functionCall": {"name": "tide", "args": {"city": "Brest"}}}]},
                {"role": "user", "parts": [{"functionResponse": {"name": "tide", "response": 2.1}}]},
                {"role": "model", "parts": [{"text": "It is 2.1 m."}]},
            ],
        },
        CHAT,
        TIDES,
    ),
    # Preference pairs: the chosen answer is learned.
    "TRL's preferences": ({"prompt": "Name a gas.", "chosen": "Argon.", "rejected": "Air."}, PAIRS, PAIR),
    "UltraFeedback": (
        {"prompt": "Name a gas.", "chosen": [ASKED, ANSWERED], "rejected": [ASKED, ANSWERED]},
        PAIRS,
        PAIR,
    ),
    "UltraFeedback with messages": (
        {"messages": [ASKED, ANSWERED], "chosen": [ASKED, ANSWERED], "rejected": [ASKED]},
        CHAT,
        PAIR,
    ),
    "LLaMA-Factory's preferences": (
        {"conversations": [HUMAN], "chosen": GPT, "rejected": {"from": "gpt", "value": "Air."}},
        SHAREGPT,
        PAIR,
    ),
    "chosen conversations": ({"chosen": [ASKED, ANSWERED], "rejected": [ASKED, ANSWERED]}, CHAT, PAIR),
    "HH-RLHF": (
        {
            "chosen": "\n\nHuman: Name a gas.\n\nAssistant: Argon.\n\nHuman: Another?\n\nAssistant: Neon.",
            "rejected": "\n\nHuman: Name a gas.\n\nAssistant: Air.",
        },
        CHAT,
        TWO_PAIRS,
    ),
    "OpenAI's preferences": (
        {"input": {"messages": [ASKED]}, "preferred_output": [ANSWERED], "non_preferred_output": [ANSWERED]},
        CHAT,
        PAIR,
    ),
    # Rows in other rows.
    "OpenAssistant's trees": (
        {
            "message_tree_id": "t",
            "prompt": {
                "text": "Name a gas.",
                "role": "prompter",
                "replies": [
                    {"text": "Air.", "role": "assistant", "rank": 1, "replies": []},
                    {
                        "text": "Argon.",
                        "role": "assistant",
                        "rank": 0,
                        "replies": [{"text": "Thanks", "role": "prompter"}],
                    },
                ],
            },
        },
        CHAT,
        PAIR,
    ),
    "the dataset server's rows": ({"row_idx": 0, "row": {"question": "Name a gas.", "answer": "Argon."}}, PAIRS, PAIR),
    "plain text": ({"text": "Seals sleep at sea."}, TEXT, "«Seals sleep at sea.»"),
}
