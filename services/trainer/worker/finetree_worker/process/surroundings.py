# SPDX-License-Identifier: Apache-2.0
"""What tasks of one process share beside the base: environment, random state, torch's settings, memory.

Nothing of a task but its result may reach the next one. The training libraries must have been imported.
"""

import gc
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetree_worker.device_memory import free_cache, trim_heap

_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""Sets the resident peak to what is resident now: proc_pid_clear_refs(5)."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """State of this process before its first task."""

    environment: dict[str, str]
    folder: str
    python_random: Any
    numpy_random: Any
    torch_random: torch.Tensor
    seed: int
    settings: tuple[Any, ...]

    @classmethod
    def capture(cls) -> "Surroundings":
        """Note the state as it is now."""
        return cls(
            environment=dict(os.environ),
            folder=os.getcwd(),  # noqa: PTH109 - a string for chdir
            python_random=random.getstate(),
            numpy_random=np.random.get_state(),  # noqa: NPY002 - the global state, which libraries may use
            torch_random=torch.get_rng_state(),
            seed=torch.initial_seed(),
            settings=_settings(),
        )

    def restore(self) -> bool:
        """Put the state back; return whether it is as it was."""
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(self.folder)
        random.setstate(self.python_random)
        np.random.set_state(self.numpy_random)  # noqa: NPY002 - likewise
        # Of all devices; on the CPU the state itself, which imports may have advanced.
        torch.manual_seed(self.seed)
        torch.set_rng_state(self.torch_random)
        threads, dtype, precision, deterministic, *backends = self.settings
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(mode=deterministic)
        cudnn: Any = torch.backends.cudnn
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = backends[:3]
        return _settings() == self.settings


def _settings() -> tuple[Any, ...]:
    """Return torch's settings that decide how something is computed."""
    cudnn: Any = torch.backends.cudnn
    return (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        cudnn.benchmark,
        cudnn.deterministic,
        cudnn.allow_tf32,
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
    )


def free_memory(device: torch.device) -> None:
    """Free objects in cycles, torch's cache of a GPU and the heap's unused pages."""
    gc.collect()
    free_cache(device)
    trim_heap()


def reset_peak(device: torch.device) -> bool:
    """Begin a new peak of this process's memory; return whether the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True
