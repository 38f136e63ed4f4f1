# SPDX-License-Identifier: Apache-2.0
"""The control plane refuses exactly what the worker cannot run: the two rooms never import each other, tests may."""

import pytest
from finetree.capabilities import ENUM_SETTINGS, unsupported
from finetree_api.trainer.v1 import job_pb2
from finetree_api.types.v1 import hardware_pb2, method_pb2, run_spec_pb2, training_pb2
from finetree_runtime.errors import InvalidArgument
from finetree_runtime.runspec.resolve import resolve_spec
from finetree_trainer.jobs import capabilities
from finetree_trainer.jobs.capabilities import CAPABILITIES
from finetree_worker import spec_values
from finetree_worker.errors import PlanError
from finetree_worker.methods import method_of, qlora
from finetree_worker.plan import Optimization
from finetree_worker.plan_from_task import require_sharding

WORKER = {
    "qlora.quantization": qlora.QUANTIZATIONS,
    "precision": spec_values.PRECISIONS,
    "optimizer": spec_values.OPTIMIZERS,
    "attention": spec_values.ATTENTION,
    "gradient_checkpointing": spec_values.CHECKPOINTING,
    "loss_kernel": spec_values.LOSS_KERNELS,
    "hardware.sharding": spec_values.SHARDINGS,
}
FIXED = {
    "program.program": training_pb2.TRAINING_PROGRAM_FINETREE,
    "program.sharding_library": training_pb2.SHARDING_LIBRARY_FSDP2,
    "program.allocator_cache": training_pb2.ALLOCATOR_CACHE_EXPANDABLE,
    "program.experts": training_pb2.EXPERT_PRODUCTS_GROUPED,
    "program.layer_kernels": training_pb2.LAYER_KERNELS_PLAIN,
}
"""Settings of which the worker has one value, and never asks."""


@pytest.mark.parametrize("path", sorted(ENUM_SETTINGS))
def test_a_setting_has_the_values_that_the_worker_takes(path):
    values = set(getattr(CAPABILITIES, ENUM_SETTINGS[path]))
    assert values == (set(WORKER[path]) - {0} if path in WORKER else {FIXED[path]})


def test_a_metric_of_the_contract_is_one_that_the_worker_measures():
    assert set(spec_values.METRICS) == set(training_pb2.Metric.values()) - {0}


def _worker_trains(method: str) -> bool:
    spec = run_spec_pb2.RunSpec()
    getattr(spec, method).SetInParent()
    try:
        method_of(spec)
    except PlanError as error:
        return error.reason != "METHOD_NOT_SUPPORTED"
    return True


def test_the_methods_are_those_of_the_worker():
    named = {field.name for field in run_spec_pb2.RunSpec.DESCRIPTOR.oneofs_by_name["method"].fields}
    assert {method for method in named if _worker_trains(method)} == set(capabilities.methods())


@pytest.mark.parametrize("method", capabilities.methods())
def test_the_suite_s_defaults_can_be_run(method):
    spec = run_spec_pb2.RunSpec()
    getattr(spec, method).SetInParent()
    spec.hardware.cpu.cores = 2
    resolved = resolve_spec(spec).spec
    capabilities.require_method(resolved)
    capabilities.require_settings(resolved)


def test_a_method_that_the_server_lacks_is_refused_with_those_that_it_has(monkeypatch):
    fewer = type(CAPABILITIES)(methods=[method_pb2.METHOD_FULL, method_pb2.METHOD_LORA])
    monkeypatch.setattr(capabilities, "CAPABILITIES", fewer)
    with pytest.raises(InvalidArgument) as refused:
        capabilities.require_method(run_spec_pb2.RunSpec(qlora=method_pb2.Qlora()))
    assert (refused.value.reason, refused.value.metadata["supported"]) == ("METHOD_NOT_SUPPORTED", "full,lora")


def test_every_unsupported_setting_is_a_path_of_a_spec():
    for path in (*CAPABILITIES.unsupported_settings, *ENUM_SETTINGS):
        message = run_spec_pb2.RunSpec.DESCRIPTOR
        for name in path.split("."):
            field = message.fields_by_name[name]
            message = field.message_type


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        (run_spec_pb2.RunSpec(optimizer_in_backward=True), "job.train.spec.optimizer_in_backward"),
        (
            run_spec_pb2.RunSpec(hardware=hardware_pb2.Hardware(sharding=hardware_pb2.SHARDING_GRADIENTS)),
            "job.train.spec.hardware.sharding",
        ),
        (run_spec_pb2.RunSpec(hardware=hardware_pb2.Hardware(nodes=2)), "job.train.spec.hardware.nodes"),
        (run_spec_pb2.RunSpec(hardware=hardware_pb2.Hardware(count=65)), "job.train.spec.hardware.count"),
        (
            run_spec_pb2.RunSpec(program=training_pb2.ProgramSettings(program=training_pb2.TRAINING_PROGRAM_LITGPT)),
            "job.train.spec.program.program",
        ),
        (
            run_spec_pb2.RunSpec(program=training_pb2.ProgramSettings(compile=True)),
            "job.train.spec.program.compile",
        ),
        (
            run_spec_pb2.RunSpec(
                program=training_pb2.ProgramSettings(allocator_cache=training_pb2.ALLOCATOR_CACHE_EMPTIED)
            ),
            "job.train.spec.program.allocator_cache",
        ),
    ],
)
def test_what_can_only_be_priced_is_refused_by_its_name(asked, path):
    spec = run_spec_pb2.RunSpec()
    spec.lora.SetInParent()
    spec.MergeFrom(asked)
    with pytest.raises(InvalidArgument) as refused:
        capabilities.require_settings(resolve_spec(spec).spec)

    assert [(violation.field_path, violation.reason) for violation in refused.value.violations] == [
        (path, "SETTING_NOT_SUPPORTED")
    ]


def test_a_task_that_this_server_does_not_run_is_refused_with_those_that_it_does(monkeypatch):
    fewer = type(CAPABILITIES)(tasks=[job_pb2.TASK_KIND_TRAIN])
    monkeypatch.setattr(capabilities, "CAPABILITIES", fewer)
    with pytest.raises(InvalidArgument, match=r"job\.export.*TASK_KIND_TRAIN") as raised:
        capabilities.require_task("export")
    assert raised.value.reason == "TASK_NOT_SUPPORTED"
    capabilities.require_task("train")


QUANTIZED = [*(("qlora", quantization) for quantization in CAPABILITIES.quantizations)]
METHODS = [(method, 0) for method in capabilities.methods() if method != "qlora"] + QUANTIZED


@pytest.mark.parametrize(("method", "quantization"), METHODS)
def test_what_cannot_be_divided_over_devices_is_what_the_worker_says(method, quantization):
    for number, optimizer in spec_values.OPTIMIZERS.items():
        for value, sharding in spec_values.SHARDINGS.items():
            spec = run_spec_pb2.RunSpec(optimizer=number)
            getattr(spec, method).SetInParent()
            if quantization:
                spec.qlora.quantization = quantization
            spec.hardware.CopyFrom(hardware_pb2.Hardware(accelerator="h100", count=2, sharding=value))
            said = [violation.field for violation in unsupported(resolve_spec(spec).spec)]
            refused = _worker_refuses(spec, sharding, optimizer)
            assert said[:1] == refused, (number, value)


def _worker_refuses(spec, sharding, optimizer) -> list[str]:
    wanted = Optimization(learning_rate=1e-4, batch_size=2, micro_batch_size=1, optimizer=optimizer)
    try:
        require_sharding(method_of(spec), sharding, wanted)
    except PlanError as error:
        return [error.field]
    return []
