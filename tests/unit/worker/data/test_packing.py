# SPDX-License-Identifier: Apache-2.0
"""Packed documents are computed as if each were alone."""

import torch
from finetree_worker.data.packing import TOKEN_MULTIPLE, collate, pack
from finetree_worker.tokenize.example import Example
from worker_harness import random_examples


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
