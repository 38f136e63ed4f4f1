# SPDX-License-Identifier: Apache-2.0
"""Masks and orders are functions of what they belong to."""

import torch
from finetree_worker import randomness
from finetree_worker.randomness import DropoutMasks


def _keep(masks: DropoutMasks, step: int, rows: list[int], lengths: list[int], module: int = 0) -> torch.Tensor:
    masks.begin(step, rows, lengths=lengths, token_ids=torch.zeros(1, sum(lengths) + 3, dtype=torch.long))
    return masks.keep(module, 64, drop=0.1, dtype=torch.float32)


def test_a_rows_mask_does_not_hang_on_its_neighbors() -> None:
    masks = DropoutMasks(seed=1, width=64, modules=3)
    together = _keep(masks, 5, [4, 9, 2], [10, 20, 30], module=2)
    alone = _keep(masks, 5, [9], [20], module=2)
    assert torch.equal(together[10:30], alone[:20])


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
    masks.begin(0, [1, 2, 3, 4], lengths=[64] * 4, token_ids=torch.zeros(1, 256, dtype=torch.long))
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
    masks.begin(0, [1], lengths=[32], token_ids=torch.zeros(1, 32, dtype=torch.long))
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
