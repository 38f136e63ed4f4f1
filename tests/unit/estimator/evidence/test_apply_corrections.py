# SPDX-License-Identifier: Apache-2.0
import math
from dataclasses import replace

import pytest
from finetree_estimator import estimate as engine
from finetree_estimator.evidence.corrections import Correction, Factor
from finetree_estimator.intervals import Interval
from finetree_estimator.memory.peak import COUNTED
from finetree_estimator.timing.phases import Phase

KNOWN = Factor(value=1.5, weight=0.9, spread=0.05, observations=18)


def width(interval: Interval) -> float:
    return math.log(interval.high / interval.low)


@pytest.fixture
def estimates(make_run):
    """The same run without and with what was learned."""
    run = make_run()
    return engine.estimate(run), engine.estimate(
        run, Correction(device="gpu", date="2026-11-25", step_time=KNOWN, memory=KNOWN)
    )


def test_a_correction_without_observations_changes_nothing(make_run):
    run = make_run()
    assert engine.estimate(run, Correction(device="gpu")) == engine.estimate(run)


def test_the_step_time_is_multiplied_and_its_interval_narrows(estimates):
    plain, corrected = estimates
    assert corrected.times.step.expected == pytest.approx(1.5 * plain.times.step.expected)
    assert width(corrected.times.step) < width(plain.times.step)
    assert corrected.times.tokens_per_second.expected == pytest.approx(plain.times.tokens_per_second.expected / 1.5)
    assert corrected.times.tokens_per_second.low < corrected.times.tokens_per_second.high


def test_only_phases_that_go_with_the_devices_rate_are_multiplied(estimates):
    plain, corrected = (dict(each.times.phases) for each in estimates)
    assert corrected[Phase.TRAIN].expected == pytest.approx(1.5 * plain[Phase.TRAIN].expected)
    assert corrected[Phase.LOAD] == plain[Phase.LOAD]
    whole = estimates[1].times.total
    assert whole.expected == pytest.approx(sum(interval.expected for interval in corrected.values()))
    assert whole.low <= whole.expected <= whole.high


def test_memory_is_multiplied_beyond_what_is_counted(estimates):
    plain, corrected = (dict(each.memory.components) for each in estimates)
    for kind, interval in plain.items():
        factor = 1.0 if kind in COUNTED else 1.5
        assert corrected[kind].expected == pytest.approx(factor * interval.expected)


def test_components_still_add_up_to_the_device_peak(estimates):
    memory = estimates[1].memory
    assert memory.device.expected == pytest.approx(sum(interval.expected for _, interval in memory.components))
    assert memory.allocated.expected < memory.reserved.expected < memory.device.expected
    for peak in (memory.allocated, memory.reserved, memory.device):
        assert peak.low <= peak.expected <= peak.high


def test_on_a_cpu_the_host_peak_is_the_corrected_device_peak(make_run, cpu):
    corrected = engine.estimate(make_run(device=cpu), Correction(device="cpu", date="", memory=KNOWN)).memory
    assert corrected.host == corrected.device


def test_unknown_row_lengths_keep_their_width(make_run):
    rows = replace(make_run().rows, mean_known=False)
    plain = engine.estimate(make_run(rows=rows)).times
    corrected = engine.estimate(make_run(rows=rows), Correction(device="gpu", date="", step_time=KNOWN)).times

    assert corrected.step.expected == pytest.approx(1.5 * plain.step.expected)
    # Observed runs bring the device nearer; of its rate they say nothing where the rows are unknown.
    assert width(plain.step) / 1.5 < width(corrected.step) <= width(plain.step)


def test_the_answer_says_what_it_was_corrected_with(estimates):
    corrected = estimates[1]
    assert any("1.5, learned from 18 runs on gpu" in remark.message for remark in corrected.remarks)
    assert any(source.name == "observed-runs" and source.locator == "gpu" for source in corrected.times.step.sources)


def test_a_low_end_of_zero_stays_zero():
    assert KNOWN.apply(Interval(0.0, 1.0, 2.0)).low == 0.0
    assert KNOWN.apply(Interval(0.0, 0.0, 0.0)) == Interval(0.0, 0.0, 0.0)
