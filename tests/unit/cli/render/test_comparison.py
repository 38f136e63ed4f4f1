# SPDX-License-Identifier: Apache-2.0
"""A comparison as text and as Markdown: the same tables, letters for names, and text that stays text."""

import importlib.util
from pathlib import Path

from finetree_api.trainer.v1 import comparison_pb2
from finetree_api.types.v1 import check_pb2
from finetree_cli.output import Output
from finetree_cli.render.comparison import as_markdown, conclusion, show_comparison, tables
from google.protobuf import struct_pb2

SPEC = importlib.util.spec_from_file_location("compared", Path(__file__).parent / "compared.py")
compared = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(compared)


def rows(title):
    return next(table.rows for table in tables(compared.comparison()) if table.title == title)


def test_the_best_job_is_in_the_first_line(capsys):
    show_comparison(Output(), compared.comparison())
    said = capsys.readouterr().out
    assert said.splitlines()[0].startswith("best: B: rank 16")
    assert "0.11 better (0.053 to 0.167)" in said.splitlines()[0]
    assert "Another seed gives another result." in said


def test_where_none_is_named_the_first_line_says_why():
    found = compared.comparison()
    found.ClearField("best")
    del found.remarks[:]
    found.remarks.append(check_pb2.Remark(code="JOBS_RUNNING", message="not yet"))
    found.remarks.append(check_pb2.Remark(code="NOT_TOLD_APART", message=f"{compared.NAMES[1]} leads by chance."))
    assert conclusion(found) == "B leads by chance."


def test_each_fact_stands_in_its_table():
    assert rows("Settings that differ") == [["lora.rank", "8 [default]", "16", "-"]]
    best, training = rows("In the end")
    assert best[:4] == ["eval_loss, nats", "1.42 (1.38 to 1.46), base 2", "1.31 (1.27 to 1.35), base 2 (best)", "-"]
    assert (best[-1], training[-1]) == ("yes", "no: it ranks nothing")
    assert [row[3:] for row in rows("Estimated and measured")] == [
        ["5 min 10 s", "1.03"],
        ["6 min 30 s outside", "1.30"],
    ]
    answers = rows("Answers to the same prompts")
    assert answers[:2] == [["What is the capital?", "expected", "Paris"], ["", "A ✓", "Paris"]]
    assert len(answers) == 3
    assert len(answers[2][2]) == 160


def test_settings_are_written_as_a_job_file_has_them():
    found = comparison_pb2.CompareJobsResponse()
    targets = found.differences.add(field_path="lora.targets")
    targets.values.add(value=struct_pb2.Value(string_value="TARGET_PRESET_ALL_LINEAR"), rule_id="default.lora.targets")
    targets.values.add()
    found.differences.add(field_path="full").values.add(value=struct_pb2.Value(struct_value=struct_pb2.Struct()))
    found.differences.add(field_path="environment.torch").values.add(value=struct_pb2.Value(string_value="2.13"))
    (settings,) = (table.rows for table in tables(found) if table.title == "Settings that differ")
    assert settings == [
        ["lora.targets", "all-linear [default.lora.targets]", "-"],
        ["full", "all defaults"],
        ["environment.torch", "2.13"],
    ]


def test_markdown_of_names_and_answers_is_no_markup():
    text = as_markdown(compared.comparison())
    assert "<b>" not in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = [index for index, line in enumerate(lines) if line.startswith("| ---")]
    widths = [line.count(" | ") for line in lines]
    assert all(widths[index] == widths[index - 1] for index in heads)
    assert "### Settings that differ" in text
