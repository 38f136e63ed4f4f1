# SPDX-License-Identifier: Apache-2.0
"""Peak memory by component: of one device as allocated, reserved and device peaks, and of the host.

A step's peak is what stays for the whole step (weights, optimizer states) plus what is alive at its fullest moment:
activations and logits at the loss, activations and gradients of a layer, or all gradients at the end. They never
coincide, so the largest counts and not their sum.
"""

from dataclasses import dataclass
from enum import Enum

from finetree_estimator import constants as c
from finetree_estimator.intervals import Interval, Source, around, total
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
    sizes, outside = _sizes(run, states)
    near = [(kind, _component(run, kind, size)) for kind, size in sizes.items() if size > 0]
    whole = total(interval for _, interval in near)
    device = _share(whole, 1.0, spread)
    return Memory(
        components=tuple((kind, _widened(interval, spread)) for kind, interval in near),
        allocated=_share(whole, 1 - (outside + sizes[Component.FRAGMENTATION]) / whole.expected, spread),
        reserved=_share(whole, 1 - outside / whole.expected, spread),
        device=device,
        host=device if run.on_cpu else _host(run, states),
    )


def _sizes(run: Run, states: ModelStates) -> tuple[dict[Component, float], float]:
    """Expected bytes of each component, and of what lies outside the allocator.

    That is the context of a GPU, and of a process everything that holds no tensor.
    """
    if run.on_cpu:
        moment, runtime = cpu.fullest_moment(run, states.gradients), cpu.runtime(run)
        fragmentation, outside = cpu.holes(run, states.gradients), runtime
    else:
        moment = step_peak.fullest_moment(run, states, layer_activations(run))
        outside = run.device.context_bytes + states.collectives
        runtime, fragmentation = run.device.context_bytes + c.CUDA_WORKSPACE + states.collectives, _holes(run, moment)
    more = _more_for_setup(states, moment, runtime=runtime, fragmentation=fragmentation)
    sizes = {
        Component.BASE_WEIGHTS: states.base_weights,
        Component.TRAINABLE_WEIGHTS: states.trainable_weights,
        Component.GRADIENTS: moment.gradients,
        Component.OPTIMIZER_STATES: states.optimizer_states,
        Component.ACTIVATIONS: moment.activations,
        Component.TRANSIENT_PEAK: moment.transient + more,
        Component.QUANTIZATION: states.quantization,
        Component.RUNTIME: runtime,
        Component.FRAGMENTATION: fragmentation,
    }
    return sizes, outside


def _more_for_setup(states: ModelStates, moment: Moment, *, runtime: float, fragmentation: float) -> float:
    """Bytes that the setting up of a sharded model needs beyond a step."""
    if not states.unsharded.setup:
        return 0.0
    step = states.kept_for_the_step + states.quantization + moment.total + runtime + fragmentation
    return max(0.0, states.unsharded.setup + runtime - step)


def _holes(run: Run, moment: Moment) -> float:
    """Bytes that a GPU's allocator holds and nobody uses."""
    stored, passing = c.FRAGMENTATION, c.FRAGMENTATION
    if run.checkpointing:
        stored, passing = c.FUSED_FRAGMENTATION if run.loss == "fused" else (c.STORED_FRAGMENTATION, passing)
    holes = stored * moment.activations + passing * moment.transient + c.FRAGMENTATION * moment.gradients
    return holes + moment.cached


def _component(run: Run, kind: Component, size: float) -> Interval:
    """A component as uncertain as near measured runs: counted parts are exact, kernels and allocators are not."""
    (below, above), sources = _half_widths(run, kind)
    shared = c.DEVICES_SPREAD if run.devices > 1 else 0.0
    return Interval(size * (1 - (below + shared)), size, size * (1 + (above + shared)), sources=sources)


def _half_widths(run: Run, kind: Component) -> tuple[tuple[float, float], tuple[Source, ...]]:
    """Half-widths (below, above) of a component of a run on one device, and what they rest on."""
    if kind in COUNTED:
        counted = run.method.counted_spread_on_cpu if run.on_cpu else run.method.counted_spread
        return (counted, counted), _COUNTED_FROM
    if run.on_cpu:
        return _CPU_SPREADS.get(kind) or cpu.tensors_spread(run), (c.CPU_CONSTANTS,)
    return c.GPU_SPREAD, (c.MEMORY_FIT,)


def _widened(interval: Interval, spread: float) -> Interval:
    """An interval whose ends are `spread` times as far from its expected value."""
    low, expected, high = interval.low, interval.expected, interval.high
    low, high = max(0.0, expected - spread * (expected - low)), expected + spread * (high - expected)
    return Interval(low, expected, high, sources=interval.sources)


def _share(peak: Interval, share: float, spread: float) -> Interval:
    """A share of a peak, its ends `spread` times as far from the expected value, but never uselessly far."""
    low, expected, high = peak.low * share, peak.expected * share, peak.high * share
    low = max(expected - spread * (expected - low), expected * (2 - c.WIDEST))
    high = min(expected + spread * (high - expected), expected * c.WIDEST)
    return Interval(low, expected, high, sources=peak.sources)


def _host(run: Run, states: ModelStates) -> Interval:
    """Bytes of host memory beside a GPU: libraries, a shard of weights, and what is offloaded or paged."""
    shard = min(5e9, states.whole_weights)
    inputs = run.compute_bytes * run.shape.hidden * run.shape.layers * run.peak_tokens if run.offloaded else 0.0
    expected = (c.HOST_RUNTIME + shard + inputs + states.paged_states) * run.devices
    return around(expected, below=0.4, above=0.6, sources=_COUNTED_FROM)
