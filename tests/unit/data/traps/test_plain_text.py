# SPDX-License-Identifier: Apache-2.0
"""Plain text: a line is a document, unless the lines are wrapped."""

import textwrap

import pytest

ONE = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it "
    "was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season of "
    "Darkness, it was the spring of hope, it was the winter of despair."
)
TWO = (
    "There were a king with a large jaw and a queen with a plain face, on the throne of England; there were a king "
    "with a large jaw and a queen with a fair face, on the throne of France."
)
WRAPPED = "\n\n".join(textwrap.fill(text, 60) for text in (ONE, TWO)) + "\n"

TRAPS = {
    "wrapped prose: a paragraph is a document": {
        "file": "book.txt",
        "text": WRAPPED,
        "spans": [[("learned", ONE)], [("learned", TWO)]],
    },
    "with line ends of Windows and a heading": {
        "file": "book.txt",
        "text": f"# Chapter I\n\n{WRAPPED}".replace("\n", "\r\n"),
        "spans": [[("learned", "# Chapter I")], [("learned", ONE)], [("learned", TWO)]],
    },
    "verse and code between wrapped paragraphs": {
        "file": "book.md",
        "text": f"{WRAPPED}\nTyger Tyger, burning bright,\nIn the forests of the night;\n\n    a = 1\n    b = 2\n",
        "spans": [
            [("learned", ONE)],
            [("learned", TWO)],
            [("learned", "Tyger Tyger, burning bright,\nIn the forests of the night;")],
            [("learned", "    a = 1\n    b = 2")],
        ],
    },
    "a document a line": {
        "file": "lines.txt",
        "text": "".join(f"{ONE[: 40 + 7 * i]}\n" for i in range(20)),
        "spans": [[("learned", ONE[: 40 + 7 * i])] for i in range(20)],
    },
    "short sentences, a line each": {
        "file": "lines.txt",
        "text": "".join(f"The {'very ' * (i % 5)}old man sleeps here.\n" for i in range(20)),
        "spans": [[("learned", f"The {'very ' * (i % 5)}old man sleeps here.")] for i in range(20)],
    },
    "words, a line each": {
        "file": "words.txt",
        "text": "".join(f"word{i:04}\n" for i in range(20)),
        "spans": [[("learned", f"word{i:04}")] for i in range(20)],
    },
}


@pytest.mark.parametrize("name", TRAPS)
def test_a_document_is_a_line_or_a_paragraph(spring, name):
    spring(TRAPS[name])


def test_rows_of_wrapped_prose_are_counted_by_their_first_lines(spring):
    _, file, _ = spring.read(TRAPS["wrapped prose: a paragraph is a document"])
    assert [row.number for row in file.rows()] == [1, 7]
    assert "each paragraph is a row" in file.remarks[-1].message
