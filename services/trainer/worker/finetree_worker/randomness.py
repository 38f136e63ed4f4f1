# SPDX-License-Identifier: Apache-2.0
"""Randomness as a function of (seed, step, layer, sample), never as a stream.

A generator that is advanced gives other numbers when a batch is split otherwise or a run is resumed. Here each number
is a hash of what it belongs to, so a dropout mask depends on nothing but the seed, the optimizer step, the module and
the token. A token of a document's head (before its first predictor of a target) is named by the document's tokens up to
it, any other one by its row and position: documents that begin alike have one mask there, so that it can be computed
once for all of them, and has the same mask where it is computed for each.

Hashing every mask element would cost a third of a step on a CPU, so a mask is the sum (modulo 2^15) of two hashed
tables: one per (step, token) over features, one per (step, module) over features. Any two elements of all masks of a
step, of differently named tokens, are independent (each table entry is uniform and two elements differ in at least one
entry), which is what the expectation and the variance of a dropped-out product rest on.
"""

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

# splitmix64's increment and multipliers (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"),
# as signed 64-bit integers because that is what torch multiplies with wrap-around on every device.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
MASKS = 2
"""Version of the function that makes masks. 1: every token was named by its row and position."""
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


def content_hashes(tokens: Tensor, positions: Tensor, starts: Tensor) -> Tensor:
    """Return a hash of each token's document up to and with it: int64 (tokens,), as all arguments are.

    `positions` are in the document, `starts` the place of each token's document. The hash is a sum of hashes of the
    tokens with their positions, which a running sum gives for all documents at once.
    """
    # Of the first position, 1: splitmix64 keeps 0.
    single = splitmix64(splitmix64(positions + 1) ^ tokens)
    sums = single.cumsum(0)
    return splitmix64(sums - (sums - single)[starts])


@dataclass(frozen=True, slots=True)
class MaskKeys:
    """What names each token of a micro-batch; tensors are int64 (tokens,).

    `contents` is the hash of its document up to a token of the head, and 0 for other tokens, which are named by the
    document's row, `rows[documents]`, and their `positions` in it.
    """

    rows: tuple[int, ...]
    documents: Tensor
    positions: Tensor
    contents: Tensor

    def to(self, device: torch.device) -> "MaskKeys":
        """Return the keys on a device."""
        names = ("documents", "positions", "contents")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})

    def counters(self, seed: int, step: int, span: int) -> Tensor:
        """Return where each token's counters begin, `span` of them for a token: int64 (tokens,)."""
        device = self.documents.device
        rows = torch.tensor([key("row", seed, step, row) for row in self.rows], device=device)
        own = rows[self.documents] + self.positions * span
        return torch.where(self.contents == 0, own, splitmix64(self.contents ^ key("head", seed, step)))


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

    def begin(self, step: int, keys: MaskKeys, *, places: int) -> None:
        """Prepare for one micro-batch of so many token places, on the device of its keys."""
        device = keys.documents.device
        if step != self._step or self._by_module is None:
            firsts = torch.tensor([key("module", self._seed, step, m) for m in range(self._modules)], device=device)
            self._by_module, self._step = (uniform_words(firsts, self._width) << 1) - _LEVELS, step
        self._last = None
        words = uniform_words(keys.counters(self._seed, step, (self._width + 3) // 4), self._width)
        self._by_token = pad(words << 1, (0, 0, 0, places - len(words)))

    def keep(self, module: int, features: int, *, drop: float, dtype: torch.dtype) -> Tensor:
        """Return 1 for each input that module number `module` keeps and 0 for the others: dtype (tokens, features)."""
        if self._by_token is None or self._by_module is None:
            message = "begin() must come before the forward pass"
            raise RuntimeError(message)
        words = self._by_token[:, :features] + self._by_module[module, :features]
        # Kept where the low 15 bits of the sum of both hashes reach the threshold. Twice their value, less 2^15, is a
        # signed 16-bit word: integer steps on those run at memory speed, where a comparison and a conversion take four
        # times as long. 1 for kept and 0 for dropped are what the two words around the threshold differ from the lower.
        lowest = 2 * round(drop * _LEVELS) - _LEVELS
        words.clamp_(lowest - 1, lowest).sub_(lowest - 1)
        if dtype is torch.bfloat16:
            return words.mul_(_BF16_ONE).view(torch.bfloat16)
        return words.to(dtype)

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
    """Dropout whose mask is a function of (seed, step, module, token); the identity outside training."""

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
