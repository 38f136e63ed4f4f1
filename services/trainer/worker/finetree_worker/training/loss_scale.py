# SPDX-License-Identifier: Apache-2.0
"""Loss scaling, which keeps float16 gradients from vanishing (Micikevicius et al. 2018, arXiv:1710.03740).

float16 holds nothing below 6e-8, and gradients are often smaller. The loss is multiplied before the backward pass and
the gradients are divided after it; the factor is a power of two, so that neither rounds anything. A step whose
gradients overflow is computed again with a smaller factor: no row is lost, and the data order stays a function of the
step.
"""

from collections.abc import Iterable

import torch
from torch import nn

FIRST = 2.0**16
"""Initial factor."""
SMALLER = 2.0**-4
"""Change of the factor after an overflow: a step is computed four times at most before the factor is 1."""
LARGER = 2.0
LARGER_AFTER = 2000
"""Steps without an overflow after which the factor doubles, the default of torch.amp.GradScaler."""
MOST = 2.0**24


class LossScale:
    """Factor on the loss; without `enabled` it is always 1."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.factor = FIRST if enabled else 1.0
        self.calm = 0
        """Steps since the factor last changed."""

    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Divide the gradients by the factor."""
        if self.factor != 1.0:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            torch._foreach_mul_(gradients, 1.0 / self.factor)

    def lower(self) -> bool:
        """Lower the factor after an overflow; return False where it is 1: the gradients themselves are infinite."""
        if self.factor <= 1.0:
            return False
        self.factor, self.calm = max(1.0, self.factor * SMALLER), 0
        return True

    def passed(self) -> None:
        """Note a step without an overflow, which may raise the factor."""
        if not self.enabled:
            return
        self.calm += 1
        if self.calm >= LARGER_AFTER:
            self.factor, self.calm = min(MOST, self.factor * LARGER), 0

    def restore(self, factor: float, calm: int) -> None:
        """Restore the factor and its steps from a checkpoint."""
        if self.enabled and factor > 0:
            self.factor, self.calm = factor, calm
