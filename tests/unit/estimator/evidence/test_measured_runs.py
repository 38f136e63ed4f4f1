# SPDX-License-Identifier: Apache-2.0
import re
from dataclasses import replace

import pytest
from finetree_estimator.catalog.accelerators import accelerator, accelerators
from finetree_estimator.catalog.devices import known
from finetree_estimator.catalog.models import model
from finetree_estimator.evidence import measured_runs
from finetree_estimator.evidence.similarity import MEMORY, TIME, Case, Setting, setting_terms, size_terms
from finetree_estimator.intervals import Kind
from finetree_estimator.methods.adapter import Adapter
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.prefix import Prefix
from finetree_estimator.methods.qlora import Qlora
from finetree_estimator.methods.targets import PRESETS
from finetree_estimator.programs import TRANSFORMERS
from finetree_estimator.run import Rows

BOTH = pytest.mark.parametrize("weights", [MEMORY, TIME], ids=["memory", "time"])
PLAIN = Setting(method="lora", accelerator="a100-80gb", architecture="Ampere", program="transformers")
CASE = Case(setting=PLAIN, parameters=22.0, peak_tokens=8.0, mean_tokens=7.0)


def full_distance(one, other, weights):
    """The distance by its definition, without the short cuts of the search."""
    far = sum(setting_terms(one.setting, other.setting, weights).values()) + sum(
        size_terms(one, other, weights).values()
    )
    return min(1.0, round(far, measured_runs.DIGITS))


def test_the_evidence_stays_small_and_every_row_measured_something():
    assert 100 <= len(measured_runs.measured_runs()) <= 250
    assert len(measured_runs.measured(peaks=True)) >= 40
    assert len(measured_runs.measured(peaks=False)) >= 100
    assert all(row.peak_bytes or row.tokens_per_second for row in measured_runs.measured_runs())


def test_every_row_has_a_source_a_description_and_a_device_of_the_catalogue():
    names = {entry.name for entry in accelerators()}
    for row in measured_runs.measured_runs():
        assert row.source.kind is Kind.PUBLISHED
        assert row.source.name.startswith("github:")
        assert row.source.locator
        assert re.fullmatch(r"(20\d\d-\d\d-\d\d)?", row.source.date)
        assert row.case.setting.accelerator in names
        assert row.case.setting.program in row.description


def test_no_case_is_there_twice():
    descriptions = [row.description for row in measured_runs.measured_runs()]

    assert len(set(descriptions)) == len(descriptions)


def test_no_peak_is_that_of_a_full_card():
    for row in measured_runs.measured(peaks=True):
        assert row.peak_bytes <= 0.92 * accelerator(row.case.setting.accelerator).usable_bytes


@BOTH
def test_a_measured_case_is_at_no_distance_from_itself(weights):
    for row in measured_runs.measured(peaks=weights.by_peak):
        assert measured_runs.nearest(row.case, weights).distance == 0.0
        assert full_distance(row.case, row.case, weights) == 0.0


def test_a_run_like_a_published_one_is_at_no_distance(make_run):
    run = make_run(
        shape=model("llama-3-8b").shape,
        method=Lora(4, PRESETS["query-value"]),
        device=known(accelerator("a100-80gb-pcie"), fp32=False),
        micro_batch=2,
        batch=8,
        sequence_length=1024,
        rows=Rows(count=4096, mean=1024.0, mean_square=1024.0**2, longest=1024, target_fraction=1.0),
        checkpointing=True,
        program=TRANSFORMERS,
    )
    case = measured_runs.case_of(run)

    assert measured_runs.nearest(case, MEMORY).distance == measured_runs.nearest(case, TIME).distance == 0.0
    first = measured_runs.nearest_runs(case)[0]
    assert first.distance == 0.0
    assert first.row.description.startswith("llama3-8b, lora rank 4")


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
def test_two_quantised_bases_are_nearer_than_a_quantised_and_a_plain_one(weights):
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

    assert size_terms(CASE, larger, MEMORY)["tokens"] > 0
    assert size_terms(CASE, larger, TIME)["tokens"] == 0


METHODS = [
    Full(),
    Lora(8, ("q_proj",)),
    Qlora.of(Lora(8, ("q_proj",))),
    Prefix(20),
    Adapter(64),
]


@BOTH
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_the_search_finds_what_looking_at_every_row_finds(make_run, request, weights, method, device):
    for size in (1, 7):
        run = make_run(method=method, device=request.getfixturevalue(device), micro_batch=size, devices=size)
        case = measured_runs.case_of(run)
        expected = min(full_distance(case, row.case, weights) for row in measured_runs.measured(peaks=weights.by_peak))
        assert measured_runs.nearest(case, weights).distance == pytest.approx(expected)


def test_the_nearest_rows_come_nearest_first_and_stay_in_bounds(make_run, cpu):
    for run in (make_run(), make_run(device=cpu, method=Prefix(20)), make_run(devices=512, method=Full())):
        far = [near.distance for near in measured_runs.nearest_runs(measured_runs.case_of(run))]
        assert len(far) == 5
        assert far == sorted(far)
        assert all(0 <= distance <= 1 for distance in far)


def test_a_run_without_a_number_of_rows_has_a_case(make_run):
    case = measured_runs.case_of(make_run(rows=None, steps=0))

    assert case.mean_tokens == case.peak_tokens
