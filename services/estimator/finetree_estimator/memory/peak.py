# SPDX-License-Identifier: Apache-2.0
"""Peak memory by component: of one device as allocated, reserved and device peaks, and of the host.

A step's peak is what stays for the whole step (weights, optimizer states) plus what is alive at its fullest moment:
activations and logits at the loss, activations and gradients of a layer, or all gradients at the end. They never
coincide, so the largest counts and not their sum.
"""

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from finetree_estimator import constants as c
from finetree_estimator.intervals import Interval, Source, around, exact, together
from finetree_estimator.memory import cpu, step_peak
from finetree_estimator.memory.activations import layer_activations
from finetree_estimator.memory.model_states import ModelStates, model_states
from finetree_estimator.memory.step_peak import Moment
from finetree_estimator.programs import FINETREE
from finetree_estimator.run import Run


class Component(Enum):
    """Parts of the peak; the names are those of the contract's MemoryComponentKind."""

    BASE_WEIGHTS = "base weights"
    TRAINABLE_WEIGHTS = "trainable and master weights"
    GRADIENTS = "gradients"
    OPTIMIZER_STATES = "optimizer states"
    ACTIVATIONS = "activations"
    TRANSIENT_PEAK = "loss or layer peak"
    QUANTIZATION = "quantization constants and workspace"
    RUNTIME = "runtime"
    FRAGMENTATION = "fragmentation"

    # Members are equal by identity; an enum's own hash calls back into Python, some hundred times a peak.
    __hash__ = object.__hash__


class Sizes(NamedTuple):
    """Bytes of each component at one instant, in the order of Component."""

    base_weights: float = 0.0
    trainable_weights: float = 0.0
    gradients: float = 0.0
    optimizer_states: float = 0.0
    activations: float = 0.0
    transient_peak: float = 0.0
    quantization: float = 0.0
    runtime: float = 0.0
    fragmentation: float = 0.0

    @property
    def counted(self) -> float:
        """Bytes of the parts in COUNTED."""
        return self.base_weights + self.trainable_weights + self.gradients + self.optimizer_states


class Width(NamedTuple):
    """What a component adds to the ends of a peak, as shares of its size, and what that rests on.

    Of counted parts it stands for what programs hold beside them: it widens the whole, not the part.
    """

    low: float
    high: float
    sources: tuple[Source, ...]


