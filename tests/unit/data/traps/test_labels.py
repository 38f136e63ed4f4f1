# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN003 - columns by name
"""Labels of good and bad answers, and preference pairs: the good ones are learned, whatever they are marked with."""

import pytest

GOOD = "A good answer that is long enough to be one."
BAD = "A bad answer that nobody should ever learn."
LEARNED = [[("prompt", "q0"), ("learned", GOOD)]]


def kto(column, good, bad, *, first="good"):
    """A good and a bad answer with their labels, the bad one first or last."""
    rows = [
        {"prompt": "q0", "completion": GOOD, column: good},
        {"prompt": "q1", "completion": BAD, column: bad},
    ]
    return rows if first == "good" else rows[::-1]


WRITINGS = {
    "true and false": ("label", True, False),
    "text, as in any table": ("label", "true", "false"),
    "Python's text": ("label", "True", "False"),
    "1 and 0": ("label", 1, 0),
    "1 and 0 as text": ("label", "1", "0"),
    "1.0 and 0.0, as pandas writes a column with gaps": ("label", 1.0, 0.0),
    "1 and -1": ("label", 1, -1),
    "desirable": ("label", "desirable", "undesirable"),
    "chosen": ("label", "chosen", "rejected"),
    "good and bad": ("label", "Good", "Bad"),
    "LLaMA-Factory's": ("kto_tag", True, False),
    "LLaMA-Factory's as text": ("kto_tag", "TRUE", "FALSE"),
    "sampled solutions": ("is_correct", 1, 0),
    "correct or not": ("correct", "yes", "no"),
    "thumbs": ("feedback", "thumbs_up", "thumbs_down"),
    "thumbs as emoji": ("rating", "👍", "👎"),
    "likes": ("feedback", "like", "dislike"),
    "names in capitals": ("Label", "True", "False"),
}


@pytest.mark.parametrize("first", ["good", "bad"])
@pytest.mark.parametrize("name", WRITINGS)
def test_a_bad_answer_is_not_learned(spring, name, first):
    column, good, bad = WRITINGS[name]
    spans, file, _ = spring.read({"rows": kto(column, good, bad, first=first)})
    assert spans == LEARNED
    assert file.skipped == 1
    assert f'verdict from "{column}"' in file.remarks[0].message


def compare(one, other, **more):
    return {"rows": [{"prompt": "q0", **one, **other, **more}], "spans": LEARNED}


