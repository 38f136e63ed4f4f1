# SPDX-License-Identifier: Apache-2.0
"""Rows are divided into families so that the most tokens are saved."""

import torch
from finetree_worker.data.prefixes import Sharing, families, head
from finetree_worker.tokenize.example import Example
from hypothesis import given, settings
from hypothesis import strategies as st
from worker_harness import headed_examples


def _row(row: int, tokens: str, first_target: int) -> Example:
    ids = torch.tensor([ord(letter) for letter in tokens], dtype=torch.int32)
    return Example(row, ids, torch.arange(len(ids)) >= first_target)


def _divided(rows: list[Example], sharing: Sharing | None) -> list[tuple[int, list[int]]]:
    return [(family.shared, [one.row for one in family.documents]) for family in families(rows, sharing)]


def test_a_head_ends_before_the_first_predictor() -> None:
    assert head(_row(1, "abcdef", 4)) == 3
    assert head(_row(1, "abcdef", 1)) == 0
    # The first token has no predictor; a row without targets keeps a token of its own.
    assert head(_row(1, "abcdef", 0)) == 0
    assert head(_row(1, "abcdef", 6)) == 5


def test_learned_tokens_are_never_shared() -> None:
    rows = [_row(1, "system: yes", 8), _row(2, "system: yes", 10)]
    assert _divided(rows, Sharing(overhead=0)) == [(7, [1, 2])]


def test_a_family_must_pay() -> None:
    rows = headed_examples((20, [8, 8]))
    assert _divided(rows, Sharing(overhead=19)) == [(20, [1, 2])]
    assert _divided(rows, Sharing(overhead=20)) == [(0, [1]), (0, [2])]
    assert _divided(rows, None) == [(0, [1]), (0, [2])]


def test_rows_longer_than_the_attention_window_are_alone() -> None:
    rows = headed_examples((20, [8, 9, 7]))
    assert _divided(rows, Sharing(overhead=0, longest=28)) == [(0, [2]), (20, [1, 3])]


def test_a_longer_prefix_of_some_may_beat_a_shorter_one_of_all() -> None:
    rows = [_row(i, text + "??!", len(text) + 2) for i, text in enumerate(["abcdefgh1", "abcdefgh2", "ab3", "ab4"], 1)]
    # 2 x 3 tokens for all, or 8 for the first two and 2 for the others.
    assert _divided(rows, Sharing(overhead=0)) == [(8, [1, 2]), (2, [3, 4])]
    assert _divided(rows, Sharing(overhead=5)) == [(8, [1, 2]), (0, [3]), (0, [4])]


@given(st.lists(st.text("ab", min_size=2, max_size=7), min_size=1, max_size=7), st.integers(0, 5))
@settings(max_examples=50)
def test_no_other_division_into_runs_saves_more(texts: list[str], overhead: int) -> None:
    rows = [_row(i, text + "!", len(text)) for i, text in enumerate(texts, 1)]
    sharing = Sharing(overhead)
    found = families(rows, sharing)
    assert sorted(one.row for family in found for one in family.documents) == [row.row for row in rows]
    saved = sum(sharing.gain(family.shared, len(family.documents)) for family in found)
    assert saved == _most(sorted(text[:-1] for text in texts), sharing)


def _most(heads: list[str], sharing: Sharing) -> int:
    """The most that any division of the heads into runs saves, by trying all."""
    counts = range(1, len(heads) + 1)
    return max((sharing.gain(_alike(heads[:n]), n) + _most(heads[n:], sharing) for n in counts), default=0)


def _alike(texts: list[str]) -> int:
    return next((i for i, letters in enumerate(zip(*texts, strict=False)) if len({*letters}) > 1), min(map(len, texts)))
