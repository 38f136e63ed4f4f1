# SPDX-License-Identifier: Apache-2.0
"""Text that is shown while tokens come: whole code points, no part of a stop string, and in the end all of it."""

import random
from typing import Any

import pytest
from finetree_worker.generate.text import Detokenizer, StopStrings

TEXTS = [
    "plain words",
    "naïve façade, Ω and ß",
    "日本語のテキスト",
    "family 👨‍👩‍👧‍👦, flag 🇩🇪, skin 👍🏽 and a heart ❤️",
    "a real \ufffd in the text",
    "  spaces  first\n\n\tand tabs",
]


def pieces(tokenizer: Any, tokens: list[int]) -> list[str]:
    decoder = Detokenizer(tokenizer)
    return [*map(decoder.add, tokens), decoder.finish()]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_code_points_and_join_to_the_text(tokenizer: Any, text: str) -> None:
    """With a token for each byte, so that every code point beyond ASCII is split."""
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(tokens) == len(text.encode())
    shown = pieces(tokenizer, tokens)
    assert "".join(shown) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in shown)


def test_special_tokens_are_not_shown(tokenizer: Any) -> None:
    tokens = [tokenizer.eos_token_id, *tokenizer("é", add_special_tokens=False)["input_ids"], tokenizer.bos_token_id]
    assert "".join(pieces(tokenizer, tokens)) == "é"


@pytest.mark.parametrize("seed", range(5))
def test_any_bytes_join_to_what_the_tokenizer_decodes_at_once(tokenizer: Any, seed: int) -> None:
    """Bytes that are no text too, and a code point that is never completed."""
    tokens = random.Random(seed).choices(range(256), k=200)
    shown = "".join(pieces(tokenizer, tokens))
    assert shown.replace("\ufffd", "") == tokenizer.decode(tokens).replace("\ufffd", "")
    whole = tokenizer("👍", add_special_tokens=False)["input_ids"]
    assert pieces(tokenizer, whole[:3]) == ["", "", "", "\ufffd"]


def fed(stop: list[str], given: list[str]) -> tuple[list[str], bool]:
    strings = StopStrings(stop)
    shown = []
    for piece in given:
        shown.append(strings.add(piece))
        if strings.found:
            return shown, True
    return [*shown, strings.finish()], False


def test_what_may_begin_a_stop_string_waits_and_what_follows_one_is_not_shown() -> None:
    assert fed(["END"], ["a", "E", "N", "x", "EN", "D", "more"]) == (["a", "", "", "ENx", "", ""], True)
    assert fed(["END"], ["ok E", "N"]) == (["ok ", "", "EN"], False)
    assert fed(["\n\n"], ["one\n", "two\n\nthree"]) == (["one", "\ntwo"], True)
    assert fed(["abc", "b"], ["a", "b"]) == (["", "a"], True)
    assert fed(["aab"], ["aaa", "b"]) == (["a", ""], True)
    assert fed([], ["a", "b"]) == (["a", "b", ""], False)


@pytest.mark.parametrize("seed", range(5))
def test_any_cut_of_a_text_shows_all_before_the_first_stop_string(seed: int) -> None:
    chance = random.Random(seed)
    text = "".join(chance.choices("ab", k=60))
    stop = ["".join(chance.choices("ab", k=4)) for _ in range(2)]
    places = [text.find(each) for each in stop if each in text]
    parts, at = [], 0
    while at < len(text):
        size = chance.randint(1, 5)
        parts.append(text[at : at + size])
        at += size
    shown, found = fed(stop, parts)
    assert found == bool(places)
    # What completes a stop string may hold a second one that begins earlier: the earliest of that moment counts.
    assert text.startswith("".join(shown))
    assert not any(each in "".join(shown) for each in stop)
