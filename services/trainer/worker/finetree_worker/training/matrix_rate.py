# SPDX-License-Identifier: Apache-2.0
"""Rates at which this machine multiplies matrices: estimates of time start from them, and they choose its format.

Both layouts of a training step are measured, Y = X W^T of the forward pass and dX = dY W of the backward pass: where a
processor has no bfloat16 products, libraries emulate them in one layout far worse than in the other.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

SECONDS = 1.6
"""Time of a measurement, all formats and layouts together."""
_ROWS, _WIDTH = 512, 1024  # tokens x inputs and outputs: a small model's layer at a usual micro-batch
_FEW_ROWS = 32
_LONG = 1 / 16
"""Share of the time above which a product is measured with a few rows: one that is emulated would leave no turn to
the others."""


class Rate(NamedTuple):
    """Measured FLOP/s (a multiply and an add are two) in one number format, by layout."""

    forward: float
    """Of Y = X W^T."""
    backward: float
    """Of dX = dY W."""


@dataclass(frozen=True, slots=True)
class MatrixRate:
    """Measured rates with `threads` CPU threads."""

    bf16: Rate
    fp32: Rate
    threads: int


def measure(threads: int, seconds: float = SECONDS, *, clock: Callable[[], float] = time.perf_counter) -> MatrixRate:
    """Multiply matrices for about two seconds, by turns in both formats, so that other work meets them alike."""
    bf16, fp32 = _rates((torch.bfloat16, torch.float32), threads, seconds=seconds, clock=clock)
    return MatrixRate(bf16, fp32, threads)


def rate_of(dtype: torch.dtype, threads: int, seconds: float = SECONDS / 2) -> Rate:
    """Measure products in one number format for about a second."""
    return _rates((dtype,), threads, seconds=seconds, clock=time.perf_counter)[0]


def _rates(dtypes: Sequence[torch.dtype], threads: int, *, seconds: float, clock: Callable[[], float]) -> list[Rate]:
    with _threads(threads):
        products = [product for dtype in dtypes for product in _products(dtype, seconds * _LONG, clock)]
        end, first = clock() + seconds, True
        while first or clock() < end:
            first = False
            for product in products:
                product.take()
    rates = [product.rate() for product in products]
    return [Rate(*rates[at : at + 2]) for at in range(0, len(rates), 2)]


class _Product:
    """A product of rows with a square matrix, and its fastest repetition, since others share the machine."""

    def __init__(self, call: Callable[[], torch.Tensor], rows: int, clock: Callable[[], float]) -> None:
        self._call, self._clock = call, clock
        self._flops, self.seconds = 2.0 * rows * _WIDTH * _WIDTH, float("inf")
        call()  # the library compiles it

    def take(self) -> None:
        start = self._clock()
        self._call()
        self.seconds = min(self.seconds, self._clock() - start)

    def rate(self) -> float:
        return self._flops / max(self.seconds, 1e-9)


def _products(dtype: torch.dtype, longest: float, clock: Callable[[], float]) -> Iterator[_Product]:
    """Yield the products of both layouts, forward first; one of all rows would take at most `longest` seconds."""
    weight = torch.ones(_WIDTH, _WIDTH, dtype=dtype)
    few, all_rows = (torch.ones(rows, _WIDTH, dtype=dtype) for rows in (_FEW_ROWS, _ROWS))
    for multiply in (_forward, _backward):
        tried = _Product(partial(multiply, few, weight), _FEW_ROWS, clock)
        tried.take()
        if tried.seconds * _ROWS / _FEW_ROWS > longest:
            yield tried
        else:
            yield _Product(partial(multiply, all_rows, weight), _ROWS, clock)


def _forward(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(rows, weight)


def _backward(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return rows @ weight


@contextmanager
def _threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
