# SPDX-License-Identifier: Apache-2.0
import re

import pytest
from finetree_estimator.catalog.accelerators import accelerator, accelerators
from finetree_estimator.catalog.devices import known
from finetree_estimator.catalog.models import model
from finetree_estimator.evidence import measured_runs
from finetree_estimator.evidence.similarity import MEMORY, TIME, setting_terms, size_terms
from finetree_estimator.intervals import Kind
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.prefix import Prefix
from finetree_estimator.methods.targets import PRESETS
from finetree_estimator.programs import TRANSFORMERS
from finetree_estimator.run import Rows

BOTH = pytest.mark.parametrize("weights", [MEMORY, TIME], ids=["memory", "time"])


def full_distance(one, other, weights):
    """The distance by its definition, without the short cuts of the search."""
    far = sum(setting_terms(one.setting, other.setting, weights).values()) + sum(size_terms(one, other, weights))
    return min(1.0, round(far, measured_runs.DIGITS))


def test_the_evidence_stays_small_and_every_row_measured_something():
    assert 100 <= len(measured_runs.measured_runs()) <= 250
    assert len(measured_runs.measured(peaks=True)) >= 40
    assert len(measured_runs.measured(peaks=False)) >= 100
    assert all(row.peak_bytes or row.tokens_per_second for row in measured_runs.measured_runs())


def test_every_row_has_a_source_a_description_and_a_device_of_the_catalog():
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


@BOTH
@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_the_search_finds_what_looking_at_every_row_finds(make_run, request, weights, device):
    for method in (Full(), Lora(8, ("q_proj",)), Prefix(20)):
        case = measured_runs.case_of(make_run(method=method, device=request.getfixturevalue(device), devices=7))
        rows = measured_runs.measured(peaks=weights.by_peak)
        assert measured_runs.nearest(case, weights).distance == min(
            full_distance(case, row.case, weights) for row in rows
        )


def test_the_nearest_rows_come_nearest_first_and_stay_in_bounds(make_run, cpu):
    for run in (make_run(), make_run(device=cpu, method=Prefix(20)), make_run(devices=512, method=Full())):
        far = [near.distance for near in measured_runs.nearest_runs(measured_runs.case_of(run))]
        assert len(far) == 5
        assert far == sorted(far)
        assert all(0 <= distance <= 1 for distance in far)


def test_a_run_without_a_number_of_rows_has_a_case(make_run):
    case = measured_runs.case_of(make_run(rows=None, steps=0))

    assert case.mean_tokens == case.peak_tokens
