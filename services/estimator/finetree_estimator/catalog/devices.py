# SPDX-License-Identifier: Apache-2.0
"""Devices of a run: an accelerator of the catalog, a CPU, or an accelerator of which only the memory is known."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from finetree_estimator import constants as c
from finetree_estimator.catalog.accelerators import AcceleratorEntry, supported
from finetree_estimator.catalog.names import GIB
from finetree_estimator.intervals import Kind, Source
from finetree_estimator.remarks import Remark

USABLE_SHARE = 0.98
"""Share of the marketed GiB that is usable (24 GB cards show 23.6 GiB, 80 GB A100s 79.2; reference B4)."""
FP32_SHARE = 0.6
"""Share of an accelerator's float32 peak that training in float32 reaches: 0.85 (as in 16 bits) of what matrix products
alone reach, 0.66 to 0.79 on an RTX 4090, RTX 5090, RTX PRO 6000 and H200 NVL (github:xzwgit/gpu-flops-bench README)."""
FP32_SHARE_64_LANES = 0.74
"""Share of the float32 peak on multiprocessors with 64 float32 lanes, none shared with integers: matrix products alone
reach 14 of 16 TFLOP/s on a V100 (github:qhduan/transformers-benchmarks) and 11.4 of 13.4 on an RTX 2080 Ti
(github:bewantbe/busy-gemm-benchmark)."""
LANES_64 = frozenset({("Pascal", "hbm"), ("Volta", "hbm"), ("Ampere", "hbm")})
"""Architecture and segment of GPUs with 64 lanes, besides all of Turing (CUDA C++ Programming Guide, throughput of
arithmetic instructions)."""

_ACCELERATOR = "spec.hardware.accelerator"


@dataclass(frozen=True, slots=True)
class Device:
    """A device; rates in FLOP/s, sizes in bytes, bandwidth in bytes per second."""

    name: str
    is_cpu: bool
    usable_bytes: int
    """0 where unknown."""
    training_flops: float
    """Rate of the matrix products of a long training step, with recomputation counted."""
    rate_below: float
    """Share by which the rate may be lower (90 % interval)."""
    rate_above: float
    """Share by which the rate may be higher (90 % interval)."""
    bandwidth: float
    """Memory bandwidth that kernels reach."""
    watts: float
    cores: int = 0
    """Cores of a CPU; 0 for an accelerator."""
    link_bandwidth: float = 0.0
    """Bandwidth to the other devices of a machine, in one direction; 0 where unknown, and for a CPU."""
    network_gbits: float = c.NETWORK_GBITS
    """Rate of the network of a usual machine with such devices, in Gbit/s and one direction."""
    float32_flops: float = 0.0
    """Rate of float32 matrix products where it differs from the 16-bit rate; else 0."""
    backward_flops: float = 0.0
    """Rate of the products for inputs' gradients where it was measured by itself; else 0: that of all others."""
    cache_bytes: float = 0.0
    """Size of the L2 cache; 0 where unknown, and for a CPU."""
    grouped_products: bool = True
    """Whether torch has a kernel for grouped products on it."""
    context_bytes: float = c.CUDA_CONTEXT
    """Memory of a process on a GPU outside the allocator."""
    sources: tuple[Source, ...] = ()
    remarks: tuple[Remark, ...] = ()


def known(entry: AcceleratorEntry, *, fp32: bool) -> Device:
    """Build the device of a supported accelerator of the catalog."""
    below, above = _rate_spread(entry)
    rate = entry.training_flops
    if fp32 and entry.fp32_flops:
        rate, (below, above) = min(rate, _fp32_flops(entry)), c.CLASS_RATE
    kind = Kind.PUBLISHED if entry.measured or entry.products_measured else Kind.COMPUTED
    return Device(
        entry.display_name,
        is_cpu=False,
        usable_bytes=entry.usable_bytes,
        training_flops=rate,
        rate_below=below,
        rate_above=above,
        bandwidth=c.BANDWIDTH_SHARE * entry.bandwidth,
        watts=entry.watts,
        link_bandwidth=entry.link_bandwidth,
        network_gbits=entry.network_gbits or c.NETWORK_GBITS,
        float32_flops=_fp32_flops(entry),
        cache_bytes=entry.cache_bytes,
        grouped_products=entry.grouped_products,
        context_bytes=c.CUDA_CONTEXTS.get(entry.segment, c.CUDA_CONTEXT),
        sources=(Source(kind, "accelerators", entry.name, date=entry.date),),
        remarks=tuple(_remarks(entry, fp32=fp32)),
    )


def _fp32_flops(entry: AcceleratorEntry) -> float:
    """Rate of float32 matrix products in training."""
    lanes_64 = entry.architecture == "Turing" or (entry.architecture, entry.segment) in LANES_64
    return (FP32_SHARE_64_LANES if lanes_64 else FP32_SHARE) * entry.fp32_flops


def _rate_spread(entry: AcceleratorEntry) -> tuple[float, float]:
    """Half-widths (below, above) of the interval of an accelerator's rate."""
    if entry.measured:
        return c.KNOWN_RATE
    return c.PRODUCTS_RATE if entry.products_measured else c.CLASS_RATE


