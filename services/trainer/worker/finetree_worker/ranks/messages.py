# SPDX-License-Identifier: Apache-2.0
"""How long a rank is in the messages of fully_shard: on a CPU each is waited for where it is sent.

On a GPU messages run beside the computing, and the host's clock tells nothing of them: torch's own are kept there.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

# torch 2.13 has renamed them, and warns of the older names.
_all_gather: Callable[..., dist.Work | None] = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter: Callable[..., dist.Work | None] = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


class Messages:
    """Sends what divided modules gather and scatter, as torch does, and adds up the seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """In messages since the start: what sending takes, and what the other ranks are waited for."""

    def carry(self, module: FSDPModule) -> None:
        """Carry the messages of a divided module; modules inside it that are divided have their own."""
        module.set_custom_all_gather(cast("Any", _Timed(_all_gather, self)))
        module.set_custom_reduce_scatter(cast("Any", _Timed(_reduce_scatter, self)))


class _Timed:
    """One of torch's collectives in the form that fully_shard asks for: torch's `Comm`, whose class is not public."""

    def __init__(self, collective: Callable[..., dist.Work | None], messages: Messages) -> None:
        self._collective, self._messages = collective, messages

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, **named: Any) -> dist.Work | None:
        started = time.perf_counter()
        work = self._collective(output_tensor, input_tensor, **named)
        self._messages.seconds += time.perf_counter() - started
        return work
