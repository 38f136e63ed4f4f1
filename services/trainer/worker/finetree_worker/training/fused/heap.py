# SPDX-License-Identifier: Apache-2.0
"""The C library's heap during training on a CPU.

glibc gives each tensor of more than 32 MB, and at first of more than 128 kB, pages of its own, which the kernel takes
back when the tensor goes and clears when the next one comes: 200,000 page faults in a step of 2,000 tokens. A step asks
for the same sizes again and again, so what it frees is better kept. mallopt(3): https://man7.org/linux/man-pages/man3/mallopt.3.html
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from finetree_worker.training.fused.levers import Lever, is_on

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_DEFAULTS = {_TRIM_THRESHOLD: 128 * 1024, _TOP_PAD: 128 * 1024, _MMAP_THRESHOLD: 128 * 1024}
_KEEPING = {_TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * 2**20, _MMAP_THRESHOLD: 2**30}


@contextmanager
def kept(device: torch.device) -> Iterator[None]:
    """Keep freed memory inside the block and return it after; does nothing off a CPU or without glibc."""
    library = _glibc() if device.type == "cpu" and is_on(Lever.HEAP) else None
    if library is None:
        yield
        return
    _set(library, _KEEPING)
    try:
        yield
    finally:
        _set(library, _DEFAULTS)
        library.malloc_trim(0)


def _set(library: ctypes.CDLL, values: dict[int, int]) -> None:
    for parameter, value in values.items():
        library.mallopt(parameter, value)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
