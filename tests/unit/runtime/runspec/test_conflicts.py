# SPDX-License-Identifier: Apache-2.0
"""Which settings exclude each other: each refusal, and no default among them."""

import pytest
from finetree_api.types.v1 import hardware_pb2, method_pb2, run_spec_pb2, training_pb2
from finetree_runtime.runspec.conflicts import combination_problem, sequence_problem
from finetree_runtime.runspec.resolve import resolve_spec


def lora_spec(**training: int) -> run_spec_pb2.RunSpec:
    return run_spec_pb2.RunSpec(lora=method_pb2.Lora(), training=training_pb2.Training(**training))


@pytest.mark.parametrize("method", ["full", "lora", "qlora", "prefix", "adapter"])
def test_defaults_of_every_method_can_be_combined(method: str) -> None:
    spec = run_spec_pb2.RunSpec()
    getattr(spec, method).SetInParent()
    assert combination_problem(resolve_spec(spec).spec) is None


def test_prefix_refuses_checkpointing() -> None:
    spec = run_spec_pb2.RunSpec(
        prefix=method_pb2.PrefixTuning(), gradient_checkpointing=training_pb2.GRADIENT_CHECKPOINTING_FULL
    )
    problem = combination_problem(resolve_spec(spec).spec)
    assert problem is not None
    assert (problem.reason, problem.field_path) == ("PREFIX_WITH_CHECKPOINTING", "gradient_checkpointing")


def test_adapters_of_experts_go_without_dropout_and_dora() -> None:
    spec = resolve_spec(run_spec_pb2.RunSpec(lora=method_pb2.Lora(include_experts=True))).spec
    assert spec.lora.dropout == 0
    assert combination_problem(spec) is None
    for field, value, reason in (
        ("dropout", 0.1, "EXPERTS_WITH_DROPOUT"),
        ("weight_decomposed", True, "EXPERTS_WITH_DORA"),
    ):
        changed = run_spec_pb2.RunSpec(lora=method_pb2.Lora(include_experts=True, **{field: value}))
        problem = combination_problem(resolve_spec(changed).spec)
        assert problem is not None
        assert (problem.reason, problem.field_path) == (reason, f"lora.{field}")


def test_a_sequence_longer_than_the_model_is_a_problem_and_never_a_default() -> None:
    spec = resolve_spec(lora_spec(sequence_length=1025)).spec
    problem = sequence_problem(spec, 1024)
    assert problem is not None
    assert (problem.reason, problem.field_path) == ("SEQUENCE_TOO_LONG", "training.sequence_length")
    assert "1024" in problem.message
    assert sequence_problem(spec, 1025) is None
    assert sequence_problem(spec, 0) is None
    default = resolve_spec(lora_spec(), positions=1024)
    assert default.spec.training.sequence_length == 1024
    assert sequence_problem(default.spec, 1024) is None
    reason = next(s.reason for s in default.sources if s.field_path == "training.sequence_length")
    assert reason == "the longest sequence of the model"


def test_micro_batch_larger_than_batch_is_a_problem() -> None:
    spec = lora_spec(effective_batch_size=2, micro_batch_size=3)
    problem = combination_problem(resolve_spec(spec).spec)
    assert problem is not None
    assert problem.reason == "MICRO_BATCH_TOO_LARGE"


@pytest.mark.parametrize(
    ("count", "nodes", "uneven"),
    [(0, 0, False), (8, 2, False), (1, 1, False), (2, 3, True), (0, 2, True), (6, 4, True)],
)
def test_devices_are_spread_evenly_over_machines(count: int, nodes: int, *, uneven: bool) -> None:
    spec = run_spec_pb2.RunSpec(
        lora=method_pb2.Lora(), hardware=hardware_pb2.Hardware(accelerator="h100", count=count, nodes=nodes)
    )
    problem = combination_problem(resolve_spec(spec).spec)
    assert (problem is not None) is uneven
    if problem is not None:
        assert (problem.reason, problem.field_path) == ("NODES_UNEVEN", "hardware.nodes")


@pytest.mark.parametrize(("cores", "count", "few"), [(0, 8, False), (4, 4, False), (4, 5, True), (1, 2, True)])
def test_each_process_on_a_cpu_needs_a_thread(cores: int, count: int, *, few: bool) -> None:
    cpu = hardware_pb2.CpuDevice(cores=cores) if cores else hardware_pb2.CpuDevice()
    spec = run_spec_pb2.RunSpec(lora=method_pb2.Lora(), hardware=hardware_pb2.Hardware(cpu=cpu, count=count))
    problem = combination_problem(resolve_spec(spec).spec)
    assert (problem is not None) is few
    if problem is not None:
        assert (problem.reason, problem.field_path) == ("THREADS_TOO_FEW", "hardware.count")
        assert problem.message.endswith(f"lower it to {cores}")
