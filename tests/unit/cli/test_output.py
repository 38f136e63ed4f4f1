# SPDX-License-Identifier: Apache-2.0
"""What is printed cannot control the terminal."""

import pytest
from finetree_cli.output import Output, plain


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
