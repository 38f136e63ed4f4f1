# SPDX-License-Identifier: Apache-2.0
"""A table on a terminal of 80 columns shows every cell, and folds no word and no name."""

import click
import pytest
from finetree_cli.output import Output
from finetree_cli.tables import column_widths, records
from rich.cells import cell_len

ID = "01a2387f-36e1-7a25-870e-8174d74f5816"
JOB_COLUMNS = ["Job", "Name", "Task", "State", ">Done", ">Loss", "Created"]
JOBS = [
    [ID, "a name of some words", "train", "succeeded", "100%", "2.241", "2026-12-02T20:43:10.945689Z"],
    [ID[::-1], "", "train", "running", "57%", "-", "2026-12-02T20:43:10.945689Z"],
]


@pytest.fixture
def printed(monkeypatch, capsys):
    def lines(columns, rows, *, width=80, wrap=False) -> list[str]:
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TERM", "xterm")
        Output().table(columns, rows, wrap=wrap)
        return click.unstyle(capsys.readouterr().out).splitlines()

    return lines


def test_rows_that_are_too_long_for_the_terminal_are_records_with_every_cell(printed):
    lines = printed(JOB_COLUMNS, JOBS)
    assert max(map(len, lines)) <= 80
    assert lines == [
        ID,
        "  Name a name of some words · Task train · State succeeded · Done 100%",
        "  Loss 2.241 · Created 2026-12-02T20:43:10.945689Z",
        ID[::-1],
        "  Task train · State running · Done 57% · Created 2026-12-02T20:43:10.945689Z",
        "",
    ]


def test_a_wide_terminal_has_a_row_for_each(printed):
    lines = printed(JOB_COLUMNS, JOBS, width=160)
    (row,) = (line for line in lines if line.strip().startswith(ID))
    assert row.split("   ")[0].strip() == ID
    for cell in JOBS[0]:
        assert cell in row


@pytest.mark.parametrize("width", [44, 60, 80, 100])
@pytest.mark.parametrize("wrap", [False, True])
def test_no_width_cuts_or_folds_a_word(printed, width, wrap):
    columns = ["Split", "Format", ">Rows", ">Tokens", "Why"]
    rows = [["evaluation", "prompt completion", "12", "537 or so", "\u6f22\u5b57 one two three four five six"]]
    lines = printed(columns, rows, width=width, wrap=wrap)
    assert max(map(cell_len, lines)) <= width
    shown = " ".join(lines).split()
    for word in " ".join([*rows[0], *columns]).replace(">", "").split():
        assert word in shown or (word == "Split" and rows[0][0] in shown)


def test_the_widest_columns_give_way_first():
    rows = [["a", "word " * 20, "short one"]]
    assert column_widths(["N", "Text", "Other"], rows, 60) == [1, 42, 9]
    assert column_widths(["N", "Text", "Other"], rows, 200) == [1, 100, 9]
    assert column_widths(["N", "Text", "Other"], rows, 18) == [1, 4, 5]
    assert column_widths(["N", "Text", "Other"], rows, 17) is None


def test_cells_that_may_be_cut_leave_the_figures_whole():
    rows = [[ID, "2.241 nats of loss"]]
    assert column_widths(["Job", ">Loss"], rows, 40, cut=("Job",)) == [17, 18]
    assert column_widths(["Job", ">Loss"], rows, 30, cut=("Job",)) is None


def test_a_record_of_a_number_says_what_the_number_is():
    lines = records([">Trial", "Values"], [["3", "word " * 30]], 40)
    assert str(lines[0]) == "Trial 3"
    assert max(len(str(line)) for line in lines) <= 40
