# SPDX-License-Identifier: Apache-2.0
"""`finetree chat` says what it was told, and refuses an empty message before it asks any service."""

import io

import pytest
from finetree_cli import __main__ as entry


@pytest.mark.parametrize("words", [["-m", ""], ["-m", "  "], []], ids=["empty", "blank", "stdin"])
def test_an_empty_message_is_refused_without_a_service(words, monkeypatch, capsys):
    # Nothing listens there: a call would end with 5.
    monkeypatch.setenv("FINETREE_ADDRESS", "127.0.0.1:9")
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert entry.run(["chat", "job", *words]) == 2
    assert "there is nothing to say [NO_MESSAGE]" in capsys.readouterr().err
