# SPDX-License-Identifier: Apache-2.0
"""Files of our own in the shapes that public projects write, with the rows that are read of them.

They are shown as the single rows beside this file are.
"""

import json
from typing import Any

from finetree_worker.tokenize.rows import RowFormat
from public_rows import ANSWERED, ASKED, CHAT, INSTRUCTION, ONE_ROW, PAIR, PAIRS, TEXT, TWO_PAIRS


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


Case = tuple[str, str, RowFormat, list[str]]
"""Name of the file, its content, what it is found to be, and its rows as they are read."""

FILES: dict[str, Case] = {
    "seed tasks of Self-Instruct": (
        "seed_tasks.jsonl",
        lines(
            {
                "id": "1",
                "instruction": "Double it.",
                "instances": [{"input": "2", "output": "4"}, {"input": "3", "output": "6"}],
            },
            {"id": "2", "instruction": "Name a gas.", "instances": [{"input": "", "output": "Argon."}]},
        ),
        INSTRUCTION,
        ["[user]Double it.\n\n2[assistant]«4»", "[user]Double it.\n\n3[assistant]«6»", PAIR],
    ),
    "one seed task": (
        "seed.json",
        json.dumps({"instruction": "Double it.", "instances": [{"input": "2", "output": "4"}]}, indent=1),
        INSTRUCTION,
        ["[user]Double it.\n\n2[assistant]«4»"],
    ),
    "a task of Natural Instructions": (
        "task001.json",
        json.dumps(
            {
                "Definition": ["Double it."],
                "Positive Examples": [{"input": "1", "output": "2", "explanation": "x"}],
                "Instances": [{"id": "a", "input": "2", "output": ["4", "four"]}],
            },
            indent=4,
        ),
        INSTRUCTION,
        ["[user]Double it.\n\n2[assistant]«4»"],
    ),
    "SQuAD's document": (
        "dev.json",
        json.dumps(
            {
                "version": "2",
                "data": [
                    {
                        "title": "Flight",
                        "paragraphs": [
                            {
                                "context": "In 1903.",
                                "qas": [
                                    {"id": "1", "question": "When?", "answers": [{"text": "1903", "answer_start": 3}]},
                                    {"id": "2", "question": "Where?", "answers": [], "is_impossible": True},
                                ],
                            }
                        ],
                    }
                ],
            }
        ),
        PAIRS,
        ["[user]When?\n\nIn 1903.[assistant]«1903»"],
    ),
    "an object of rows by their names": (
        "mbpp.json",
        json.dumps(
            {
                "a/1": {"prompt": "Name a gas.", "canonical_solution": "Argon."},
                "a/2": {"prompt": "Another?", "canonical_solution": "Neon."},
            }
        ),
        PAIRS,
        [PAIR, "[user]Another?[assistant]«Neon.»"],
    ),
    "LMFlow's document": (
        "train.json",
        json.dumps({"type": "text2text", "instances": [{"input": "Name a gas.", "output": "Argon."}]}),
        PAIRS,
        [PAIR],
    ),
    "KTO's rows": (
        "kto.jsonl",
        lines(
            {"prompt": "Name a gas.", "completion": "Argon.", "label": True},
            {"prompt": "Name a gas.", "completion": "Air.", "label": False},
        ),
        PAIRS,
        [PAIR],
    ),
    "history in some rows only": (
        "history.jsonl",
        lines(
            {"query": "Name a gas.", "response": "Argon."},
            {"query": "Another?", "response": "Neon.", "history": [["Name a gas.", "Argon."]]},
        ),
        PAIRS,
        [PAIR, TWO_PAIRS],
    ),
    "JSON lines called text": ("corpus.txt", lines({"text": "One."}, {"text": "Two."}), TEXT, ["«One.»", "«Two.»"]),
    "blank lines between": ("a.jsonl", '\n{"text": "One."}\n\n \n{"text": "Two."}\n\n', TEXT, ["«One.»", "«Two.»"]),
    "objects one after another": (
        "a.json",
        '{"text":\n"One."}\n{"text":\n"Two."}',
        TEXT,
        ["«One.»", "«Two.»"],
    ),
    "a table of questions": ("qa.csv", "\ufeffQuestion,Answer\r\nName a gas.,Argon.\r\n", PAIRS, [PAIR]),
    "a table with spaces": ("qa.csv", 'question, "answer"\n"Name a gas.", "Argon."\n', PAIRS, [PAIR]),
    "a table with tabs": ("qa.tsv", "question\tanswer\nName a gas.\tArgon.\n", PAIRS, [PAIR]),
    "a table with JSON in cells": (
        "chat.csv",
        'id,messages\n1,"' + json.dumps([ASKED, ANSWERED]).replace('"', '""') + '"\n',
        CHAT,
        [PAIR],
    ),
}
CASES = {
    name: ("rows.jsonl", lines(row), row_format, [shown]) for name, (row, row_format, shown) in ONE_ROW.items()
} | FILES
