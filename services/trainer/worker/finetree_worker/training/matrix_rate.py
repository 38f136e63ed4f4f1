# SPDX-License-Identifier: Apache-2.0
"""Rate at which this machine multiplies matrices, which estimates of time start from."""

import time
from dataclasses import dataclass

import torch

SECONDS = 0.8
"""Time of the measurement of one number format."""
_SHAPE = (512, 1024, 1024)  # tokens x inputs x outputs: a small model's layer at a usual micro-batch


@dataclass(frozen=True, slots=True)
class MatrixRate:
    """Measured FLOP/s (a multiply and an add are two) with `threads` CPU threads."""

    bf16_flops: float
    fp32_flops: float
    threads: int


def measure(threads: int, seconds: float = SECONDS) -> MatrixRate:
    """Multiply matrices for about two seconds; the fastest repetition counts, since others share the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return MatrixRate(_rate(torch.bfloat16, seconds), _rate(torch.float32, seconds), threads)
    finally:
        torch.set_num_threads(before)


def rate_of(dtype: torch.dtype, threads: int) -> float:
    """Measure FLOP/s of products in one number format for about a second."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _rate(dtype, SECONDS)
    finally:
        torch.set_num_threads(before)


def _rate(dtype: torch.dtype, seconds: float) -> float:
    rows, inner, columns = _SHAPE
    left = torch.ones(rows, inner, dtype=dtype)
    right = torch.ones(columns, inner, dtype=dtype)
    torch.nn.functional.linear(left, right)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.nn.functional.linear(left, right)
        best = min(best, time.perf_counter() - start)
    return 2.0 * rows * inner * columns / best
