# SPDX-License-Identifier: Apache-2.0
"""Masks and orders are functions of what they belong to."""

from dataclasses import replace

import torch
from finetree_worker import randomness
from finetree_worker.randomness import DropoutMasks, MaskKeys, content_hashes


def _keys(rows: list[int], lengths: list[int]) -> MaskKeys:
    """Of rows without a head."""
    documents = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(lengths))
    positions = torch.cat([torch.arange(length) for length in lengths])
    return MaskKeys(tuple(rows), documents, positions, torch.zeros_like(positions))


def _keep(masks: DropoutMasks, step: int, rows: list[int], lengths: list[int], module: int = 0) -> torch.Tensor:
    masks.begin(step, _keys(rows, lengths), places=sum(lengths) + 3)
    return masks.keep(module, 64, drop=0.1, dtype=torch.float32)


def test_a_rows_mask_does_not_hang_on_its_neighbors() -> None:
    masks = DropoutMasks(seed=1, width=64, modules=3)
    together = _keep(masks, 5, [4, 9, 2], [10, 20, 30], module=2)
    alone = _keep(masks, 5, [9], [20], module=2)
    assert torch.equal(together[10:30], alone[:20])


def _masked(step: int, *documents: list[int]) -> list[torch.Tensor]:
    """The masks of documents whose tokens are all of the head, rows 1, 2, ..., each in the step's one micro-batch."""
    lengths = [len(document) for document in documents]
    keys = _keys(list(range(1, len(documents) + 1)), lengths)
    starts = torch.cat([torch.full((length,), sum(lengths[:i])) for i, length in enumerate(lengths)])
    contents = content_hashes(torch.cat([torch.tensor(document) for document in documents]), keys.positions, starts)
    masks = DropoutMasks(seed=1, width=64, modules=1)
    masks.begin(step, replace(keys, contents=contents), places=sum(lengths))
    return list(masks.keep(0, 64, drop=0.3, dtype=torch.float32).split(lengths))


def test_documents_have_one_mask_as_far_as_they_begin_alike() -> None:
    alike, other, swapped = _masked(2, [7, 8, 9, 5, 5], [7, 8, 9, 4, 5], [8, 7, 9, 5, 5])
    assert torch.equal(alike[:3], other[:3])
    # After the first difference nothing is equal, nor where the same tokens stand in another order.
    assert not (alike[3:] == other[3:]).all(dim=1).any()
    assert not (alike == swapped).all(dim=1).any()
    # A repeated token has another mask at each position; another step has other masks.
    assert len({tuple(row.tolist()) for row in alike}) == 5
    assert not (alike == _masked(3, [7, 8, 9, 5, 5])[0]).all(dim=1).any()
    # The mask hangs neither on the row nor on what else is in the micro-batch.
    assert torch.equal(_masked(2, [1, 2], [7, 8, 9, 5, 5])[1], alike)


def test_masks_differ_by_seed_step_module_row_and_token() -> None:
    reference = _keep(DropoutMasks(1, 64, 3), 5, [4], [20])
    others = [
        _keep(DropoutMasks(2, 64, 3), 5, [4], [20]),
        _keep(DropoutMasks(1, 64, 3), 6, [4], [20]),
        _keep(DropoutMasks(1, 64, 3), 5, [4], [20], module=1),
        _keep(DropoutMasks(1, 64, 3), 5, [5], [20]),
    ]
    for other in others:
        assert 0.1 < (reference != other).float().mean() < 0.26
    assert len({tuple(row.tolist()) for row in reference[:20]}) == 20


def test_masks_have_the_rate_and_no_correlation() -> None:
    masks = DropoutMasks(seed=3, width=256, modules=8)
    masks.begin(0, _keys([1, 2, 3, 4], [64] * 4), places=256)
    dropped = torch.stack([1 - masks.keep(m, 256, drop=0.1, dtype=torch.float32) for m in range(8)])
    share = dropped.mean()
    assert abs(float(share) - 0.1) < 0.002  # 524,288 elements: five standard deviations are 0.0021
    for left, right in (
        (dropped[0], dropped[1]),
        (dropped[:, :-1], dropped[:, 1:]),
        (dropped[..., :-1], dropped[..., 1:]),
    ):
        both = (left * right).mean()
        assert abs(float(both) - 0.01) < 0.003


def test_bfloat16_masks_are_the_same() -> None:
    masks = DropoutMasks(seed=1, width=64, modules=1)
    masks.begin(0, _keys([1], [32]), places=32)
    whole, half = masks.keep(0, 64, drop=0.3, dtype=torch.float32), masks.keep(0, 64, drop=0.3, dtype=torch.bfloat16)
    assert half.dtype is torch.bfloat16
    assert torch.equal(whole, half.float())


def test_an_order_is_a_permutation_by_seed_and_epoch() -> None:
    orders = [randomness.order(seed, epoch, 50).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] == randomness.order(0, 0, 50).tolist()


def test_known_values_keep_checkpoints_of_today_valid_tomorrow() -> None:
    assert randomness.order(7, 0, 6).tolist() == [3, 5, 2, 1, 0, 4]
    assert randomness.key("row", 1, 2, 3) == -6999027303469884073
    assert randomness.splitmix64(torch.tensor([1])).tolist() == [-2152535657050944081]
    hashed = content_hashes(torch.tensor([5, 6, 6]), torch.tensor([0, 1, 0]), torch.tensor([0, 0, 2]))
    assert hashed.tolist() == [2146510425241936786, 3896380012404419542, -6565658251663222471]


def test_known_masks_keep_checkpoints_of_today_valid_tomorrow() -> None:
    masks = DropoutMasks(seed=3, width=70, modules=2)
    head = torch.tensor([11, 0, 0, 11, 0])
    masks.begin(4, replace(_keys([1, 2], [3, 2]), contents=head), places=6)
    kept = masks.keep(1, 70, drop=0.3, dtype=torch.float32)
    assert kept.sum(1).tolist() == [42, 51, 45, 42, 51, 49]
    assert (kept * torch.arange(70)).sum(1).tolist() == [1544, 1691, 1404, 1544, 1654, 1502]
    for drop, dropped in ((1 / 32768, 0), (32767 / 32768, 420)):
        assert (masks.keep(1, 70, drop=drop, dtype=torch.float32) == 0).sum() == dropped
