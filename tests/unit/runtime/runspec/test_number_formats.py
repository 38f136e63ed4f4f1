# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_api.types.v1 import hardware_pb2, method_pb2, run_spec_pb2, training_pb2
from finetree_runtime.runspec.number_formats import (
    cpu_inference_precision,
    cpu_precision,
    measured_rate,
    slow_format_problem,
    step_rate,
    times_slower,
)

BF16, FP32 = training_pb2.PRECISION_BF16, training_pb2.PRECISION_FP32


def rates(*bf16: float, fp32: tuple[float, ...] = (96e9, 96e9)) -> hardware_pb2.MatrixRates:
    """Rates by format, forward and, where there is a second one, backward."""
    found = hardware_pb2.MatrixRates()
    for name, values in (("bf16", bf16), ("fp32", fp32)):
        for middle, value in zip(("", "backward_"), values, strict=False):
            setattr(found, f"{name}_{middle}flops_per_second", value)
    return found


# As measured, GFLOP/s of one thread: benchmarks/results/worker/number_formats.json.
NATIVE, EMULATED, AVX2 = rates(213e9, 212e9), rates(37.8e9, 37.8e9), rates(22e9, 0.9e9)
FORWARD_ALONE = rates(200e9, fp32=(96e9,))
FAST_FORWARD = rates(200e9, 20e9)
"""A processor whose bfloat16 is fast in one layout alone: forward figures alone would choose it."""


def spec(precision=BF16, *, method="lora", device="cpu"):
    found = run_spec_pb2.RunSpec(precision=precision)
    getattr(found, method).SetInParent()
    if device == "cpu":
        found.hardware.cpu.SetInParent()
    else:
        found.hardware.accelerator = device
    return found


@pytest.mark.parametrize(
    ("measured", "trains", "answers"),
    [
        (NATIVE, BF16, BF16),
        (EMULATED, FP32, FP32),
        (AVX2, FP32, FP32),
        (FORWARD_ALONE, BF16, BF16),
        (FAST_FORWARD, FP32, BF16),
        (None, BF16, BF16),
    ],
    ids=["native", "emulated", "avx2", "forward alone", "fast forward", "unknown"],
)
def test_the_layouts_of_the_work_choose_the_format(measured, trains, answers):
    assert cpu_precision(measured, method="lora") == trains
    assert cpu_inference_precision(measured) == answers


def test_a_step_has_one_forward_layout_more_where_weights_are_trained():
    assert step_rate(100.0, 50.0, method="lora") == pytest.approx(2 / (1 / 100 + 1 / 50))
    assert step_rate(100.0, 50.0, method="full") == pytest.approx(3 / (2 / 100 + 1 / 50))
    assert times_slower(AVX2, "lora") == pytest.approx(55.5, rel=0.01)
    assert times_slower(AVX2, "full") == pytest.approx(38.5, rel=0.01)
    assert times_slower(FORWARD_ALONE, "lora") == 0


def test_the_rate_of_a_run_is_that_of_its_format_in_both_layouts():
    assert measured_rate(AVX2, spec(FP32)) == pytest.approx(96e9)
    assert measured_rate(AVX2, spec(BF16)) == pytest.approx(2 / (1 / 22e9 + 1 / 0.9e9))
    assert measured_rate(FORWARD_ALONE, spec(BF16)) == 200e9
    assert measured_rate(None, spec(BF16)) == 0


@pytest.mark.parametrize("method", ["lora", "qlora", "full", "prefix", "adapter"])
@pytest.mark.parametrize("precision", [BF16, training_pb2.PRECISION_BF16_MIXED])
def test_a_format_that_is_many_times_slower_is_a_problem_of_every_method(method, precision):
    problem = slow_format_problem(spec(precision, method=method), AVX2)
    assert problem is not None
    assert (problem.reason, problem.field_path) == ("NUMBER_FORMAT_TOO_SLOW", "precision")
    assert "as long as float32's" in problem.message
    assert problem.message.endswith("leave precision unset or take fp32")


@pytest.mark.parametrize(
    ("asked", "measured"),
    [
        (spec(FP32), AVX2),
        (spec(), NATIVE),
        (spec(), EMULATED),
        (spec(), rates(1e9, fp32=(96e9,))),
        (spec(), None),
        (spec(device="h100"), AVX2),
    ],
    ids=["float32", "native", "merely slower", "backward unknown", "not measured", "gpu"],
)
def test_what_is_not_known_to_be_many_times_slower_is_none(asked, measured):
    assert slow_format_problem(asked, measured) is None


def test_a_quantized_base_computes_in_the_format_of_its_run():
    """`precision` is the type of the 4-bit products: what is chosen for it is chosen for them."""
    from finetree_runtime.runspec.resolve import resolve_spec

    asked = run_spec_pb2.RunSpec(qlora=method_pb2.Qlora(), hardware=spec().hardware)
    assert resolve_spec(asked, matrix_rates=AVX2).spec.precision == FP32
    assert resolve_spec(asked, matrix_rates=NATIVE).spec.precision == BF16
