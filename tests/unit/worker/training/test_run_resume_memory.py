# SPDX-License-Identifier: Apache-2.0
"""A resumed run needs no more memory than the one before it."""

import ctypes
import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_worker import device_memory
from finetree_worker.errors import Cancelled
from finetree_worker.methods.full import Full
from finetree_worker.plan import BaseModel, Plan
from worker_harness import elsewhere, pausing, run, tuned

CPU = torch.device("cpu")


def settled() -> int:
    """Resident bytes once freed memory is given back; the peak is counted from here on."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): resets VmHWM
    return device_memory.memory_bytes(CPU)


def test_a_resumed_run_has_the_peak_of_the_run_before_it(
    plan: Plan, tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path
) -> None:
    """The state of the optimizer is the larger part of what is loaded: beside another one it would not fit."""
    folder = tmp_path / "wide"
    tiny("llama", num_hidden_layers=1, intermediate_size=1 << 16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    wide = elsewhere(replace(plan, base=BaseModel(folder), method=Full()), tmp_path / "b")
    wide = tuned(wide, max_steps=4, epochs=None, batch_size=1)
    run(tuned(plan, max_steps=1, epochs=None))
    before = settled()
    with pytest.raises(Cancelled):
        run(wide, pausing(2))
    first = device_memory.peak_memory_bytes(CPU) - before
    # From where it starts: what the heap keeps of the first run depends on the tests that came before.
    before = settled()
    run(wide)
    second = device_memory.peak_memory_bytes(CPU) - before
    assert second <= 1.05 * first
