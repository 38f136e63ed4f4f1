# SPDX-License-Identifier: Apache-2.0
"""What is printed cannot control the terminal."""

import pytest
from finetree_cli.output import PIPE_WIDTH, Output, plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Z\u00fcrich \u6f22\u5b57\n\tnext", "Z\u00fcrich \u6f22\u5b57\n\tnext"),
        ("a\x1b]0;title\x07b", "a\ufffd]0;title\ufffdb"),
        ("safe\u202eevil\r", "safe\ufffdevil\ufffd"),
        ("\U0001f468\u200d\U0001f4bb", "\U0001f468\u200d\U0001f4bb"),
    ],
)
def test_nothing_that_is_shown_commands_the_terminal(capsys, text, shown):
    assert plain(text) == shown
    out = Output()
    out.text(text)
    out.say(text)
    out.heading(text)
    out.paragraph(text)
    out.bullet(text)
    out.table(["name"], [[text]], title=text)
    captured = capsys.readouterr()
    assert not set("\x1b\x07\r\u202e") & set(captured.out + captured.err)


JOBS = (
    ["Job", "Name", ">Done", "Created"],
    [
        [
            "jobs-01kaxyzabcdefghjkmnpqrstvwx",
            "a name of some words, as people give them, and " * 3,
            "100%",
            "2026-11-28T08",
        ]
    ],
)


def test_a_row_in_a_pipe_is_one_line_however_long(capsys):
    Output().table(*JOBS)
    lines = capsys.readouterr().out.splitlines()
    (row,) = (line for line in lines if line.lstrip().startswith("jobs-"))
    assert [cell.strip() for cell in row.split("   ") if cell.strip()] == [cell.strip() for cell in JOBS[1][0]]
    assert len(row) > PIPE_WIDTH


def test_texts_wrap_in_a_pipe_and_the_first_column_stays_whole(capsys):
    Output().table(*JOBS, wrap=True)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= PIPE_WIDTH
    assert sum("jobs-01kaxyzabcdefghjkmnpqrstvwx" in line for line in lines) == 1
    assert len(lines) > 5


def test_a_narrow_terminal_folds_other_columns_before_the_name(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "72")
    monkeypatch.setenv("TERM", "dumb")
    Output().table(*JOBS)
    assert "jobs-01kaxyzabcdefghjkmnpqrstvwx" in capsys.readouterr().out


@pytest.mark.parametrize(("heading", "words"), [("Job", "no job"), ("GPU", "no GPU"), (">Attempt", "no attempt")])
def test_a_table_without_rows_is_one_line(capsys, heading, words):
    Output().table([heading, "Name"], [])
    Output().table([heading, "Name"], [], none="nothing")
    assert capsys.readouterr().out.splitlines() == [words, "nothing"]
