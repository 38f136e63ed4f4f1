# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501, RUF001 - a row of a file is a line; Chinese has commas of its own
"""Columns that are left out: text that the rest may not make sense without stops, identifiers and labels do not."""

import pytest
from finetree_data.findings.finding import Severity

UNREAD = ("UNREAD_COLUMNS", "ERROR")
TASKS = (
    "Write a function to find the shared elements from the given two lists.",
    "Write a python function to identify non-prime numbers in a range.",
)
CODES = (
    "def shared(a, b):\n    return set(a) & set(b)",
    "def primes(n):\n    return [i for i in range(n) if not any(i % k == 0 for k in range(2, i))]",
)
TESTS = (
    ["assert shared((3, 4), (5, 4)) == {4} and shared((1,), (2,)) == set()"],
    ["assert primes(3) == [0, 1, 2] and primes(1) == [0] and True"],
)
BODIES = (
    "Each pack of dvds costs 76 dollars. There is a discount of 25 dollars on each pack.",
    "Dan has $ 3 left with him after he bought a candy bar for $ 4.",
)
ASKED = ("How much do you have to pay to buy each pack?", "How much money did Dan have at first?")
PASSAGES = (
    "The Amazon is a river in South America that carries more water than any other.",
    "Mount Everest was first climbed on the 29th of May 1953 by two men of a British party.",
)


def pair(question, answer):
    return [("prompt", question), ("learned", answer)]


