# SPDX-License-Identifier: Apache-2.0
"""Peak memory by component: of one device as allocated, reserved and device peaks, and of the host.

A step's peak is what stays for the whole step (weights, optimizer states) plus what is alive at its fullest moment:
activations and logits at the loss, activations and gradients of a layer, or all gradients at the end. They never
coincide, so the largest counts and not their sum.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cache, lru_cache

from finetree_estimator import constants as c
from finetree_estimator.intervals import COVERAGE, Interval, Source, around, made, together
from finetree_estimator.memory import cpu
from finetree_estimator.memory.activations import Layer, layer_of
from finetree_estimator.memory.attention_scores import score_length
from finetree_estimator.memory.model_states import Held, Moment, held
from finetree_estimator.memory.step_peak import moment_of
from finetree_estimator.methods.base import QuantizedLora, name_of
from finetree_estimator.recipe import Recipe
from finetree_estimator.run import Run


class Component(Enum):
    """Parts of the peak; the names are those of the contract's MemoryComponentKind."""

    # Enum's own hashes the name, in Python; members are single, so their identity will do.
    __hash__ = object.__hash__

    BASE_WEIGHTS = "base weights"
    TRAINABLE_WEIGHTS = "trainable and master weights"
    GRADIENTS = "gradients"
    OPTIMIZER_STATES = "optimizer states"
    ACTIVATIONS = "activations"
    TRANSIENT_PEAK = "loss or layer peak"
    QUANTIZATION = "quantisation constants and workspace"
    RUNTIME = "runtime"
    FRAGMENTATION = "fragmentation"


COUNTED = frozenset(
    {Component.BASE_WEIGHTS, Component.TRAINABLE_WEIGHTS, Component.GRADIENTS, Component.OPTIMIZER_STATES}
)
"""Parts whose size follows from counts and number formats."""


@dataclass(slots=True)
class Parts:
    """The components that there are, a column for each end of their intervals: an answer is written by columns."""

    kinds: tuple[Component, ...]
    low: Sequence[float]
    expected: Sequence[float]
    high: Sequence[float]
    sources: Sequence[tuple[Source, ...]]

    @classmethod
    def of(cls, components: Iterable[tuple[Component, Interval]]) -> "Parts":
        """The columns of intervals."""
        kinds, intervals = zip(*components, strict=True)
        low, expected, high, sources, _ = zip(*intervals, strict=True)
        return cls(kinds, low, expected, high, sources)


@dataclass(slots=True)
class Memory:
    """Bytes. The components' expected values add up to `device.expected`. Not to be changed: they are kept."""

    parts: Parts
    allocated: Interval
    reserved: Interval
    device: Interval
    host: Interval
    written: list[bytes] = field(default_factory=list, init=False, compare=False, repr=False)
    """What of it stands on the wire, for who writes it more than once."""

    @property
    def components(self) -> list[tuple[Component, Interval]]:
        """The components one by one."""
        parts = self.parts
        columns = zip(parts.kinds, parts.low, parts.expected, parts.high, parts.sources, strict=True)
        return [(kind, Interval(low, expected, high, sources)) for kind, low, expected, high, sources in columns]


def decided_by(run: Run) -> Hashable:
    """All that `estimate` depends on, for a run on GPUs: runs that share it have the same peaks."""
    shares = run.rows.target_fraction if run.rows is not None and run.loss == "completion-only" else 1.0
    more = run.batch > run.micro_batch * run.devices
    return (
        run.recipe,
        run.peak_tokens,
        more,
        run.loss,
        shares,
        score_length(run),
        run.offloaded,
        run.device.context_bytes,
    )


def estimate(run: Run, spread: float = 1.0) -> Memory:
    """Peaks of one device of a run, and of the host.

    The ends are `spread` times as far from the expected values as near measured runs, but never uselessly far.
    """
    recipe, tokens = run.recipe, run.peak_tokens
    holds, layer, spreads = _fixed(recipe)
    moment = moment_of(run, holds, layer, tokens)
    runtime = _runtime(run, holds, tokens)
    fragments = _fragmentation(run, moment, holds, tokens)
    sizes = (
        holds.base_weights,
        holds.trainable_weights,
        moment.gradients,
        holds.optimizer_states,
        moment.activations,
        moment.transient + (_more_for_setup(holds, moment, runtime, fragments) if holds.whole.setup else 0.0),
        holds.quantization,
        runtime,
        fragments,
    )
    parts, whole = _parts(spreads, sizes, spread)
    # Outside the allocator: of a GPU its context, of a process everything that holds no tensor.
    outside = runtime if recipe.on_cpu else run.device.context_bytes + holds.collectives
    reserved = _wider(whole, 1 - outside / whole.expected, spread)
    allocated = _wider(whole, 1 - (outside + fragments) / whole.expected, spread)
    device = _wider(whole, 1.0, spread)
    return Memory(parts, allocated, reserved, device, _host(run, device, holds, tokens))


