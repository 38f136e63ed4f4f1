# SPDX-License-Identifier: Apache-2.0
"""Answers that are not what they seem: a model's beside the right one, lists in a text."""

import pytest

TRAPS = {
    "an evaluation file: a model's answer beside gt_answer": {
        "rows": [{"question": "q", "answer": "what the model said", "gt_answer": "right"}],
        "refused": ("MALFORMED_ROW", "it has two answers"),
        "offer": {"prompt": "question", "completion": "gt_answer"},
        "then": [[("prompt", "q"), ("learned", "right")]],
        "more": "the other answer is left out on purpose",
    },
    "a response beside the reference answer": {
        "rows": [{"prompt": "q", "response": "what the model said", "reference_answer": "right"}],
        "refused": ("MALFORMED_ROW", "to learn the right one"),
        "offer": {"prompt": "prompt", "completion": "reference_answer"},
        "then": [[("prompt", "q"), ("learned", "right")]],
        "more": "the other answer is left out on purpose",
    },
    "an output beside the expected one": {
        "rows": [{"input": "q", "output": "what the model said", "expected_output": "right"}],
        "refused": ("MALFORMED_ROW", "it has two answers"),
        "offer": {"prompt": "input", "completion": "expected_output"},
        "then": [[("prompt", "q"), ("learned", "right")]],
    },
    "the right answer beside what a model predicted": {
        "rows": [{"question": "q", "model_answer": "what the model said about all of it", "gt_answer": "right"}],
        "refused": ("MALFORMED_ROW", "it has two answers"),
        "offer": {"prompt": "question", "completion": "gt_answer"},
        "then": [[("prompt", "q"), ("learned", "right")]],
        "more": "the other answer is long beside the right one",
    },
    "what was thought before the answer": {
        "rows": [{"question": "2+3?", "answer": "5"}, {"question": "3+3?", "thinking": "3+3=6", "answer": "6"}],
        "spans": [
            [("prompt", "2+3?"), ("learned", "5")],
            [("prompt", "3+3?"), ("learned", "<think>\n3+3=6\n</think>\n\n6")],
        ],
    },
    "the right answer alone": {
        "rows": [{"question": "q", "gt_answer": "right"}],
        "spans": [[("prompt", "q"), ("learned", "right")]],
    },
    "OpenMathInstruct: the solution beside its last line": {
        "rows": [{"problem": "p", "generated_solution": "First we add 3 and 4.", "expected_answer": "7"}],
        "refused": ("MALFORMED_ROW", "it has two answers"),
        "offer": {"prompt": "problem", "completion": "generated_solution"},
        "then": [[("prompt", "p"), ("learned", "First we add 3 and 4.")]],
    },
    "a model's answer beside one as long": {
        "rows": [
            {
                "instruction": "i",
                "output": "The sky is blue by day.",
                "model_response": "The sky is red by day.",
            }
        ],
        "spans": [[("prompt", "i"), ("learned", "The sky is blue by day.")]],
    },
    "a model's reasoning beside the last line alone": {
        "rows": [{"question": "q", "answer": "7", "generated_text": "First we add 3 and 4, then we have it."}],
        "finding": ("UNREAD_COLUMNS", "ERROR"),
    },
    "the answers' list, as Python writes it": {
        "file": "answers.csv",
        "text": "question,answer\nWho?,\"['Ann', 'Anna']\"\nWhere?,\"['Rome']\"\n",
        "finding": ("LISTS_AS_TEXT", "ERROR"),
        "offer": {"prompt": "question", "completion": "answer.0"},
        "then": [[("prompt", "Who?"), ("learned", "Ann")], [("prompt", "Where?"), ("learned", "Rome")]],
    },
    "the answers' list, as JSON": {
        "rows": [{"question": "Who?", "answer": '["Ann"]'}, {"question": "Where?", "answer": '["Rome"]'}],
        "finding": ("LISTS_AS_TEXT", "ERROR"),
        "offer": {"prompt": "question", "completion": "answer.0"},
        "then": [[("prompt", "Who?"), ("learned", "Ann")], [("prompt", "Where?"), ("learned", "Rome")]],
    },
    "a list of numbers that is the answer": {
        "rows": [{"instruction": "Sort 2, 1.", "output": "[1, 2]"}],
        "spans": [[("prompt", "Sort 2, 1."), ("learned", "[1, 2]")]],
    },
    "a list of words in one row of three": {
        "rows": [
            {"instruction": "List two pets.", "output": "['cat', 'dog']"},
            {"instruction": "Name one.", "output": "A cat."},
            {"instruction": "Another.", "output": "A dog."},
        ],
    },
    "messages in Python's notation, in a table": {
        "file": "chat.csv",
        "text": "id,messages\n1,\"[{'role': 'user', 'content': 'hi'}, "
        "{'role': 'assistant', 'content': \"\"it's\"\"}]\"\n",
        "spans": [[("prompt", "hi"), ("learned", "it's")]],
    },
    "a prompt of messages in Python's notation": {
        "file": "pairs.csv",
        "text": "prompt,completion\n\"[{'role': 'user', 'content': 'hi'}]\",\"[{'role': 'assistant', 'content': "
        "'ho'}]\"\n",
        "spans": [[("prompt", "hi"), ("learned", "ho")]],
    },
    "messages that are no list in any notation": {
        "file": "chat.csv",
        "text": "id,messages\n1,\"[{'role': 'user', 'content': 'q'}\n {'role': 'assistant', 'content': 'a'}]\"\n",
        "refused": ("MALFORMED_ROW", "it looks like Python, not JSON"),
    },
    "a call in Python's notation is not run": {
        "file": "chat.csv",
        "text": "id,messages\n1,\"[__import__('os').getcwd()]\"\n",
        "refused": ("MALFORMED_ROW", "must be a list"),
    },
}


@pytest.mark.parametrize("name", TRAPS)
def test_the_answer_that_is_learned_is_the_right_one(spring, name):
    spring(TRAPS[name])


def test_an_unasked_list_is_never_longer_than_a_bound(spring, monkeypatch):
    monkeypatch.setattr("finetree_data.columns.mapping.MAX_LITERAL", 10)
    trap = TRAPS["messages in Python's notation, in a table"]
    spring({**{key: trap[key] for key in ("file", "text")}, "refused": ("MALFORMED_ROW", "it looks like Python")})
