# SPDX-License-Identifier: Apache-2.0
"""Randomness as a function of (seed, step, layer, sample), never as a stream.

A generator that is advanced gives other numbers when a batch is split otherwise or a run is resumed. Here each number
is a hash of what it belongs to, so a dropout mask depends on nothing but the seed, the optimizer step, the module, the
row and the token. Hashing every mask element would cost a third of a step on a CPU, so a mask is the sum (modulo
2^15) of two hashed tables: one per (step, row) over tokens x features, one per (step, module) over features. Any two
elements of all masks of a step are independent (each table entry is uniform and two elements differ in at least one
entry), which is what the expectation and the variance of a dropped-out product rest on.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

# splitmix64's increment and multipliers (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"),
# as signed 64-bit integers because that is what torch multiplies with wrap-around on every device.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_LEVELS = 1 << 15
_BF16_ONE = 0x3F80  # the bits of 1.0 in bfloat16


def key(*parts: int | str) -> int:
    """Return a signed 64-bit key of what a random number belongs to, equal on every machine and Python version."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _unsigned_shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def splitmix64(x: Tensor) -> Tensor:
    """Hash each element of an int64 tensor to 64 uniform bits (int64 of the same shape)."""
    x = x * _GOLDEN
    x = (x ^ _unsigned_shift(x, 30)) * _MIX_1
    x = (x ^ _unsigned_shift(x, 27)) * _MIX_2
    return x ^ _unsigned_shift(x, 31)


def uniform_words(first: Tensor, width: int) -> Tensor:
    """Return rows of 16-bit words, int16 (len(first), width): row i hashes the counters that begin at first[i]."""
    columns = torch.arange((width + 3) // 4, device=first.device, dtype=torch.int64)
    bits = splitmix64(first[:, None] + columns[None, :])
    return bits.view(torch.int16)[:, :width]


def order(seed: int, epoch: int, rows: int) -> Tensor:
    """Return the order in which an epoch visits its rows: a permutation of range(rows), int64 (rows,)."""
    hashed = splitmix64(torch.arange(rows, dtype=torch.int64) ^ key("order", seed, epoch))
    return torch.argsort(hashed, stable=True)


class DropoutMasks:
    """Masks of one micro-batch for all dropout modules of a model; rows of a mask are the packed tokens in order."""

    def __init__(self, seed: int, width: int, modules: int) -> None:
        """`width` is the widest input of any of the `modules` dropout modules, in features."""
        self._seed = seed
        self._width = width
        self._modules = modules
        self._step = -1
        self._by_module: Tensor | None = None
        self._by_token: Tensor | None = None
        self._last: tuple[Tensor, Tensor] | None = None

    def begin(self, step: int, rows: Sequence[int], *, lengths: Sequence[int], token_ids: Tensor) -> None:
        """Prepare for one micro-batch: the dataset's row numbers in it, and the length of each in tokens.

        `token_ids` (1, tokens with filling) says where the masks are made, and for how many tokens.
        """
        device, tokens = token_ids.device, token_ids.shape[1]
        if step != self._step or self._by_module is None:
            firsts = torch.tensor([key("module", self._seed, step, m) for m in range(self._modules)], device=device)
            self._by_module, self._step = uniform_words(firsts, self._width), step
        per_token = (self._width + 3) // 4
        self._last = None
        firsts = torch.cat(
            [
                torch.arange(length, device=device, dtype=torch.int64) * per_token + key("row", self._seed, step, row)
                for row, length in zip(rows, lengths, strict=True)
            ]
        )
        words = uniform_words(firsts, self._width)
        self._by_token = pad(words, (0, 0, 0, tokens - len(words)))

    def keep(self, module: int, features: int, *, drop: float, dtype: torch.dtype) -> Tensor:
        """Return 1 for each input that module number `module` keeps and 0 for the others: dtype (tokens, features)."""
        if self._by_token is None or self._by_module is None:
            message = "begin() must come before the forward pass"
            raise RuntimeError(message)
        words = self._by_token[:, :features] + self._by_module[module, :features]
        # Kept where the low 15 bits reach the threshold. Integer steps on 16-bit words run at memory speed, where a
        # comparison and a conversion take four times as long; (t - 1 - word) >> 15 is -1 for kept and 0 for dropped.
        words.bitwise_and_(_LEVELS - 1).neg_().add_(round(drop * _LEVELS) - 1).bitwise_right_shift_(15)
        if dtype is torch.bfloat16:
            return words.bitwise_and_(_BF16_ONE).view(torch.bfloat16)
        return words.neg_().to(dtype)

    def dropped(self, x: Tensor, module: int, drop: float) -> Tensor:
        """Return the input x (1, tokens, features) with dropped elements zero, unscaled.

        Modules that read the same tensor (query, key and value; gate and up) share one mask, the first one's: their
        input is dropped out once, and kept once for the backward pass.
        """
        if self._last is not None and self._last[0] is x:
            return self._last[1]
        result = x * self.keep(module, x.shape[-1], drop=drop, dtype=x.dtype)
        self._last = (x, result)
        return result

    def end(self) -> None:
        """Release the micro-batch's tensors."""
        self._last = self._by_token = None


class CounterDropout(nn.Module):
    """Dropout whose mask is a function of (seed, step, module, row, token); the identity outside training."""

    def __init__(self, drop: float, features: int) -> None:
        super().__init__()
        self.drop = round(drop * _LEVELS) / _LEVELS
        self.features = features
        self.masks: DropoutMasks | None = None
        self.index = -1

    @property
    def scale(self) -> float:
        """Factor on kept elements that keeps the expectation."""
        return 1.0 / (1.0 - self.drop) if self.training and self.masks is not None else 1.0

    def unscaled(self, x: Tensor) -> Tensor:
        """Return the input x (1, tokens, features) with dropped elements zero and the kept ones unchanged."""
        if not self.training or self.masks is None:
            return x
        return self.masks.dropped(x, self.index, self.drop)

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of x (1, tokens, features); kept ones are scaled by 1 / (1 - drop)."""
        return self.unscaled(x) * self.scale


def bind(model: nn.Module, seed: int) -> DropoutMasks | None:
    """Number the model's counter dropouts in module order and give them one mask source; None where there are none."""
    found = [module for module in model.modules() if isinstance(module, CounterDropout) and module.drop > 0]
    if not found:
        return None
    masks = DropoutMasks(seed, max(module.features for module in found), len(found))
    for index, module in enumerate(found):
        module.index, module.masks = index, masks
    return masks