def _parts(spreads: "_Spreads", sizes: tuple[float, ...], spread: float) -> tuple[Parts, Interval]:
    """Those that there are, their ends `spread` times as far, and the sum of them before that.

    In one go, since nine of them are in every answer.
    """
    low = expected = high = 0.0
    seen = merged = tuple[Source, ...]()
    kinds, lows, mids, highs, rests_on = [], [], [], [], []
    for (kind, down, up, sources), size in zip(spreads, sizes, strict=True):
        if size <= 0:
            continue
        below, above = size * down, size * up
        low, expected, high = low + below, expected + size, high + above
        if sources is not seen:
            seen, merged = sources, together(merged, sources)
        kinds.append(kind)
        lows.append(max(0.0, size - spread * (size - below)))
        mids.append(size)
        highs.append(size + spread * (above - size))
        rests_on.append(sources)
    return Parts(tuple(kinds), lows, mids, highs, rests_on), made((low, expected, high, merged, COVERAGE))


def _wider(peak: Interval, share: float, spread: float) -> Interval:
    """A share of a peak, its ends `spread` times as far from the expected value, but never uselessly far."""
    low, expected, high, sources, coverage = peak
    low, expected, high = low * share, expected * share, high * share
    low = max(expected - spread * (expected - low), expected * (2 - c.WIDEST))
    high = min(expected + spread * (high - expected), expected * c.WIDEST)
    return made((low, expected, high, sources, coverage))


def counted_bytes(run: Run) -> float:
    """What stays on a device for the whole step and is counted exactly: no peak, observed or not, lies below it."""
    holds = _fixed(run.recipe)[0]
    return holds.base_weights + holds.trainable_weights + holds.optimizer_states


def _more_for_setup(holds: Held, moment: Moment, runtime: float, fragments: float) -> float:
    """What the setting up of a sharded model needs beyond a step."""
    static = holds.base_weights + holds.trainable_weights + holds.optimizer_states + holds.quantization
    step = static + moment.gradients + moment.activations + moment.transient + runtime + fragments
    return max(0.0, holds.whole.setup + runtime - step)


def _runtime(run: Run, holds: Held, tokens: float) -> float:
    if run.device.is_cpu:
        return cpu.runtime(run, tokens)
    return run.device.context_bytes + c.CUDA_WORKSPACE + holds.collectives


def _fragmentation(run: Run, moment: Moment, holds: Held, tokens: float) -> float:
    """Bytes that the allocator holds and nobody uses."""
    if run.device.is_cpu:
        return cpu.holes(run, tokens, holds.gradients)
    stored, passing = c.FRAGMENTATION, c.FRAGMENTATION
    if run.checkpointing:
        stored, passing = c.FUSED_FRAGMENTATION if run.loss == "fused" else (c.STORED_FRAGMENTATION, passing)
    holes = stored * moment.activations + passing * moment.transient + c.FRAGMENTATION * moment.gradients
    return holes + moment.cached


_Spreads = tuple[tuple[Component, float, float, tuple[Source, ...]], ...]


@lru_cache(maxsize=4096)
def _fixed(recipe: Recipe) -> tuple[Held, Layer, _Spreads]:
    """All that a recipe decides, in one look-up."""
    tensors = cpu.tensors_spread(recipe) if recipe.on_cpu else None
    return held(recipe), layer_of(recipe), _spreads(_counted_spread(recipe), recipe.devices > 1, tensors)


def _counted_spread(recipe: Recipe) -> float:
    method = recipe.method
    integers = isinstance(method, QuantizedLora) and (method.grouped or method.bits == 8)
    return c.INTEGER_SPREAD if integers and not recipe.on_cpu else c.METHOD_SPREAD[name_of(method)]


@cache
def _spreads(counted: float, several: bool, on_cpu: tuple[float, float] | None) -> _Spreads:  # noqa: FBT001  # a key
    """How far the ends of each component are, as factors. Counted parts are exact; kernels and allocators are not.

    `counted` is the half-width of what is counted on one device; `on_cpu` are those of what is counted tensor by
    tensor on a CPU, None on a GPU.
    """
    shared = c.DEVICES_SPREAD if several else 0.0
    counted += shared
    fit = (c.MEMORY_FIT if on_cpu is None else c.CPU_CONSTANTS,)
    found = []
    for kind in Component:
        if kind in COUNTED:
            found.append((kind, 1 - counted, 1 + counted, _COUNTED_FROM))
        else:
            below, above = c.GPU_SPREAD if on_cpu is None else _CPU_SPREADS.get(kind, on_cpu)
            found.append((kind, 1 - (below + shared), 1 + (above + shared), fit))
    return tuple(found)


_CPU_SPREADS = {
    Component.RUNTIME: cpu.RUNTIME_SPREAD,
    Component.FRAGMENTATION: cpu.HOLES_SPREAD,
}
_COUNTED_FROM = (c.MEMORY_FORMULAS,)


def _host(run: Run, device: Interval, holds: Held, tokens: float) -> Interval:
    """On a CPU the process itself; beside a GPU the libraries, a shard of weights, and what is offloaded or paged."""
    if run.device.is_cpu:
        return device
    shard = min(5e9, holds.whole_weights)
    inputs = run.compute_bytes * run.shape.hidden * run.shape.layers * tokens if run.offloaded else 0.0
    expected = (c.HOST_RUNTIME + shard + inputs + holds.paged_states) * run.devices
    return around(expected, below=0.4, above=0.6, sources=_COUNTED_FROM)
