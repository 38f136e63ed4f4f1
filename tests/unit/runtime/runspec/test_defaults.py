# SPDX-License-Identifier: Apache-2.0
"""The values that unset fields take."""

import pytest
from finetree_api.types.v1 import hardware_pb2, method_pb2, run_spec_pb2, training_data_pb2, training_pb2
from finetree_runtime.runspec.conflicts import combination_problem
from finetree_runtime.runspec.defaults import suggested_sequence_length
from finetree_runtime.runspec.resolve import resolve_spec

GPU = hardware_pb2.Hardware(accelerator="rtx-4090")
UNNAMED = hardware_pb2.Hardware(unknown_accelerator=hardware_pb2.UnknownAccelerator(marketed_memory_gb=24))
CPU = hardware_pb2.Hardware(cpu=hardware_pb2.CpuDevice(cores=2))
FULL, OFF = training_pb2.GRADIENT_CHECKPOINTING_FULL, training_pb2.GRADIENT_CHECKPOINTING_OFF


def lora(**training: int) -> run_spec_pb2.RunSpec:
    return run_spec_pb2.RunSpec(lora=method_pb2.Lora(), training=training_pb2.Training(**training))


def test_lora_gets_the_quick_reference_defaults() -> None:
    spec = resolve_spec(lora()).spec
    assert (spec.lora.rank, spec.lora.alpha, round(spec.lora.dropout, 6)) == (8, 16.0, 0.1)
    assert spec.lora.targets == method_pb2.TARGET_PRESET_ALL_LINEAR
    assert spec.training.packing == training_pb2.PACKING_ON


def test_alpha_follows_a_given_rank() -> None:
    spec = resolve_spec(run_spec_pb2.RunSpec(lora=method_pb2.Lora(rank=32))).spec
    assert spec.lora.alpha == 64.0


@pytest.mark.parametrize(
    ("training", "rows"),
    [
        ({}, 4),
        ({"effective_batch_size": 2}, 2),
        ({"effective_batch_size": 64}, 4),
        ({"sequence_length": 128}, 16),
        ({"sequence_length": 640, "effective_batch_size": 64}, 8),
        ({"sequence_length": 8192}, 1),
        ({"sequence_length": 100_000}, 1),
    ],
)
def test_a_micro_batch_is_the_batch_within_8192_tokens(training, rows) -> None:
    assert resolve_spec(lora(**training)).spec.training.micro_batch_size == rows


def test_a_micro_batch_follows_the_length_that_the_rows_need() -> None:
    profile = training_data_pb2.DatasetProfile(examples=100)
    profile.token_lengths.add(upper_bound=500, count=100)
    training = resolve_spec(lora(), profile=profile).spec.training
    assert (training.sequence_length, training.micro_batch_size) == (512, 16)


def test_several_devices_are_copies_on_one_machine() -> None:
    one, several = (
        resolve_spec(
            run_spec_pb2.RunSpec(hardware=hardware_pb2.Hardware(accelerator="h100", count=count))
        ).spec.hardware
        for count in (1, 8)
    )
    assert not one.HasField("nodes")
    assert (several.nodes, several.sharding) == (1, hardware_pb2.SHARDING_REPLICATED)


@pytest.mark.parametrize(
    ("rates", "precision"),
    [
        (None, training_pb2.PRECISION_BF16),
        (hardware_pb2.MatrixRates(), training_pb2.PRECISION_BF16),
        (
            hardware_pb2.MatrixRates(bf16_flops_per_second=1.0e11, fp32_flops_per_second=1.0e11),
            training_pb2.PRECISION_FP32,
        ),
        (
            hardware_pb2.MatrixRates(bf16_flops_per_second=1.3e11, fp32_flops_per_second=1.0e11),
            training_pb2.PRECISION_BF16,
        ),
    ],
    ids=["unknown", "not measured", "bfloat16 emulated", "bfloat16 native"],
)
def test_precision_on_a_cpu_follows_the_measured_rates(rates, precision) -> None:
    spec = run_spec_pb2.RunSpec(lora=method_pb2.Lora(), hardware=CPU)
    assert resolve_spec(spec, matrix_rates=rates).spec.precision == precision


def test_precision_on_a_gpu_ignores_the_rates_of_the_cpu() -> None:
    rates = hardware_pb2.MatrixRates(bf16_flops_per_second=1.0e11, fp32_flops_per_second=1.0e11)
    spec = run_spec_pb2.RunSpec(lora=method_pb2.Lora(), hardware=GPU)
    assert resolve_spec(spec, matrix_rates=rates).spec.precision == training_pb2.PRECISION_BF16


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (run_spec_pb2.RunSpec(lora=method_pb2.Lora(), hardware=GPU), FULL),
        (run_spec_pb2.RunSpec(full=method_pb2.FullFineTuning(), hardware=UNNAMED), FULL),
        (run_spec_pb2.RunSpec(prefix=method_pb2.PrefixTuning(), hardware=GPU), OFF),
        (run_spec_pb2.RunSpec(lora=method_pb2.Lora(), hardware=CPU), OFF),
        (run_spec_pb2.RunSpec(lora=method_pb2.Lora()), OFF),
    ],
    ids=["gpu", "unnamed gpu", "prefix", "cpu", "unknown"],
)
def test_activations_are_recomputed_where_memory_is_short(spec, expected) -> None:
    assert resolve_spec(spec).spec.gradient_checkpointing == expected
    assert combination_problem(resolve_spec(spec).spec) is None


def test_sequence_length_keeps_99_percent_whole() -> None:
    profile = training_data_pb2.DatasetProfile(examples=1000)
    for bound, count in ((128, 985), (300, 10), (4000, 5)):
        profile.token_lengths.add(upper_bound=bound, count=count)
    assert suggested_sequence_length(profile) == 320
    assert resolve_spec(lora(), profile=profile).spec.training.sequence_length == 320


def test_sequence_length_keeps_rows_whole_that_may_be_longer_than_they_are_counted() -> None:
    profile = training_data_pb2.DatasetProfile(examples=1000, total_tokens=100_000)
    profile.token_lengths.add(upper_bound=300, count=1000)
    assert suggested_sequence_length(profile) == 320
    profile.total_tokens_range.CopyFrom(training_data_pb2.TokenCountRange(low=50_000, high=140_000))
    assert suggested_sequence_length(profile) == 448
    profile.total_tokens_range.high = 1  # not beyond the total
    assert suggested_sequence_length(profile) == 320


@pytest.mark.parametrize(("tokens", "length"), [(5 * 3000, 6016), (5 * 1000, 0), (5 * 1025, 2112), (10**15, 0)])
def test_sequence_length_is_twice_the_average_where_only_that_is_known(tokens, length) -> None:
    profile = training_data_pb2.DatasetProfile(examples=5, total_tokens=tokens)
    assert suggested_sequence_length(profile) == length


def test_sequence_length_of_unknown_data() -> None:
    assert (
        suggested_sequence_length(None) == suggested_sequence_length(training_data_pb2.DatasetProfile(examples=5)) == 0
    )
    assert resolve_spec(lora()).spec.training.sequence_length == 2048
    assert resolve_spec(lora(), positions=1024).spec.training.sequence_length == 1024
