# SPDX-License-Identifier: Apache-2.0
"""How far two runs are from each other: 0 is the same case, 1 is far.

The distance is a sum of one term for each respect in which memory or speed may come out otherwise. The weights are own
choices, not fitted: a respect that changes which formulas apply (method, a quantized base) weighs 0.25-0.4, one that
changes a constant (program, kernel) 0.1-0.2, a size that the formulas scale by 0.15-0.2 for each factor of ten. Of the
device only speed depends strongly. A run on a CPU and one on a GPU have little in common: 1.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

FAR = 1.0
"""Distance from which on a case counts as far, however much farther it is."""
CPU = "cpu"
"""Accelerator and architecture of a processor."""

_LOG_10 = math.log(10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What two runs have in common or not, sizes left out."""

    method: str
    """full, lora, prefix or adapter; a packed base shows in `bits`."""
    bits: int = 0
    """Of a packed base; 0 where it is not."""
    checkpointing: str = "off"
    """off, full or offloaded."""
    accelerator: str
    """Catalog name; CPU for a processor, empty for a device that no measured run has."""
    architecture: str
    """Of the accelerator."""
    devices: int = 1
    sharding: str = "replicated"
    """What several devices share: replicated, optimizer, gradients or full; replicated for one."""
    nodes: int = 1
    program: str
    mixture: bool = False
    """Whether the model is a mixture of experts."""
    eager: bool = False
    """Whether attention keeps its scores."""
    hybrid: bool = False
    """Whether layers have linear attention: no measured run's have."""
    guessed: bool = False
    """Whether the model's architecture is guessed: no measured run's is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A run as far as the distance sees it; sizes are natural logarithms."""

    setting: Setting
    parameters: float
    peak_tokens: float
    """Tokens of the largest micro-batch: memory grows with it."""
    mean_tokens: float
    """Tokens of an average micro-batch: speed depends on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What each respect adds to the distance where two runs differ in it; sizes for each factor of ten."""

    base_trained: float
    """One trains all weights, the other something beside them."""
    method: float
    """Both train something beside the weights, but not the same."""
    quantized: float
    """One base is packed, the other is not."""
    bits: float
    """Both are, in different ways."""
    checkpointing: float
    accelerator: float
    architecture: float
    """On top of `accelerator`, where the architecture differs too."""
    one_device: float
    """One runs on one device, the other on several."""
    devices: float
    sharding: float
    nodes: float
    """One runs on one machine, the other on several."""
    program: float
    mixture: float
    eager: float
    hybrid: float
    guessed: float
    parameters: float
    tokens: float
    by_peak: bool
    """Whether tokens are those of the largest micro-batch rather than of an average one."""
    cpu: float = FAR
    """One runs on a CPU, the other does not."""

    def where_observed(self) -> "Weights":
        """The weights where this suite's program was observed on the device: neither adds distance then."""
        return replace(self, accelerator=0.0, architecture=0.0, program=0.0, cpu=0.0)


MEMORY = Weights(
    base_trained=0.40,
    method=0.25,
    quantized=0.30,
    bits=0.15,
    checkpointing=0.20,
    accelerator=0.02,
    architecture=0.04,
    one_device=0.20,
    devices=0.10,
    sharding=0.15,
    nodes=0.0,
    program=0.10,
    mixture=0.30,
    eager=0.25,
    hybrid=0.35,
    guessed=0.35,
    parameters=0.20,
    tokens=0.20,
    by_peak=True,
)
"""Memory hardly depends on the accelerator; what is kept for the backward pass depends on program and settings."""
TIME = Weights(
    base_trained=0.25,
    method=0.15,
    quantized=0.30,
    bits=0.15,
    checkpointing=0.10,
    accelerator=0.12,
    architecture=0.18,
    one_device=0.25,
    devices=0.20,
    sharding=0.10,
    nodes=0.20,
    program=0.15,
    mixture=0.35,
    eager=0.20,
    hybrid=0.40,
    guessed=0.25,
    parameters=0.15,
    tokens=0.20,
    by_peak=False,
)
"""Speed depends on the accelerator above all; FLOPs by method are counted."""


RESPECTS = (
    "method",
    "bits",
    "checkpointing",
    "accelerator",
    "devices",
    "sharding",
    "nodes",
    "program",
    "mixture",
    "eager",
    "hybrid",
    "guessed",
)
"""Respects in which settings differ, by the name of their field."""


def setting_distance(one: Setting, other: Setting, weights: Weights) -> float:
    """Distance that the differences of the settings add."""
    return sum(_setting_terms(one, other, weights))


def setting_terms(one: Setting, other: Setting, weights: Weights) -> dict[str, float]:
    """Distance that each respect adds in which the settings differ, by the name of its field."""
    return {name: term for name, term in zip(RESPECTS, _setting_terms(one, other, weights), strict=True) if term > 0}


def _setting_terms(one: Setting, other: Setting, weights: Weights) -> tuple[float, ...]:
    """Distance that each of RESPECTS adds, 0 where the settings do not differ in it."""
    return (
        _method(one, other, weights),
        _bits(one, other, weights),
        weights.checkpointing * (one.checkpointing != other.checkpointing),
        _accelerator(one, other, weights),
        _devices(one.devices, other.devices, weights),
        weights.sharding * (one.sharding != other.sharding),
        weights.nodes * ((one.nodes > 1) != (other.nodes > 1)),
        weights.program * (one.program != other.program),
        weights.mixture * (one.mixture != other.mixture),
        weights.eager * (one.eager != other.eager),
        weights.hybrid * (one.hybrid != other.hybrid),
        weights.guessed * (one.guessed != other.guessed),
    )


class SizeTerms(NamedTuple):
    """Distance that the sizes of two runs add."""

    parameters: float
    tokens: float


def size_terms(one: Case, other: Case, weights: Weights) -> SizeTerms:
    """Distance that the number of parameters and that of tokens add."""
    tokens = abs(tokens_of(one, weights) - tokens_of(other, weights))
    return SizeTerms(
        parameters=weights.parameters / _LOG_10 * abs(one.parameters - other.parameters),
        tokens=weights.tokens / _LOG_10 * tokens,
    )


def tokens_of(case: Case, weights: Weights) -> float:
    """Logarithm of the tokens that matter."""
    return case.peak_tokens if weights.by_peak else case.mean_tokens


def _method(one: Setting, other: Setting, weights: Weights) -> float:
    if one.method == other.method:
        return 0.0
    return weights.base_trained if "full" in (one.method, other.method) else weights.method


def _bits(one: Setting, other: Setting, weights: Weights) -> float:
    if one.bits == other.bits:
        return 0.0
    return weights.bits if one.bits and other.bits else weights.quantized


def _accelerator(one: Setting, other: Setting, weights: Weights) -> float:
    if one.accelerator and one.accelerator == other.accelerator:
        return 0.0
    if CPU in (one.architecture, other.architecture):
        return weights.cpu
    same = one.architecture and one.architecture == other.architecture
    return weights.accelerator + (0.0 if same else weights.architecture)


def _devices(one: int, other: int, weights: Weights) -> float:
    if one == other:
        return 0.0
    alone = weights.one_device if 1 in (one, other) else 0.0
    return alone + weights.devices / _LOG_10 * abs(math.log(one / other))
