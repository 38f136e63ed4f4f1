# SPDX-License-Identifier: Apache-2.0
"""Counting a column costs a bounded amount for each value, and bounded memory for the column."""

import pytest
from finetree_data.findings import unread
from finetree_data.findings.finding import Severity
from finetree_data.findings.unread import Beside, UnreadValues, is_free_text, longest_leaf

TEXTS = {
    "a sentence": ("It was the best of times.", True),
    "code": ("def add(one, other):\n    return one + other", True),
    "Japanese": ("吾輩は猫である。名前はまだ無い。", True),
    "a name": ("J. R. R. Tolkien", False),
    "a class": ("closed question answering", False),
    "a number": ("3.14159265358979", False),
    "an equation": ("( 7.0 - 2.0 ) + 3.0 = 8.0", False),
    "a date": ("Mon 12 Jan 2026 10:22:59", False),
    "an address": ("https://example.org/some/long/path?with=a&few=words", False),
    "an identifier": ("9f86d081-884c-7d65-9a2f-eaa0c55ad015", False),
    "indexes": ("[1, 2, 3, 4, 7, 8, 9, 10, 17, 18, 19]", False),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_is_told_from_labels_and_numbers(name):
    text, expected = TEXTS[name]
    assert is_free_text(text) is expected


def test_a_column_of_any_size_is_counted_in_bounded_memory(monkeypatch):
    looked = []
    monkeypatch.setattr(unread, "is_free_text", lambda text: looked.append(text) or is_free_text(text))
    values = UnreadValues("hint")
    for number in range(5_000):
        values.add(f"The hint of row {number} is this one.", ("what is read of the row",))
    assert len(looked) == unread.SURE
    assert len(values._distinct) == unread.DISTINCT
    assert values.compared == unread.DOUBTS
    column = values.summary(Beside(5_000, answers=10.0))
    assert (column.severity, column.rows, column.share) == (Severity.ERROR, 5_000, 1.0)


def test_a_nested_value_is_looked_at_as_far_as_a_bound():
    assert longest_leaf({"a": ["short", {"b": "a longer one"}], "c": 3}) == "a longer one"
    deep = "leaf"
    for _ in range(10_000):
        deep = [deep]
    assert longest_leaf(deep) == ""
    assert len(longest_leaf([f"{number:09}" for number in range(100_000)])) == 9


def test_a_few_long_names_make_no_column_of_text():
    values = UnreadValues("writer")
    for number in range(100):
        values.add("John Ronald Reuel Tolkien and his son Christopher" if number % 10 == 0 else "Ann Leckie", ())
    assert values.summary(Beside(100, answers=1.0)).severity is Severity.NOTE