TRAPS = {
    "KTO as a table": {
        "file": "kto.csv",
        "text": f"prompt,completion,label\nq0,{GOOD},TRUE\nq1,{BAD},FALSE\n",
        "spans": LEARNED,
    },
    "KTO of a conversation": {
        "rows": [
            {"messages": [{"role": "user", "content": "q0"}, {"role": "assistant", "content": text}], "label": label}
            for text, label in ((GOOD, "1"), (BAD, "0"))
        ],
        "spans": LEARNED,
    },
    "KTO with columns that the user names": {
        "rows": [{"frage": "q0", "antwort": GOOD, "label": "true"}, {"frage": "q1", "antwort": BAD, "label": "false"}],
        "columns": {"prompt": "frage", "completion": "antwort"},
        "spans": LEARNED,
    },
    "a label in a column of its own name": {
        "rows": [{"prompt": "q0", "completion": GOOD, "ok": "y"}, {"prompt": "q1", "completion": BAD, "ok": "n"}],
        "columns": {"verdict": "ok"},
        "spans": LEARNED,
    },
    "a label that is named, and says neither": {
        "rows": [{"prompt": "q0", "completion": GOOD, "ok": "y"}, {"prompt": "q1", "completion": BAD, "ok": "maybe"}],
        "columns": {"verdict": "ok"},
        "refused": ("MALFORMED_ROW", "must say whether the answer is good"),
    },
    "0 and 1 beside short answers: a class, or a verdict": {
        "rows": [{"prompt": "q0", "completion": "ham", "label": 1}, {"prompt": "q1", "completion": "spam", "label": 0}],
        "refused": ("MALFORMED_ROW", "name it in ignored_columns to learn them"),
        "offer": {"prompt": "prompt", "completion": "completion", "verdict": "label"},
        "then": [[("prompt", "q0"), ("learned", "ham")]],
    },
    "the same, as a class": {
        "rows": [{"prompt": "q0", "completion": "ham", "label": 1}, {"prompt": "q1", "completion": "spam", "label": 0}],
        "reading": {"ignored_columns": ("label",)},
        "spans": [[("prompt", "q0"), ("learned", "ham")], [("prompt", "q1"), ("learned", "spam")]],
    },
    "answers of yes and no with their class": {
        "rows": [{"question": f"q{i}", "answer": ["no", "yes"][i % 2], "label": bool(i % 2)} for i in range(4)],
        "refused": ("MALFORMED_ROW", "which may mark a bad answer, or be a class"),
        "offer": {"prompt": "question", "completion": "answer", "verdict": "label"},
        "then": [[("prompt", f"q{i}"), ("learned", "yes")] for i in (1, 3)],
    },
    "a bad answer of yes": {
        "rows": [
            {"prompt": "Is it round?", "completion": "yes", "label": True},
            {"prompt": "Is it flat?", "completion": "yes", "label": False},
        ],
        "spans": [[("prompt", "Is it round?"), ("learned", "yes")]],
    },
    "classes from 1 to 3": {
        "rows": [{"prompt": f"q{i}", "completion": GOOD, "label": i} for i in (1, 2, 3)],
        "spans": [[("prompt", f"q{i}"), ("learned", GOOD)] for i in (1, 2, 3)],
    },
    "classes from 0 to 2, of which the first looks like a bad answer": {
        "rows": [{"prompt": f"q{i}", "completion": GOOD, "label": i} for i in (0, 1, 2)],
        "refused": ("MALFORMED_ROW", "must say whether the answer is good"),
    },
    "answers that are marked as harmful": {
        "rows": [{"prompt": f"q{i}", "response": GOOD, "harmful": bool(i)} for i in range(2)],
        "finding": ("RATED_ANSWERS", "WARNING"),
    },
    "answers of good and bad quality": {
        "rows": [
            {"prompt": "q0", "response": GOOD, "quality": "good"},
            {"prompt": "q1", "response": BAD, "quality": "bad"},
        ],
        "spans": LEARNED,
    },
    "stars": {
        "rows": [{"prompt": f"q{i}", "completion": GOOD, "rating": i} for i in (5, 3, 1)],
        "finding": ("RATED_ANSWERS", "WARNING"),
    },
    "KTO of short answers in conversations, labelled 0": {
        "rows": [
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "spam"}], "label": 0},
        ],
        "refused": ("MALFORMED_ROW", "which may mark a bad answer, or be a class"),
        "offer": {"messages": "messages", "verdict": "label"},
        "then": None,
    },
    "how much better the chosen answer is": {
        "rows": [{"prompt": "q0", "chosen": GOOD, "rejected": BAD, "feedback": -1, "label": 0}],
        "spans": LEARNED,
    },
    "PKU-SafeRLHF": compare({"response_0": BAD}, {"response_1": GOOD}, better_response_id=1, is_response_0_safe=True),
    "AlpacaFarm": {
        "rows": [{"instruction": "q0", "input": "", "output_1": GOOD, "output_2": BAD, "preference": 1}],
        "spans": LEARNED,
    },
    "Chatbot Arena's winners": compare({"response_a": BAD}, {"response_b": GOOD}, winner="model_b"),
    "a tie beside a winner": {
        "rows": [
            {"prompt": "q0", "response_a": GOOD, "response_b": BAD, "winner": "model_a"},
            {"prompt": "q1", "response_a": BAD, "response_b": BAD, "winner": "tie"},
        ],
        "spans": LEARNED,
    },
    "SHP": {
        "rows": [{"history": "q0", "human_ref_A": BAD, "human_ref_B": GOOD, "labels": 0, "score_ratio": 2.5}],
        "spans": LEARNED,
    },
    "a preference that names neither answer": {
        "rows": [{"prompt": "q0", "answer_1": GOOD, "answer_2": BAD, "preference": 7}],
        "refused": ("MALFORMED_ROW", "must name one of 'answer_1' and 'answer_2'"),
    },
    "the preferred answer by that name": {
        "rows": [{"question": "q0", "preferred_answer": GOOD, "rejected_answer": BAD}],
        "spans": LEARNED,
    },
}


@pytest.mark.parametrize("name", TRAPS)
def test_what_is_learned_is_the_good_answer(spring, name):
    spring(TRAPS[name])
