# SPDX-License-Identifier: Apache-2.0
"""The control plane refuses exactly what the worker cannot run: the two rooms never import each other, tests may."""

import pytest
from finetree_api.types.v1 import hardware_pb2, run_spec_pb2, training_pb2
from finetree_runtime.errors import InvalidArgument
from finetree_runtime.runspec.resolve import resolve_spec
from finetree_trainer.jobs import capabilities
from finetree_worker import choices, plan_from_task

WORKER = {
    "precision": choices.PRECISIONS,
    "optimizer": choices.OPTIMIZERS,
    "attention": choices.ATTENTION,
    "gradient_checkpointing": choices.CHECKPOINTING,
    "loss_kernel": choices.LOSS_KERNELS,
    "qlora.quantization": choices.QUANTIZATIONS,
    "hardware.sharding": (hardware_pb2.SHARDING_REPLICATED,),
}


@pytest.mark.parametrize("name", sorted(capabilities.SETTINGS))
def test_a_setting_has_the_values_that_the_worker_takes(name):
    assert set(capabilities.SETTINGS[name]) == set(WORKER[name]) - {0}


def test_a_metric_of_the_contract_is_one_that_the_worker_measures():
    assert set(choices.METRICS) == set(training_pb2.Metric.values()) - {0}


def test_the_methods_are_those_of_the_worker():
    assert set(capabilities.METHODS) == set(plan_from_task.ARTIFACT_FOLDERS)


@pytest.mark.parametrize("method", capabilities.METHODS)
def test_the_suite_s_defaults_can_be_run(method):
    spec = run_spec_pb2.RunSpec()
    getattr(spec, method).SetInParent()
    spec.hardware.cpu.cores = 2
    resolved = resolve_spec(spec).spec
    capabilities.require_method(resolved)
    capabilities.require_settings(resolved)


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        (run_spec_pb2.RunSpec(optimizer_in_backward=True), "job.spec.optimizer_in_backward"),
        (
            run_spec_pb2.RunSpec(hardware=hardware_pb2.Hardware(sharding=hardware_pb2.SHARDING_FULL)),
            "job.spec.hardware.sharding",
        ),
        (run_spec_pb2.RunSpec(hardware=hardware_pb2.Hardware(nodes=2)), "job.spec.hardware.nodes"),
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
