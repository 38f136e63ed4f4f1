# SPDX-License-Identifier: Apache-2.0
"""The type in which a function by hand computes its products, as the operations that it replaces would."""

import torch
from torch import Tensor


def product_type(states: Tensor) -> torch.dtype:
    """Return autocast's type where that is on for the states' device, else their own."""
    kind = states.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
