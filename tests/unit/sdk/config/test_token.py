# SPDX-License-Identifier: Apache-2.0
"""Tokens that are read again: when they expire, when their file changes, when they are refused."""

import base64
import json
import pickle
import sys
import time

import pytest
from finetree import Unauthenticated
from finetree.config import token as tokens
from finetree.config.token import Fixed, InFile, OfCommand, OfFunction, Token, expiry_of


def jwt(expiry):
    payload = base64.urlsafe_b64encode(json.dumps({"sub": "me", "exp": expiry}).encode()).rstrip(b"=").decode()
    return f"e30.{payload}.c2ln"


class Issuer:
    """Gives a new token each time, and counts."""

    def __init__(self, *values: str) -> None:
        self.values, self.reads = list(values), 0

    def __call__(self) -> str:
        self.reads += 1
        return self.values[min(self.reads, len(self.values)) - 1]


def test_a_token_is_read_once():
    issuer = Issuer("a", "b")
    token = Token(OfFunction(issuer))
    assert issuer.reads == 0
    assert [token.value(), token.value(), token.kept] == ["a", "a", "a"]
    assert issuer.reads == 1


def test_a_json_web_token_is_read_again_before_it_expires(monkeypatch):
    old, new = jwt(time.time() + 100), jwt(time.time() + 4000)
    issuer = Issuer(old, new)
    token = Token(OfFunction(issuer))
    assert token.value() == old
    clock, monotonic = time.time(), time.monotonic()
    monkeypatch.setattr(tokens.time, "time", lambda: clock + 75)
    monkeypatch.setattr(tokens.time, "monotonic", lambda: monotonic + 75)
    assert token.kept == ""
    assert [token.value(), token.value()] == [new, new]
    assert issuer.reads == 2


def test_an_issuer_of_expired_tokens_is_not_asked_for_every_call():
    issuer = Issuer(jwt(1.0))
    token = Token(OfFunction(issuer))
    assert token.value() == token.value()
    assert issuer.reads == 1


@pytest.mark.parametrize("text", ["opaque", "a.b.c", "e30.e30.x", "e30.W10.x", "..", "e30.eyJleHAiOiJ4In0.x"])
def test_other_tokens_have_no_expiry(text):
    assert expiry_of(text) is None


def test_a_file_is_read_again_when_it_changes(tmp_path):
    file = tmp_path / "token"
    file.write_text("one\n")
    token = Token(InFile(file))
    assert token.value() == "one"
    fresh = tmp_path / "fresh"
    fresh.write_text("two\n")
    fresh.replace(file)  # as a kubelet rotates it
    assert token.kept == ""
    assert token.value() == "two"


def test_a_command_is_run_without_a_shell_and_again_only_when_its_token_is_refused(tmp_path):
    count = tmp_path / "count"
    script = (
        f"import pathlib; p = pathlib.Path({str(count)!r}); p.open('a').write('x'); print('t' * len(p.read_text()))"
    )
    token = Token(OfCommand((sys.executable, "-c", script)))
    assert [token.value(), token.value()] == ["t", "t"]
    assert token.renew("t")
    assert token.value() == "tt"


def test_a_fresh_token_that_is_refused_is_wrong_and_not_read_for_ever():
    issuer = Issuer("a", "b", "c")
    token = Token(OfFunction(issuer))
    assert token.value() == "a"
    assert token.renew("a")
    assert not token.renew("b")
    assert token.renew("a"), "another thread was refused with the old one: there is a new one already"
    assert issuer.reads == 2


def test_a_token_that_never_changes_is_not_tried_again():
    token = Token(Fixed("a"))
    token.value()
    assert not token.renew("a")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (InFile, "token_file .*none cannot be read: No such file"),
        (lambda path: OfCommand((str(path),)), "token_command .*none' cannot be run: No such file"),
        (lambda _: OfCommand(("sh", "-c", "echo log in first >&2; exit 3")), "ended with exit code 3: log in first"),
        (lambda _: OfCommand(("true",)), "the token is empty"),
        (lambda _: OfFunction(lambda: "two words"), "characters that no bearer token has, such as spaces"),
        (lambda _: OfFunction(lambda: "a\nb"), "such as spaces or line ends"),
    ],
)
def test_a_token_that_cannot_be_had_says_why(tmp_path, source, says):
    with pytest.raises(Unauthenticated, match=says) as caught:
        Token(source(tmp_path / "none")).value()
    assert caught.value.reason == "TOKEN_UNAVAILABLE"


def test_neither_text_nor_pickle_has_the_token(tmp_path):
    file = tmp_path / "token"
    file.write_text("geheim")
    for source in (InFile(file), Fixed("geheim"), OfFunction(lambda: "geheim")):
        token = Token(source)
        token.value()
        assert "geheim" not in repr(token)
        assert b"geheim" not in pickle.dumps(token)
    assert pickle.loads(pickle.dumps(Token(InFile(file)))).value() == "geheim"
    assert pickle.loads(pickle.dumps(Token(Fixed("geheim")))) is None