COUNTED = frozenset(
    {Component.BASE_WEIGHTS, Component.TRAINABLE_WEIGHTS, Component.GRADIENTS, Component.OPTIMIZER_STATES}
)
"""Parts whose size follows from counts and number formats."""
_CPU_SPREADS = {Component.RUNTIME: cpu.RUNTIME_SPREAD, Component.FRAGMENTATION: cpu.HOLES_SPREAD}
_COUNTED_FROM = (c.MEMORY_FORMULAS,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Peaks in bytes. The components' expected values add up to `device.expected`."""

    components: tuple[tuple[Component, Interval], ...]
    """Those that there are, in the order of Component."""
    allocated: Interval
    """What tensors take."""
    reserved: Interval
    """What the framework's allocator holds."""
    device: Interval
    """What the device has given to the process, the CUDA context included."""
    host: Interval


def estimate(run: Run, spread: float = 1.0, *, states: ModelStates | None = None) -> Memory:
    """Peaks in bytes of one device of a run, and of the host.

    The ends are `spread` times as far from the expected values as near measured runs, but never uselessly far.
    `states` are the run's model states, where the caller has them.
    """
    states = states or model_states(run)
    outside = cpu.runtime(run) if run.on_cpu else run.device.context_bytes + states.collectives
    step = [_sizes(run, states, moment, outside) for moment in _moments(run, states)]
    instants = [*step, *_setup(run, states, outside)]
    inside = [sizes._replace(runtime=sizes.runtime - outside) for sizes in instants]
    live = [sizes._replace(fragmentation=0.0) for sizes in inside]
    widths = _widths(run, spread)
    allocated, reserved, device = (_peak(run, each, widths) for each in (live, inside, instants))
    fullest = max(step, key=sum)
    # The parts of a set-up that needs more than any step are shown as those of the step, and what it needs beyond.
    shown = fullest._replace(transient_peak=fullest.transient_peak + max(map(sum, instants)) - sum(fullest))
    parts = zip(Component, shown, widths, strict=True)
    # On a CPU a device is a process, and the processes share the host's memory.
    host = device.scaled(run.devices) if run.on_cpu else _host(run, states)
    return Memory(
        components=tuple((kind, _part(run, kind, size, width)) for kind, size, width in parts if size > 0),
        allocated=allocated,
        reserved=reserved,
        device=device,
        host=host,
    )


def _moments(run: Run, states: ModelStates) -> tuple[Moment, ...]:
    if run.on_cpu:
        return cpu.moments(run, states)
    return step_peak.moments(run, states, layer_activations(run))


def _sizes(run: Run, states: ModelStates, moment: Moment, outside: float) -> Sizes:
    """Expected bytes of each component at a moment of the step.

    `outside` of the allocator lie the context of a GPU, and of a process everything that holds no tensor.
    """
    return Sizes(
        base_weights=states.base_weights,
        trainable_weights=states.trainable_weights,
        gradients=moment.gradients,
        optimizer_states=states.optimizer_states,
        activations=moment.activations,
        transient_peak=moment.transient,
        quantization=states.quantization,
        runtime=outside if run.on_cpu else outside + c.CUDA_WORKSPACE,
        fragmentation=cpu.holes(run, states.gradients) if run.on_cpu else _holes(run, moment),
    )


def _setup(run: Run, states: ModelStates, outside: float) -> tuple[Sizes, ...]:
    """Bytes while a model is cut into shards, before the first step; empty where none are cut."""
    if run.on_cpu and run.sharded:
        # The worker loads all of it, and lets each layer go as its shards are there.
        whole = run.master_bytes if run.method.trains_base else run.weight_bytes
        return (Sizes(transient_peak=float(whole * (run.parameters.total + run.shape.vision)), runtime=outside),)
    if not states.unsharded.setup:
        return ()
    return (Sizes(transient_peak=states.unsharded.setup, runtime=outside + c.CUDA_WORKSPACE),)


def _holes(run: Run, moment: Moment) -> float:
    """Bytes that a GPU's allocator holds and nobody uses."""
    stored, passing = c.FRAGMENTATION, c.FRAGMENTATION
    if run.checkpointing:
        stored, passing = c.FUSED_FRAGMENTATION if run.loss == "fused" else (c.STORED_FRAGMENTATION, passing)
    holes = stored * moment.activations + passing * moment.transient + c.FRAGMENTATION * moment.gradients
    return holes + moment.cached


def _part(run: Run, kind: Component, size: float, width: Width) -> Interval:
    """A component as uncertain as near measured runs: what is counted is exact, kernels and allocators are not."""
    if kind in COUNTED and run.counts_exactly:
        return exact(size, *width.sources)
    return Interval(size * width.low, size, size * width.high, sources=width.sources)


def _widths(run: Run, spread: float) -> list[Width]:
    """The width of each component, in the order of Component; `spread` as of `estimate`."""
    shared = c.DEVICES_SPREAD if run.devices > 1 else 0.0
    counted = run.method.counted_spread_on_cpu if run.on_cpu else run.method.counted_spread
    exactly = _width((counted, counted), shared, spread, _COUNTED_FROM)
    if run.on_cpu:
        spreads, sources = cpu.tensors_spread(run), (c.CPU_CONSTANTS,)
    else:
        spreads, sources = c.GPU_SPREAD, (c.MEMORY_FIT,)
    other = _width(spreads, shared, spread, sources)
    own = {kind: _width(ends, shared, spread, sources) for kind, ends in _CPU_SPREADS.items()} if run.on_cpu else {}
    return [exactly if kind in COUNTED else own.get(kind, other) for kind in Component]


def _width(ends: tuple[float, float], shared: float, spread: float, sources: tuple[Source, ...]) -> Width:
    below, above = ends
    return Width(max(0.0, 1 - spread * (below + shared)), 1 + spread * (above + shared), sources)


def _peak(run: Run, instants: Sequence[Sizes], widths: Sequence[Width]) -> Interval:
    """The largest of what is there at several instants, end by end, but never uselessly wide.

    The truth is the maximum over them: its ends are the maxima of theirs.
    """
    expected = max(map(sum, instants))
    lows, highs = [width.low for width in widths], [width.high for width in widths]
    low = max(sum(map(operator.mul, sizes, lows)) for sizes in instants)
    high = max(sum(map(operator.mul, sizes, highs)) for sizes in instants)
    low, high = max(low, expected * (2 - c.WIDEST)), min(high, expected * c.WIDEST)
    if run.counts_exactly:
        low = max(low, *(sizes.counted for sizes in instants))
    # Most components share a few tuples of sources, whose equality costs less than hashes of their members.
    named: list[tuple[Source, ...]] = []
    for sizes, width in zip(zip(*instants, strict=True), widths, strict=True):
        if any(sizes) and width.sources not in named:
            named.append(width.sources)
    return Interval(low, expected, high, sources=functools.reduce(together, named, ()))


def _host(run: Run, states: ModelStates) -> Interval:
    """Bytes of host memory beside a GPU: libraries, a shard of weights, and what is offloaded or paged."""
    # Before it cuts a model into shards the worker loads all of it into the host's memory, in each of its processes.
    loads_whole = run.sharded and run.program.name == FINETREE.name
    shard = states.whole_weights if loads_whole else min(5e9, states.whole_weights)
    inputs = run.compute_bytes * run.shape.hidden * run.shape.layers * run.peak_tokens if run.offloaded else 0.0
    expected = (c.HOST_RUNTIME + shard + inputs + states.paged_states) * run.devices
    return around(expected, below=0.4, above=0.6, sources=_COUNTED_FROM)
