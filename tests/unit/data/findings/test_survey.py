# SPDX-License-Identifier: Apache-2.0
"""What a survey counts of the rows of a file."""

from finetree_data.columns.mapping import Mapping
from finetree_data.contract import finding_message
from finetree_data.findings.survey import COLUMNS, LISTED, Survey
from finetree_data.options import FileFormat, RowFormat
from finetree_data.rows.row import Message, Row

MAPPING = Mapping(RowFormat.PROMPT_COMPLETION, {"prompt": "q", "completion": "a"})
ROW = Row(1, (Message("user", "q"), Message("assistant", "a")))


def test_columns_that_are_named_after_values_are_counted_as_far_as_a_bound():
    survey = Survey(MAPPING)
    for number in range(2 * COLUMNS):
        value = {"q": "q", "a": "a", f"column {number}": "a value"}
        survey.meet(value)
        survey.add(value, ROW)
    (found,) = survey.findings(FileFormat.JSONL)
    assert len(survey.unread()) == COLUMNS
    assert len(found.columns) == LISTED


def test_names_that_no_message_can_have_are_shown_as_far_as_they_can():
    text = "A text that is longer than a label is."
    survey = Survey(MAPPING)
    value = {"q": "q", "a": "a", "\ud800": text, "x" * 300: text}
    survey.meet(value)
    survey.add(value, ROW)
    (found,) = survey.findings(FileFormat.JSONL)
    message = finding_message(found)
    assert [column.name for column in message.columns] == ["?", "x" * 256]
    assert not message.mappings


def test_a_file_of_which_all_is_read_has_no_finding():
    survey = Survey(MAPPING)
    survey.meet({"q": "q", "a": "a"})
    survey.add({"q": "q", "a": "a"}, ROW)
    assert survey.findings(FileFormat.JSONL) == ()
