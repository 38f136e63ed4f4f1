# SPDX-License-Identifier: Apache-2.0
"""Freed memory stays with the process inside the block, and goes back after it."""

import resource
from pathlib import Path

import pytest
import torch
from finetree_worker.training.fused import heap
from finetree_worker.training.fused.levers import only

CPU = torch.device("cpu")
PAGES = 2048


def _faults() -> int:
    """Page faults of filling 8 MB (2,048 pages) ten times, each time in memory that was freed before."""
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for _ in range(10):
        torch.ones(PAGES * 4096, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before


def _pages_are_small() -> bool:
    """Whether a tensor gets pages of 4 kB, unless it asks for huge ones."""
    file = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return heap._glibc() is not None and not (file.exists() and "[always]" in file.read_text())


@pytest.mark.skipif(not _pages_are_small(), reason="counts pages of 4 kB of glibc's heap")
def test_memory_is_faulted_in_once_and_given_back() -> None:
    with heap.kept(CPU):
        _faults()
        assert _faults() < PAGES
    assert _faults() > 5 * PAGES


def test_another_device_and_a_switch_leave_the_heap_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(heap, "_set", never)
    with heap.kept(torch.device("cuda")), only([]), heap.kept(CPU):
        pass


def test_a_system_without_glibc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.sys, "platform", "darwin")
    with heap.kept(CPU):
        assert heap._glibc() is None
