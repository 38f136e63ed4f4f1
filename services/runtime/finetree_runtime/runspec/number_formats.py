# SPDX-License-Identifier: Apache-2.0
"""bfloat16 or float32 on a CPU: what the measured rates of its matrix products say.

A training step multiplies in two layouts. The forward pass computes Y = X W^T, the backward pass dX = dY W, whose right
side is not transposed; where W is trained, dW = dY^T X comes to it, whose rate is about that of the forward pass. On a
processor without bfloat16 products the second layout may be a hundred times slower than float32 while the first is
merely four times slower (benchmarks/results/worker/number_formats.json), so that neither stands for the other.
"""

from finetree_api.types.v1 import hardware_pb2, run_spec_pb2, training_pb2

from finetree_runtime.runspec.conflicts import Problem

CPU_BF16_ADVANTAGE = 1.2
"""Ratio of bfloat16 to float32 speed from which a CPU trains in bfloat16 (own choice: below it, the accuracy of
float32 costs next to nothing)."""
MOST_TIMES_SLOWER = 4.0
"""Ratio of float32 to bfloat16 speed above which bfloat16 is refused (own choice: up to it, half the memory of a base
may be worth the time; above it lie processors whose bfloat16 is emulated)."""
TOO_SLOW = "NUMBER_FORMAT_TOO_SLOW"
"""Reason of the refusal, and code of the estimator's remark."""

_COMPUTES_IN_BF16 = (training_pb2.PRECISION_BF16, training_pb2.PRECISION_BF16_MIXED)


def cpu_precision(
    rates: hardware_pb2.MatrixRates | None, *, method: str | None = None
) -> training_pb2.Precision.ValueType:
    """Number format for training on a CPU: bfloat16 unless float32 was measured to be about as fast.

    `method` is the method's field of a RunSpec; None where it is not known, which counts as one that trains adapters.
    """
    slower = times_slower(rates, method) or forward_times_slower(rates)
    return _unless_slower(slower)


def cpu_inference_precision(rates: hardware_pb2.MatrixRates | None) -> training_pb2.Precision.ValueType:
    """Number format for answering on a CPU, which multiplies in the layout of the forward pass alone."""
    return _unless_slower(forward_times_slower(rates))


def forward_times_slower(rates: hardware_pb2.MatrixRates | None) -> float:
    """How many times as long the products of a forward pass take in bfloat16 as in float32; 0 where unknown.

    A float32 rate without one of bfloat16 counts as infinitely many: only float32 is known to work.
    """
    if rates is None or rates.fp32_flops_per_second <= 0:
        return 0.0
    bf16 = rates.bf16_flops_per_second
    return rates.fp32_flops_per_second / bf16 if bf16 > 0 else float("inf")


def times_slower(rates: hardware_pb2.MatrixRates | None, method: str | None) -> float:
    """How many times as long a step's products take in bfloat16 as in float32; 0 unless all four rates are known."""
    if rates is None:
        return 0.0
    bf16 = (rates.bf16_flops_per_second, rates.bf16_backward_flops_per_second)
    fp32 = (rates.fp32_flops_per_second, rates.fp32_backward_flops_per_second)
    if min(*bf16, *fp32) <= 0:
        return 0.0
    return step_rate(*fp32, method=method) / step_rate(*bf16, method=method)


def step_rate(forward: float, backward: float, *, method: str | None) -> float:
    """Rate of all products of a step, FLOP/s, from those of both layouts: their harmonic mean.

    Full fine-tuning has one product in three in the backward layout, every other method one in two.
    """
    forwards = 2.0 if method == "full" else 1.0
    return (forwards + 1.0) / (forwards / forward + 1.0 / backward)


def measured_rate(rates: hardware_pb2.MatrixRates | None, spec: run_spec_pb2.RunSpec) -> float:
    """Rate of the products of a resolved run's steps on a CPU, FLOP/s; the forward pass's where that alone is known.

    0 where nothing was measured in the run's format.
    """
    if rates is None:
        return 0.0
    if spec.precision == training_pb2.PRECISION_FP32:
        forward, backward = rates.fp32_flops_per_second, rates.fp32_backward_flops_per_second
    else:
        forward, backward = rates.bf16_flops_per_second, rates.bf16_backward_flops_per_second
    if min(forward, backward) <= 0:
        return forward
    return step_rate(forward, backward, method=spec.WhichOneof("method"))


def slow_format_problem(spec: run_spec_pb2.RunSpec, rates: hardware_pb2.MatrixRates | None) -> Problem | None:
    """Find out whether a resolved spec computes on a CPU in a format that was measured to be many times slower."""
    if spec.hardware.WhichOneof("device") != "cpu" or spec.precision not in _COMPUTES_IN_BF16:
        return None
    slower = times_slower(rates, spec.WhichOneof("method"))
    if slower <= MOST_TIMES_SLOWER:
        return None
    text = (
        f"bfloat16 products of a training step take {slower:.2g} times as long as float32's on this CPU, as measured "
        "forward and backward; leave precision unset or take fp32"
    )
    return Problem(TOO_SLOW, "precision", text)


def _unless_slower(times: float) -> training_pb2.Precision.ValueType:
    if times > 1.0 / CPU_BF16_ADVANTAGE:
        return training_pb2.PRECISION_FP32
    return training_pb2.PRECISION_BF16
