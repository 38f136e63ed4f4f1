# SPDX-License-Identifier: Apache-2.0
import re

from finetree_runtime.server.access.token import is_token, make_token, token_hash


def test_a_token_has_256_random_bits_a_prefix_and_a_checksum():
    tokens = {make_token() for _ in range(200)}
    assert len(tokens) == 200
    assert all(re.fullmatch(r"ft_[0-9A-Za-z]{49}", token) and is_token(token) for token in tokens)
    digits = {digit for token in tokens for digit in token[4:46]}
    assert len(digits) == 62  # the first digit of 43 holds less than a whole one of chance


def test_text_that_only_looks_like_a_token_is_told_by_its_checksum():
    token = make_token()
    other = "a" if token[10] != "a" else "b"
    assert not is_token(token[:10] + other + token[11:])
    assert not is_token(token[:-1])
    assert not is_token(token + "\n")
    assert not is_token("")


def test_the_form_does_not_change_from_release_to_release():
    """Scanners know it, and stored hashes are of it."""
    fixed = "ft_" + "0" * 42 + "1" + "36cq2z"
    assert is_token(fixed)
    assert token_hash(fixed) == "74e9569f06de66ff0bf6c7967c1b14bfd985dc9af898830d2d1944b43fe1a301"
