# SPDX-License-Identifier: Apache-2.0
"""Packed documents are computed as if each were alone."""

import torch
from finetree_worker.data.packing import TOKEN_MULTIPLE, MicroBatch, collate, pack
from finetree_worker.data.prefixes import Sharing, head
from finetree_worker.tokenize.example import Example
from hypothesis import given, settings
from hypothesis import strategies as st
from worker_harness import headed_examples, random_examples


def test_a_document_is_never_predicted_from_the_one_before() -> None:
    everything = [Example(row, torch.arange(5, dtype=torch.int32), torch.ones(5, dtype=torch.bool)) for row in (1, 2)]
    batch = collate(everything)
    assert batch.predictors.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert batch.labels.tolist() == [1, 2, 3, 4, 1, 2, 3, 4]
    assert batch.positions[0, :10].tolist() == [0, 1, 2, 3, 4] * 2
    assert batch.token_ids.shape[1] == TOKEN_MULTIPLE
    assert batch.tokens == 10


def test_packs_hold_every_row_once_and_keep_their_bound() -> None:
    examples = random_examples([10, 90, 33, 47, 5, 64, 12, 100, 130])
    bins = pack(examples, max_rows=1, max_tokens=100, packing=True)
    assert sorted(example.row for documents in bins for example in documents) == list(range(1, 10))
    assert all(sum(map(len, documents)) <= 100 or len(documents) == 1 for documents in bins)
    assert len(bins) == 5


def test_without_packing_a_micro_batch_holds_so_many_rows() -> None:
    bins = pack(random_examples([10, 90, 33, 47, 5]), max_rows=2, max_tokens=10, packing=False)
    assert [len(documents) for documents in bins] == [2, 2, 1]


def test_what_rows_begin_with_is_computed_once() -> None:
    examples = headed_examples((20, [6, 4, 9]), (0, [12]))
    batch = collate(examples, Sharing(overhead=0))
    assert batch.tokens == 20 + 6 + 4 + 9 + 12
    assert [(block.lengths, block.behind) for block in batch.blocks] == [((20, 12), None), ((9, 6, 4), (0, 20))]
    assert batch.positions[0, : batch.tokens].tolist() == [
        *range(20), *range(12), *range(20, 29), *range(20, 26), *range(20, 24)
    ]  # fmt: skip
    assert collate(examples).tokens == sum(map(len, examples))


@st.composite
def _rows(draw: st.DrawFn) -> list[Example]:
    """Rows of two different tokens, so that many begin alike, some without a target, some equal, some of one token."""
    rows = []
    for row in range(1, draw(st.integers(1, 9)) + 1):
        tokens = draw(st.lists(st.integers(0, 1), min_size=1, max_size=24))
        first = draw(st.integers(0, len(tokens)))
        learned = torch.arange(len(tokens)) >= first
        rows.append(Example(row, torch.tensor(tokens, dtype=torch.int32), learned))
    return rows


@given(_rows(), st.integers(0, 12), st.integers(4, 60), st.none() | st.integers(1, 20))
@settings(max_examples=60)
def test_each_row_is_computed_as_if_alone(
    examples: list[Example], overhead: int, max_tokens: int, longest: int | None
) -> None:
    """Each row is packed once; what its targets see is the row up to them at its own positions, within the bound."""
    sharing = Sharing(overhead, longest)
    bins = pack(examples, max_rows=1, max_tokens=max_tokens, packing=True, sharing=sharing)
    assert sorted(example.row for documents in bins for example in documents) == [example.row for example in examples]
    for documents in bins:
        batch = collate(documents, sharing)
        assert batch.tokens <= max_tokens or len(documents) == 1
        assert batch.tokens <= sum(map(len, documents))
        found = _histories(batch)
        expected = [
            (index, example.tokens[: place + 1].tolist(), int(example.tokens[place + 1]))
            for index, example in enumerate(documents)
            for place in range(len(example) - 1)
            if example.is_target[place + 1]
        ]
        assert sorted(found) == sorted(expected)
        _check_masks(batch, documents)


def _sequences(batch: MicroBatch) -> list[tuple[list[int], int]]:
    """The places that each sequence's last token sees, and how many of them are the sequence's own."""
    found, first = [], 0
    for block in batch.blocks:
        start, size = block.behind or (0, 0)
        for length in block.lengths:
            found.append(([*range(start, start + size), *range(first, first + length)], length))
            first += length
    return found


def _histories(batch: MicroBatch) -> list[tuple[int, list[int], int]]:
    """Of each target its row's index, the tokens up to its predictor, and itself; positions are counted on the way."""
    targets = zip(batch.predictors.tolist(), batch.owners.tolist(), batch.labels.tolist(), strict=True)
    owner = {predictor: (index, label) for predictor, index, label in targets}
    found = []
    for places, own in _sequences(batch):
        assert batch.positions[0, places].tolist() == list(range(len(places)))
        for end in range(len(places) - own, len(places)):
            if places[end] in owner:
                index, label = owner.pop(places[end])
                found.append((index, batch.token_ids[0, places[: end + 1]].tolist(), label))
    assert not owner
    return found


def _check_masks(batch: MicroBatch, documents: list[Example]) -> None:
    """Each token's mask is the one that its row has where it is alone."""
    alone = [collate([example]).keys for example in documents]
    for places, own in _sequences(batch):
        for position, place in list(enumerate(places))[-own:]:
            index = int(batch.keys.documents[place])
            assert (int(batch.keys.positions[place]), batch.keys.rows[index]) == (position, documents[index].row)
            content = int(alone[index].contents[position])
            assert int(batch.keys.contents[place]) == content
            assert (content != 0) == (position < head(documents[index]))
