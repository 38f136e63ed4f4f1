# SPDX-License-Identifier: Apache-2.0
"""A piece takes the bytes that it may, and has a row at least."""

import pytest
import torch
from finetree_worker.training.fused.tiles import CACHE_BYTES, rows_of, scratch


@pytest.mark.parametrize(("features", "tensors"), [(576, 2), (4096, 3), (49_152, 2)])
def test_the_tensors_of_a_piece_fill_the_cache_and_no_more(features: int, tensors: int) -> None:
    x = torch.empty(100_000, features, dtype=torch.bfloat16, device="meta")
    rows = rows_of(torch.empty(1, features), tensors)
    size = 4 * features * tensors
    assert rows * size <= CACHE_BYTES * torch.get_num_threads() < (rows + 1) * size
    # Off a CPU there is no such cache: one piece.
    assert rows_of(x, tensors) == 100_000


def test_a_row_too_wide_for_the_cache_is_a_piece() -> None:
    assert rows_of(torch.empty(1, 1).expand(4, 1 << 30), 2) == 1


def test_scratch_is_float32_and_no_longer_than_the_rows() -> None:
    first, second = scratch(torch.empty(5, 8, dtype=torch.bfloat16), 2)
    assert first.shape == second.shape == (5, 8)
    assert first.dtype is second.dtype is torch.float32
    assert first.data_ptr() != second.data_ptr()
