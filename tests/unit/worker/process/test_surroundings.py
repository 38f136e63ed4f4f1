# SPDX-License-Identifier: Apache-2.0
"""What a task changes beside its base is put back before the next one."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from finetree_worker import device_memory
from finetree_worker.process.surroundings import Surroundings, free_memory, reset_peak

CPU = torch.device("cpu")


@pytest.fixture
def unchanged():
    """The process as the test found it."""
    before = Surroundings.capture()
    yield
    assert before.restore()


@pytest.mark.usefixtures("unchanged")
def test_everything_that_decides_a_result_is_as_before(tmp_path):
    captured = Surroundings.capture()
    drawn = torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002 - the global state is meant
    os.environ["FINETREE_OF_A_TASK"] = "1"
    os.environ.pop("PATH")
    os.chdir(tmp_path)
    torch.manual_seed(7)
    torch.set_num_threads(captured.settings[0] + 1)
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(mode=True)
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
    assert captured.restore()
    again = torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002 - likewise
    assert torch.equal(drawn[0], again[0])
    assert drawn[1:] == again[1:]
    assert dict(os.environ) == captured.environment
    assert str(Path.cwd()) == captured.folder
    assert torch.get_num_threads() == captured.settings[0]
    assert torch.get_default_dtype() is torch.float32
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.usefixtures("unchanged")
def test_what_cannot_be_put_back_is_noticed():
    captured = Surroundings.capture()
    with torch.no_grad():
        assert not captured.restore()


def test_a_peak_begins_anew():
    held = torch.ones(16 * 2**20)
    assert device_memory.peak_memory_bytes(CPU) >= held.nbytes
    before = device_memory.peak_memory_bytes(CPU)
    del held
    free_memory(CPU)
    assert reset_peak(CPU)
    assert device_memory.peak_memory_bytes(CPU) < before
