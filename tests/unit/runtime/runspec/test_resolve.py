# SPDX-License-Identifier: Apache-2.0
"""Resolving keeps what is given, fills in the rest, and says where each value comes from."""

import pytest
from finetree_api.types.v1 import hardware_pb2, method_pb2, model_pb2, run_spec_pb2, training_pb2
from finetree_runtime.runspec.paths import set_paths
from finetree_runtime.runspec.resolve import fill_defaults, optimizer_steps, resolve_spec

METHODS = ("full", "lora", "qlora", "prefix", "adapter")


def lora_spec(**training: float) -> run_spec_pb2.RunSpec:
    spec = run_spec_pb2.RunSpec(model=model_pb2.ModelSource(name="smollm2-135m-instruct"), lora=method_pb2.Lora())
    for name, value in training.items():
        setattr(spec.training, name, value)
    return spec


def whole_spec(method: str) -> run_spec_pb2.RunSpec:
    """A spec with several devices, and held-out rows that answers are generated for."""
    spec = run_spec_pb2.RunSpec(hardware=hardware_pb2.Hardware(accelerator="h100", count=2))
    getattr(spec, method).SetInParent()
    spec.evaluation.split_fraction = 0.1
    spec.evaluation.metrics.append(training_pb2.METRIC_EXACT_MATCH)
    return spec


def test_given_values_stay_even_when_they_are_zero_or_false() -> None:
    given = lora_spec(weight_decay=0.0, max_grad_norm=0.0, seed=0)
    given.lora.dropout = 0.0
    given.qlora.double_quantization = False
    given.qlora.lora.dropout = 0.0
    spec = resolve_spec(given).spec
    assert (spec.training.weight_decay, spec.training.max_grad_norm, spec.qlora.lora.dropout) == (0.0, 0.0, 0.0)
    assert not spec.qlora.double_quantization


def test_max_steps_is_not_joined_by_epochs() -> None:
    spec = resolve_spec(lora_spec(max_steps=7)).spec
    assert spec.training.WhichOneof("length") == "max_steps"


def test_the_given_message_is_not_changed() -> None:
    given = lora_spec()
    before = given.SerializeToString(deterministic=True)
    resolve_spec(given)
    assert given.SerializeToString(deterministic=True) == before


def test_every_set_value_has_exactly_one_source() -> None:
    resolved = resolve_spec(lora_spec(learning_rate=1e-3))
    paths = [source.field_path for source in resolved.sources]
    assert paths == set_paths(resolved.spec)
    assert fill_defaults(lora_spec(learning_rate=1e-3)).spec == resolved.spec
    assert len(paths) == len(set(paths))
    by_path = {source.field_path: source for source in resolved.sources}
    assert by_path["training.learning_rate"].rule_id == "request"
    assert by_path["lora.rank"].rule_id == "default.lora.rank"
    assert by_path["lora.rank"].provenance.locator


@pytest.mark.parametrize("method", METHODS)
def test_resolving_twice_changes_nothing(method) -> None:
    once = resolve_spec(whole_spec(method)).spec
    assert resolve_spec(once).spec == once


@pytest.mark.parametrize("method", METHODS)
def test_no_optional_switch_stays_unset(method) -> None:
    """Whether a switch was left out or turned off, the plan and its digest are the same."""
    assert list(unset_switches(resolve_spec(whole_spec(method)).spec)) == []
    assert "optimizer_in_backward" in set(unset_switches(whole_spec(method)))


def unset_switches(message, prefix=""):
    for field in message.DESCRIPTOR.fields:
        if field.type == field.TYPE_BOOL and not message.HasField(field.name):
            yield prefix + field.name
        if field.message_type is not None and not field.is_repeated and message.HasField(field.name):
            yield from unset_switches(getattr(message, field.name), f"{prefix}{field.name}.")


@pytest.mark.parametrize(
    ("epochs", "examples", "batch", "steps"),
    [(1, 10, 4, 3), (2, 10, 4, 6), (2.5, 8, 4, 5), (0.1, 8, 4, 1), (3, 1, 16, 3)],
)
def test_optimizer_steps_count_the_short_last_batch(epochs: float, examples: int, batch: int, steps: int) -> None:
    assert optimizer_steps(lora_spec(epochs=epochs, effective_batch_size=batch), examples) == steps


def test_max_steps_are_the_optimizer_steps() -> None:
    assert optimizer_steps(lora_spec(max_steps=7), 1000) == 7


def test_a_count_in_the_name_of_an_accelerator_is_the_number_of_devices() -> None:
    spec = run_spec_pb2.RunSpec(hardware=hardware_pb2.Hardware(accelerator="DGX A100"))
    found = resolve_spec(spec).spec.hardware
    assert (found.accelerator, found.count) == ("a100-80gb", 8)
    spec.hardware.count = 2
    assert resolve_spec(spec).spec.hardware.count == 2
