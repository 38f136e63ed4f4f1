# SPDX-License-Identifier: Apache-2.0
"""Peak memory by component: of one device as allocated, reserved and device peaks, and of the host.

A step's peak is what stays for the whole step (weights, optimizer states) plus what is alive at its fullest moment:
activations and logits at the loss, activations and gradients of a layer, or all gradients at the end. They never
coincide, so the largest counts and not their sum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from finetree_estimator import constants as c
from finetree_estimator.intervals import Interval, Source, around, exact, together
from finetree_estimator.memory import cpu, step_peak
from finetree_estimator.memory.activations import layer_activations
from finetree_estimator.memory.model_states import ModelStates, model_states
from finetree_estimator.memory.step_peak import Moment
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


Sizes = Mapping[Component, float]
Widths = tuple[float, float]

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
    outside = run.device.context_bytes + states.collectives
    if run.on_cpu:
        outside = cpu.runtime(run)
    step = [_sizes(run, states, moment, outside) for moment in _moments(run, states)]
    instants = [*step, *_setup(states, outside)]
    fullest = max(step, key=lambda sizes: sum(sizes.values()))
    more = max(sum(sizes.values()) for sizes in instants) - sum(fullest.values())
    shown = {**fullest, Component.TRANSIENT_PEAK: fullest[Component.TRANSIENT_PEAK] + more}
    device = _peak(run, instants, spread)
    inside = [{**sizes, Component.RUNTIME: sizes[Component.RUNTIME] - outside} for sizes in instants]
    live = [{**sizes, Component.FRAGMENTATION: 0.0} for sizes in inside]
    return Memory(
        components=tuple((kind, _part(run, kind, size, spread)) for kind, size in shown.items() if size > 0),
        allocated=_peak(run, live, spread),
        reserved=_peak(run, inside, spread),
        device=device,
        host=device if run.on_cpu else _host(run, states),
    )


def _moments(run: Run, states: ModelStates) -> tuple[Moment, ...]:
    if run.on_cpu:
        return cpu.moments(run, states.gradients)
    return step_peak.moments(run, states, layer_activations(run))


def _sizes(run: Run, states: ModelStates, moment: Moment, outside: float) -> Sizes:
    """Expected bytes of each component at a moment of the step.

    `outside` of the allocator lie the context of a GPU, and of a process everything that holds no tensor.
    """
    return {
        Component.BASE_WEIGHTS: states.base_weights,
        Component.TRAINABLE_WEIGHTS: states.trainable_weights,
        Component.GRADIENTS: moment.gradients,
        Component.OPTIMIZER_STATES: states.optimizer_states,
        Component.ACTIVATIONS: moment.activations,
        Component.TRANSIENT_PEAK: moment.transient,
        Component.QUANTIZATION: states.quantization,
        Component.RUNTIME: outside if run.on_cpu else outside + c.CUDA_WORKSPACE,
        Component.FRAGMENTATION: cpu.holes(run, states.gradients) if run.on_cpu else _holes(run, moment),
    }


def _setup(states: ModelStates, outside: float) -> tuple[Sizes, ...]:
    """Bytes while a model is cut into shards, before the first step; empty where none are cut."""
    if not states.unsharded.setup:
        return ()
    return ({Component.TRANSIENT_PEAK: states.unsharded.setup, Component.RUNTIME: outside + c.CUDA_WORKSPACE},)


def _holes(run: Run, moment: Moment) -> float:
    """Bytes that a GPU's allocator holds and nobody uses."""
    stored, passing = c.FRAGMENTATION, c.FRAGMENTATION
    if run.checkpointing:
        stored, passing = c.FUSED_FRAGMENTATION if run.loss == "fused" else (c.STORED_FRAGMENTATION, passing)
    holes = stored * moment.activations + passing * moment.transient + c.FRAGMENTATION * moment.gradients
    return holes + moment.cached


def _part(run: Run, kind: Component, size: float, spread: float) -> Interval:
    """A component as uncertain as near measured runs: what is counted is exact, kernels and allocators are not."""
    if kind in COUNTED and run.counts_exactly:
        return exact(size, *_COUNTED_FROM)
    (below, above), sources = _half_widths(run, kind)
    return Interval(max(0.0, size * (1 - spread * below)), size, size * (1 + spread * above), sources=sources)


def _half_widths(run: Run, kind: Component) -> tuple[Widths, tuple[Source, ...]]:
    """Half-widths (below, above) of what a component adds to the ends of a peak, and what they rest on.

    Those of counted parts stand for what programs hold beside them: they widen the whole, not the part.
    """
    (below, above), sources = _half_widths_of_one_device(run, kind)
    shared = c.DEVICES_SPREAD if run.devices > 1 else 0.0
    return (below + shared, above + shared), sources


def _half_widths_of_one_device(run: Run, kind: Component) -> tuple[Widths, tuple[Source, ...]]:
    if kind in COUNTED:
        counted = run.method.counted_spread_on_cpu if run.on_cpu else run.method.counted_spread
        return (counted, counted), _COUNTED_FROM
    if run.on_cpu:
        return _CPU_SPREADS.get(kind) or cpu.tensors_spread(run), (c.CPU_CONSTANTS,)
    return c.GPU_SPREAD, (c.MEMORY_FIT,)


def _peak(run: Run, instants: Sequence[Sizes], spread: float) -> Interval:
    """The largest of what is there at several instants, end by end, but never uselessly wide.

    The truth is the maximum over them: its ends are the maxima of theirs.
    """
    low = expected = high = 0.0
    sources: tuple[Source, ...] = ()
    widths = {kind: _half_widths(run, kind) for kind in Component}
    for sizes in instants:
        lows = highs = 0.0
        for kind, size in sizes.items():
            (below, above), found = widths[kind]
            lows += max(0.0, size * (1 - spread * below))
            highs += size * (1 + spread * above)
            sources = together(sources, found if size > 0 else ())
        low, expected, high = max(low, lows), max(expected, sum(sizes.values())), max(high, highs)
    low, high = max(low, expected * (2 - c.WIDEST)), min(high, expected * c.WIDEST)
    if run.counts_exactly:
        low = max(low, *(sum(size for kind, size in sizes.items() if kind in COUNTED) for sizes in instants))
    return Interval(low, expected, high, sources=sources)


def _host(run: Run, states: ModelStates) -> Interval:
    """Bytes of host memory beside a GPU: libraries, a shard of weights, and what is offloaded or paged."""
    shard = min(5e9, states.whole_weights)
    inputs = run.compute_bytes * run.shape.hidden * run.shape.layers * run.peak_tokens if run.offloaded else 0.0
    expected = (c.HOST_RUNTIME + shard + inputs + states.paged_states) * run.devices
    return around(expected, below=0.4, above=0.6, sources=_COUNTED_FROM)