TRAPS = {
    "MBPP: the task is learned, and never the code": {
        "rows": [
            {"task_id": 2 + i, "text": TASKS[i], "code": CODES[i], "test_list": TESTS[i], "challenge_test_list": []}
            for i in range(2)
        ],
        "finding": UNREAD,
        "offer": {"prompt": "text", "completion": "code"},
        "then": [pair(TASKS[i], CODES[i]) for i in range(2)],
        "more": "the tests name the functions, so they still stop",
    },
    "MBPP, sanitized: the tests that name the function": {
        "rows": [
            {"task_id": i, "prompt": TASKS[i], "code": CODES[i], "test_imports": [], "test_list": TESTS[i]}
            for i in range(2)
        ],
        "spans": [pair(TASKS[i], CODES[i]) for i in range(2)],
        "finding": UNREAD,
        "offer": {"prompt": "prompt", "input": "test_list", "completion": "code"},
        "then": [pair(f"{TASKS[i]}\n\n{TESTS[i][0]}", CODES[i]) for i in range(2)],
    },
    "SVAMP: the numbers stand in the body": {
        "rows": [
            {"ID": f"chal-{i}", "Body": BODIES[i], "Question": ASKED[i], "Equation": "( 76.0 - 25.0 )", "Answer": 51.0,
             "Type": "Subtraction"}
            for i in range(2)
        ],
        "finding": UNREAD,
        "offer": {"prompt": "Body", "input": "Question", "completion": "Answer"},
        "then": [pair(f"{BODIES[i]}\n\n{ASKED[i]}", "51.0") for i in range(2)],
    },
    "ASDiv, as a table": {
        "file": "asdiv.csv",
        "text": "ID,Grade,Source,Body,Question,Solution-Type,Answer,Formula\n"
        + "".join(f'nluds-{i},1,http://www.k5.com,"{BODIES[i]}",{ASKED[i]},Sum,9,7+2=9\n' for i in range(2)),
        "finding": UNREAD,
        "offer": {"prompt": "Body", "input": "Question", "completion": "Answer"},
        "then": [pair(f"{BODIES[i]}\n\n{ASKED[i]}", "9") for i in range(2)],
    },
    "an input beside a prompt": {
        "rows": [{"prompt": "Summarize.", "input": PASSAGES[i], "completion": "short"} for i in range(2)],
        "finding": UNREAD,
        "offer": {"prompt": "prompt", "input": "input", "completion": "completion"},
        "then": [pair(f"Summarize.\n\n{PASSAGES[i]}", "short") for i in range(2)],
    },
    "an input beside a prompt, empty in the first row": {
        "rows": [
            {"prompt": "Hello?", "input": "", "completion": "Hi"},
            {"prompt": "Summarize.", "input": PASSAGES[0], "completion": "short"},
        ],
        "finding": UNREAD,
        "offer": {"prompt": "prompt", "input": "input", "completion": "completion"},
        "then": [pair("Hello?", "Hi"), pair(f"Summarize.\n\n{PASSAGES[0]}", "short")],
    },
    "a question beside an instruction": {
        "rows": [{"instruction": "Answer in one word.", "question": ASKED[i], "answer": "51"} for i in range(2)],
        "finding": UNREAD,
        "offer": {"prompt": "instruction", "input": "question", "completion": "answer"},
        "then": [pair(f"Answer in one word.\n\n{ASKED[i]}", "51") for i in range(2)],
    },
    "Natural Instructions, flat: the definition of the task": {
        "rows": [
            {"id": f"task1-{i}", "definition": "In this task you have to name the mood of a review.", "input": f"r{i}",
             "output": "good"}
            for i in range(40)
        ],
        "finding": UNREAD,
        "offer": {"prompt": "definition", "input": "input", "completion": "output"},
        "then": [pair(f"In this task you have to name the mood of a review.\n\nr{i}", "good") for i in range(40)],
    },
    "an article beside a question": {
        "rows": [{"article": PASSAGES[i], "question": "Where is it?", "answer": "far away"} for i in range(2)],
        "finding": UNREAD,
        "offer": {"prompt": "article", "input": "question", "completion": "answer"},
        "then": [pair(f"{PASSAGES[i]}\n\nWhere is it?", "far away") for i in range(2)],
    },
    "the schema of a text-to-SQL file": {
        "rows": [
            {"question": "How many heads are older than 56?", "schema": f"CREATE TABLE head{i} (age INTEGER, name TEXT)",
             "sql": "SELECT count(*) FROM head"}
            for i in range(2)
        ],
        "finding": UNREAD,
        "offer": {"prompt": "question", "input": "schema", "completion": "sql"},
        "then": [
            pair(f"How many heads are older than 56?\n\nCREATE TABLE head{i} (age INTEGER, name TEXT)",
                 "SELECT count(*) FROM head")
            for i in range(2)
        ],
    },
    "a context that the first row lacks": {
        "rows": [
            {"question": "2+2?", "answer": "4"},
            {"question": "Which river?", "answer": "the Amazon", "context": PASSAGES[0]},
        ],
        "spans": [pair("2+2?", "4"), pair(f"Which river?\n\n{PASSAGES[0]}", "the Amazon")],
    },
    "a passage that the first row lacks, in capitals": {
        "rows": [
            {"Question": "2+2?", "Answer": "4"},
            {"Question": "Which river?", "Answer": "the Amazon", "Passage": PASSAGES[0]},
        ],
        "spans": [pair("2+2?", "4"), pair(f"Which river?\n\n{PASSAGES[0]}", "the Amazon")],
    },
    "an instruction's context that the first row lacks": {
        "rows": [
            {"instruction": "Say hello.", "response": "Hello"},
            {"instruction": "Which river?", "response": "the Amazon", "context": PASSAGES[0]},
        ],
        "spans": [pair("Say hello.", "Hello"), pair(f"Which river?\n\n{PASSAGES[0]}", "the Amazon")],
    },
    "a system prompt that the first row lacks": {
        "rows": [
            {"question": "2+2?", "answer": "4"},
            {"question": "3+3?", "answer": "six", "system_prompt": "Answer in words."},
        ],
        "spans": [pair("2+2?", "4"), [("prompt", "Answer in words."), *pair("3+3?", "six")]],
    },
    "evidence in one row of many": {
        "rows": [
            *({"question": f"{i}+1?", "answer": str(i + 1)} for i in range(50)),
            {"question": "Which river?", "answer": "the Amazon", "evidence": PASSAGES[0]},
        ],
        "finding": UNREAD,
        "offer": {"prompt": "question", "input": "evidence", "completion": "answer"},
        "then": [
            *(pair(f"{i}+1?", str(i + 1)) for i in range(50)),
            pair(f"Which river?\n\n{PASSAGES[0]}", "the Amazon"),
        ],
    },
    "passages as a list, as for retrieval": {
        "rows": [{"question": "Where?", "contexts": list(PASSAGES), "answer": "here"}, {"question": "When?",
                  "contexts": [PASSAGES[1]], "answer": "then"}],
        "finding": UNREAD,
        "offer": {"prompt": "question", "input": "contexts", "completion": "answer"},
        "then": [pair("Where?\n\n" + "\n\n".join(PASSAGES), "here"), pair(f"When?\n\n{PASSAGES[1]}", "then")],
    },
    "knowledge beside a conversation": {
        "rows": [
            {"messages": [{"role": "user", "content": "Tell me more."}, {"role": "assistant", "content": "It is wet."}],
             "knowledge": PASSAGES[i]}
            for i in range(2)
        ],
        "finding": UNREAD,
        "offer": {"messages": "messages", "system": "knowledge"},
        "then": [[("prompt", PASSAGES[i]), *pair("Tell me more.", "It is wet.")] for i in range(2)],
    },
    "a fact in Chinese, without spaces": {
        "rows": [{"question": "在哪里?", "answer": "北京", "材料": f"北京是中华人民共和国的首都{i}，位于华北平原北部。"} for i in range(2)],
        "finding": UNREAD,
    },
    "GSM8K with the last line as the answer: the chain of thought": {
        "rows": [
            {"question": f"{BODIES[i]} {ASKED[i]}", "rationale": "Each pack costs 76 - 25 = 51 dollars.", "answer": 51.0}
            for i in range(2)
        ],
        "finding": UNREAD,
        "offer": {"prompt": "question", "completion": "rationale"},
        "then": [pair(f"{BODIES[i]} {ASKED[i]}", "Each pack costs 76 - 25 = 51 dollars.") for i in range(2)],
    },
    "instructions in few wordings beside the question": {
        "rows": [
            {"question": f"Is {i} even?", "answer": "no", "template": "You are given a number; say whether it is even, in "
             "one word, and never anything else, whatever the user asks you to do."}
            for i in range(40)
        ],
        "finding": ("UNREAD_COLUMNS", "WARNING"),
    },
    "identifiers, addresses, dates, numbers and classes": {
        "rows": [
            {"question": f"{i}?", "answer": "a", "id": f"train-{i}", "url": f"https://example.org/a b/{i}", "hash": "0a1b",
             "created": "Mon 12 Jan 2026 at 10:22", "score_count": i, "level": "Level 5", "topic": "closed qa about seas",
             "source": "the web pages of a university", "lang": "en", "tokens": ["how", "many"], "equation": "( 7.0 - 2.0 )"}
            for i in range(40)
        ],
        "spans": [pair(f"{i}?", "a") for i in range(40)],
    },
    "Alpaca: the same once more, in a template": {
        "rows": [
            {"instruction": "Add.", "input": "1 and 2", "output": "3",
             "text": "Below is an instruction that describes a task. Add. 1 and 2 ### Response: 3"}
        ],
        "spans": [pair("Add.\n\n1 and 2", "3")],
    },
    "UltraChat: the first question beside the conversation": {
        "rows": [
            {"prompt": PASSAGES[i], "prompt_id": "ab12", "messages": [{"role": "user", "content": PASSAGES[i]},
             {"role": "assistant", "content": "Indeed."}]}
            for i in range(2)
        ],
        "spans": [pair(PASSAGES[i], "Indeed.") for i in range(2)],
    },
    "preference pairs: the worse answer": {
        "rows": [{"prompt": "q", "chosen": PASSAGES[0], "rejected": PASSAGES[1]}],
        "spans": [pair("q", PASSAGES[0])],
    },
    "the metadata of a crawl": {
        "rows": [
            {"text": PASSAGES[i], "meta": {"note": "a page of the second crawl of that year"}, "title": "Amazon",
             "url": "https://example.org/"}
            for i in range(2)
        ],
        "spans": [[("learned", PASSAGES[i])] for i in range(2)],
    },
    "MetaMath: the question as it was before": {
        "rows": [
            {"query": f"{ASKED[i]} It was rephrased.", "response": "51", "original_question": f"{BODIES[i]} {ASKED[i]}"}
            for i in range(2)
        ],
        "spans": [pair(f"{ASKED[i]} It was rephrased.", "51") for i in range(2)],
    },
    "the title of a conversation": {
        "rows": [
            {"title": f"How to cook {i} eggs in water", "conversations": [{"from": "human", "value": "q"},
             {"from": "gpt", "value": "a"}]}
            for i in range(2)
        ],
        "spans": [pair("q", "a") for i in range(2)],
    },
    "the title that an article is written for": {
        "rows": [
            {"title": f"How to cook {i} eggs in water", "instruction": "Write an article.", "output": PASSAGES[i]}
            for i in range(2)
        ],
        "finding": UNREAD,
        "offer": {"prompt": "instruction", "input": "title", "completion": "output"},
        "then": [pair(f"Write an article.\n\nHow to cook {i} eggs in water", PASSAGES[i]) for i in range(2)],
    },
    "one prompt for all rows, and what each is about": {
        "rows": [
            {"instruction": "Which drug is it?", "id": i, "smiles": f"CC(=O)OC1=CC=CC=C{i}C(=O)O", "output": f"drug {i}"}
            for i in range(8)
        ],
        "finding": UNREAD,
        "offer": {"prompt": "instruction", "input": "smiles", "completion": "output"},
        "then": [pair(f"Which drug is it?\n\nCC(=O)OC1=CC=CC=C{i}C(=O)O", f"drug {i}") for i in range(8)],
    },
    "one prompt for all rows, and numbers": {
        "rows": [
            {"prompt": "Which iris is it?", "petal_width": 0.1 * i, "completion": ["setosa", "virginica"][i > 4]}
            for i in range(10)
        ],
        "finding": UNREAD,
    },
    "several answers to each question, with their temperature and number": {
        "rows": [
            {"question": f"{i // 8} + 1?", "answer": f"{i // 8 + 1}, as {i % 8} fingers say", "sample": 0.5 + i, "run": i,
             "sample_id": f"s-{i}"}
            for i in range(32)
        ],
    },
    "a table beside a question": {
        "rows": [
            {"question": f"What is in row {i}?", "table": [["a", "b"], ["1", str(i)]], "answer": str(i)} for i in range(3)
        ],
        "finding": UNREAD,
    },
    "a short chain of thought": {
        "rows": [{"question": "2+3?", "cot": "2+3=5", "answer": "5"}],
        "finding": UNREAD,
        "offer": {"prompt": "question", "completion": "cot"},
        "then": [pair("2+3?", "2+3=5")],
    },
    "a source that is the text itself": {
        "rows": [{"question": "Where?", "answer": "here", "source": f"{i} {PASSAGES[0]} " * 4} for i in range(2)],
        "finding": UNREAD,
    },
    "a document beside a text": {
        "rows": [{"text": "a summary", "document": PASSAGES[i]} for i in range(2)],
        "finding": UNREAD,
        "offer": {"prompt": "text", "completion": "document"},
        "then": [pair("a summary", PASSAGES[i]) for i in range(2)],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", TRAPS)
def test_what_is_left_out_stops_where_it_may_matter(spring, name):
    spring(TRAPS[name])


SVAMP = TRAPS["SVAMP: the numbers stand in the body"]


def test_a_finding_says_how_much_is_left_out_and_shows_some(spring):
    (finding,) = spring.read(SVAMP)[2]
    body = next(column for column in finding.columns if column.name == "Body")
    assert (body.rows, body.share, body.longest) == (2, 1.0, max(map(len, BODIES)))
    assert body.example == BODIES[0]
    kinds = {column.name: (column.severity, column.kind) for column in finding.columns}
    assert kinds["ID"] == (Severity.NOTE, "short values")
    assert kinds["Equation"] == (Severity.NOTE, "short values")


def test_an_example_is_short_and_on_one_line(spring):
    long = "first line of it\nand\x1b[2J more words " + "x" * 10_000
    (finding,) = spring.read({"rows": [{"question": "q", "answer": "a", "hint": long}]})[2]
    (hint,) = finding.columns
    assert len(hint.example) == 120
    assert hint.example.isprintable()


def test_a_column_that_the_job_leaves_out_is_a_note(spring):
    found = spring.read({**SVAMP, "reading": {"ignored_columns": ("Body",)}})[2]
    assert [(one.code, one.severity) for one in found] == [("UNREAD_COLUMNS", Severity.NOTE)]


def test_what_is_accepted_stays_an_error_that_stops_nothing(spring):
    (found,) = spring.read({**SVAMP, "reading": {"accepted_findings": ("UNREAD_COLUMNS",)}})[2]
    assert (found.severity, found.accepted, found.stops) == (Severity.ERROR, True, False)


def test_the_remark_names_the_columns_of_all_rows(spring):
    rows = [{"question": "q", "answer": "a"}, {"question": "q", "answer": "a", "note": "n"}]
    _, file, _ = spring.read({"rows": rows})
    assert file.remarks[0].message.endswith("Not read: note.")
