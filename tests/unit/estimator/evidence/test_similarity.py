# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_estimator.evidence.similarity import MEMORY, TIME, Case, Setting, setting_terms, size_terms

BOTH = pytest.mark.parametrize("weights", [MEMORY, TIME], ids=["memory", "time"])
PLAIN = Setting(method="lora", accelerator="a100-80gb", architecture="Ampere", program="transformers")
CASE = Case(setting=PLAIN, parameters=22.0, peak_tokens=8.0, mean_tokens=7.0)
CHANGES = {
    "method": {"method": "full"},
    "bits": {"bits": 4},
    "checkpointing": {"checkpointing": "full"},
    "accelerator": {"accelerator": "h100", "architecture": "Hopper"},
    "devices": {"devices": 8},
    "sharding": {"sharding": "full"},
    "program": {"program": "finetree"},
    "mixture": {"mixture": True},
    "eager": {"eager": True},
}


@BOTH
@pytest.mark.parametrize("name", CHANGES)
def test_each_respect_adds_its_own_term_in_either_direction(weights, name):
    other = replace(PLAIN, **CHANGES[name])

    assert list(setting_terms(PLAIN, other, weights)) == [name]
    assert setting_terms(PLAIN, other, weights) == setting_terms(other, PLAIN, weights)
    assert 0 < setting_terms(PLAIN, other, weights)[name] <= 1


@BOTH
def test_two_adapters_are_nearer_to_each_other_than_to_full_training(weights):
    adapters, full = (
        setting_terms(PLAIN, replace(PLAIN, method=name), weights)["method"] for name in ("prefix", "full")
    )

    assert adapters < full


@BOTH
def test_two_quantized_bases_are_nearer_than_a_quantized_and_a_plain_one(weights):
    four = replace(PLAIN, bits=4)

    assert setting_terms(four, replace(PLAIN, bits=8), weights)["bits"] < setting_terms(four, PLAIN, weights)["bits"]


@BOTH
def test_accelerators_of_one_architecture_are_nearer_and_unknown_ones_are_not_the_same(weights):
    same = setting_terms(PLAIN, replace(PLAIN, accelerator="a10g"), weights)["accelerator"]
    other = setting_terms(PLAIN, replace(PLAIN, accelerator="h100", architecture="Hopper"), weights)["accelerator"]
    unknown = replace(PLAIN, accelerator="", architecture="")

    assert 0 < same < other < 1
    assert setting_terms(unknown, unknown, weights)["accelerator"] == other


@BOTH
def test_a_cpu_is_far_from_every_gpu_and_near_to_itself(weights):
    cpu = replace(PLAIN, accelerator="cpu", architecture="cpu")

    assert setting_terms(cpu, PLAIN, weights)["accelerator"] == 1.0
    assert setting_terms(cpu, cpu, weights) == {}


@BOTH
def test_more_devices_are_farther(weights):
    far = [setting_terms(PLAIN, replace(PLAIN, devices=devices), weights)["devices"] for devices in (2, 8, 64)]

    assert far == sorted(far)
    assert far[0] > setting_terms(replace(PLAIN, devices=2), replace(PLAIN, devices=4), weights)["devices"]


def test_only_speed_depends_on_the_number_of_machines():
    several = replace(PLAIN, nodes=2)

    assert setting_terms(PLAIN, several, MEMORY) == {}
    assert list(setting_terms(PLAIN, several, TIME)) == ["nodes"]


def test_memory_looks_at_the_largest_micro_batch_and_time_at_an_average_one():
    larger = replace(CASE, peak_tokens=9.0)

    assert size_terms(CASE, larger, MEMORY).tokens > 0
    assert size_terms(CASE, larger, TIME).tokens == 0