def _remarks(entry: AcceleratorEntry, *, fp32: bool) -> Iterator[Remark]:
    if not fp32 and not entry.dense_flops:
        text = f"{entry.display_name} has no tensor cores: every precision runs at its float32 rate"
        yield Remark("NO_TENSOR_CORES", text, _ACCELERATOR)
    elif not fp32 and not entry.native_bf16:
        text = f"{entry.display_name} has no native bfloat16: float16 or float32 is used, which is slower"
        yield Remark("NO_NATIVE_BF16", text, _ACCELERATOR)
    if entry.segment == "laptop":
        text = f"{entry.display_name}: speed depends on the laptop's power limit, by up to a factor of two"
        yield Remark("LAPTOP_POWER_UNKNOWN", text, _ACCELERATOR)
    if entry.products_measured:
        text = f"the speed of {entry.display_name} follows from measured matrix products, not from training runs"
        yield Remark("RATE_FROM_PRODUCTS", text, _ACCELERATOR)
    elif not entry.measured:
        text = f"no rate was measured on {entry.display_name}: its speed is taken from similar accelerators"
        yield Remark("RATE_FROM_CLASS", text, _ACCELERATOR)


def by_memory_class(marketed_gb: float) -> Device:
    """Build a device from its marketed memory alone, with the speed of the median accelerator of the nearest size."""
    twin = _nearest_class(marketed_gb)
    below, above = c.UNKNOWN_RATE
    return Device(
        f"an accelerator of {marketed_gb:g} GB",
        is_cpu=False,
        usable_bytes=round(marketed_gb * USABLE_SHARE * GIB),
        training_flops=twin.training_flops,
        rate_below=below,
        rate_above=above,
        bandwidth=c.BANDWIDTH_SHARE * twin.bandwidth,
        watts=twin.watts,
        link_bandwidth=twin.link_bandwidth,
        network_gbits=twin.network_gbits or c.NETWORK_GBITS,
        cache_bytes=twin.cache_bytes,
        grouped_products=twin.grouped_products,
        sources=(Source(Kind.COMPUTED, "accelerators", f"class of {twin.name}", date=twin.date),),
        remarks=(
            Remark(
                "ACCELERATOR_UNKNOWN",
                f"the accelerator is not named: speed and power are assumed to be those of {twin.display_name}",
                "spec.hardware.unknown_accelerator",
            ),
        ),
    )


def processor(
    *,
    name: str = "",
    cores: int = 0,
    memory_bytes: int = 0,
    measured_flops: float = 0.0,
    measured_backward_flops: float = 0.0,
) -> Device:
    """Build the device of a CPU from its measured matrix rates in FLOP/s, or from its number of cores.

    `measured_backward_flops` is the rate of the products for inputs' gradients, `measured_flops` of all others. Empty
    and 0 mean unknown.
    """
    known_cores, cores = cores, cores or 4
    remarks: list[Remark] = []
    if measured_flops > 0:
        rate, (below, above) = measured_flops, c.CPU_RATE
        source = Source(Kind.MEASURED, "matrix-rate", "hardware.cpu")
    else:
        rate, (below, above) = cores * c.CPU_CORE_FP32_FLOPS, c.UNKNOWN_RATE
        source = Source(Kind.COMPUTED, "typical-core", f"{cores} cores")
        text = "the CPU's matrix rate was not measured: its speed is assumed from the number of cores"
        remarks.append(Remark("CPU_RATE_UNKNOWN", text, "matrix_rates"))
    if not known_cores:
        text = f"the number of cores is unknown: {cores} are assumed"
        remarks.append(Remark("CPU_CORES_UNKNOWN", text, "spec.hardware.cpu.cores"))
    return Device(
        name or "CPU",
        is_cpu=True,
        usable_bytes=memory_bytes,
        training_flops=rate * c.CPU_EFFICIENCY,
        backward_flops=measured_backward_flops * c.CPU_EFFICIENCY if measured_flops > 0 else 0.0,
        rate_below=below,
        rate_above=above,
        bandwidth=c.CPU_BANDWIDTH,
        watts=c.CPU_BASE_WATTS + cores * c.CPU_CORE_WATTS,
        cores=cores,
        sources=(source,),
        remarks=tuple(remarks),
    )


def part_of(processor: Device, processes: int) -> Device:
    """What one of several equal processes has of a CPU: its part of cores, rates, memory and power.

    The worker gives each the whole number of threads that fits; what is left over computes nothing.
    """
    if processes == 1:
        return processor
    cores = max(1, processor.cores // processes)
    threads = min(1.0, cores * processes / processor.cores)
    return replace(
        processor,
        usable_bytes=processor.usable_bytes // processes,
        training_flops=processor.training_flops * threads / processes,
        bandwidth=processor.bandwidth / processes,
        watts=processor.watts / processes,
        cores=cores,
    )


def _nearest_class(marketed_gb: float) -> AcceleratorEntry:
    """Accelerator of median speed among those whose memory is nearest."""
    distance = {entry.name: abs(math.log(entry.marketed_gb / marketed_gb)) for entry in supported()}
    least = min(distance.values())
    nearest = [entry for entry in supported() if distance[entry.name] <= least + 1e-9]
    return sorted(nearest, key=lambda entry: entry.training_flops)[len(nearest) // 2]
