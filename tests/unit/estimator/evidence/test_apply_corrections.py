# SPDX-License-Identifier: Apache-2.0
import math
from dataclasses import replace

import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_estimator import estimate as engine
from finetree_estimator.catalog import price_book
from finetree_estimator.evidence.calibration import Point, learn
from finetree_estimator.evidence.corrections import Correction, Factor
from finetree_estimator.intervals import Interval
from finetree_estimator.memory.fit import Verdict
from finetree_estimator.memory.peak import COUNTED, Memory
from finetree_estimator.run import Run
from finetree_estimator.spec.parse import parse_request
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.timing.phases import Phase

KNOWN = Factor(value=1.5, weight=0.9, spread=0.05, observations=18)


def learned(ratio: float, runs: int) -> Correction:
    """What short runs teach whose peaks were `ratio` times as predicted beyond what is counted."""
    points = (
        Point(
            job=f"projects/p/jobs/{number}",
            attempt=1,
            device="gpu",
            family="llama",
            method="lora",
            predicted_step=0.0,
            measured_step=0.0,
            counted_bytes=7e9,
            predicted_bytes=9e9,
            measured_bytes=7e9 + 2e9 * ratio,
            end_time=number + 1,
            digest="",
        )
        for number in range(runs)
    )
    return learn(points).correction("gpu", "llama")


def on_an_h100(*, micro_batch: int, sequence_length: int) -> Run:
    """LoRA of Llama-3.2-3B as a client asks for it."""
    request = estimate_pb2.EstimateRunRequest()
    request.spec.model.name = "llama-3.2-3b"
    request.spec.lora.rank = 16
    request.spec.hardware.accelerator, request.spec.hardware.count = "H100", 1
    training = request.spec.training
    training.epochs, training.micro_batch_size, training.sequence_length = 1, micro_batch, sequence_length
    return parse_request(request, Knowledge(price_book.packaged())).run


def upper_ends(memory: Memory) -> list[float]:
    peaks = [memory.allocated, memory.reserved, memory.device, memory.host]
    return [interval.high for interval in (*peaks, *dict(memory.components).values())]


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


@pytest.fixture(params=["gpu", "cpu", "left over"])
def any_run(request, make_run, mixed, cpu):
    """A run on a GPU, one on a CPU, and one of which torch's allocator leaves over what the estimate counts."""
    run = make_run(micro_batch=8, sequence_length=2048)
    return {"gpu": run, "cpu": replace(run, device=cpu, devices=2), "left over": mixed}[request.param]


@pytest.mark.parametrize(("ratio", "runs"), [(0.9, 100), (0.8, 10), (0.3, 2), (1.0, 100), (1.02, 100), (1.5, 20)])
def test_no_upper_end_of_memory_falls_below_the_uncorrected_one(any_run, ratio, runs):
    correction = learned(ratio, runs)
    plain, corrected = engine.estimate(any_run), engine.estimate(any_run, correction)

    assert correction.memory.observations == runs
    assert all(
        now >= before for now, before in zip(upper_ends(corrected.memory), upper_ends(plain.memory), strict=True)
    )
    assert corrected.fit.peak.high >= plain.fit.peak.high
    # The expected peak and the lower end still follow what was observed.
    if ratio < 1:
        assert corrected.fit.peak.expected < plain.fit.peak.expected
        assert corrected.fit.peak.low < plain.fit.peak.expected


@pytest.mark.parametrize("share", [0.85, 0.9, 0.95, 0.99, 1.01, 1.05, 1.1])
def test_lower_peaks_of_other_runs_make_nothing_fit(make_run, gpu, share):
    run = make_run(micro_batch=8, sequence_length=2048)
    plain = engine.estimate(run).fit.peak
    run = replace(run, device=replace(gpu, usable_bytes=int(plain.expected * share)))
    before, after = engine.estimate(run).fit, engine.estimate(run, learned(0.8, 10)).fit

    assert before.verdict is (Verdict.DOES_NOT_FIT if share < 1 else Verdict.TIGHT)
    assert after.verdict in (Verdict.DOES_NOT_FIT, Verdict.TIGHT)
    assert after.probability < 0.95


def test_short_runs_below_their_prediction_leave_a_long_one_its_upper_end():
    """The rows of docs/decisions/0092."""
    run = on_an_h100(micro_batch=8, sequence_length=2048)
    usable = int(0.99 * engine.estimate(run).fit.peak.expected)
    run = replace(run, device=replace(run.device, usable_bytes=usable))
    found = [engine.estimate(run, correction).fit for correction in (Correction(), learned(0.9, 100), learned(0.8, 10))]

    assert [
        (fit.verdict, *(round(end / 1e9, 1) for end in (fit.peak.low, fit.peak.expected, fit.peak.high)))
        for fit in found
    ] == [
        (Verdict.DOES_NOT_FIT, 14.1, 17.2, 20.3),
        (Verdict.TIGHT, 15.6, 16.2, 20.3),
        (Verdict.TIGHT, 14.2, 15.5, 20.3),
    ]
    assert [round(fit.probability, 2) for fit in found] == [0.47, 0.64, 0.72]


def test_higher_peaks_of_other_runs_can_make_a_run_not_fit(make_run, gpu):
    run = make_run()
    peak = engine.estimate(run).fit.peak
    run = replace(run, device=replace(gpu, usable_bytes=int(peak.high * 1.01)))

    assert engine.estimate(run).fit.verdict is Verdict.FITS
    assert engine.estimate(run, learned(1.9, 50)).fit.verdict is not Verdict.FITS


def test_unknown_row_lengths_keep_their_width(make_run):
    rows = replace(make_run().rows, mean_known=False)
    plain = engine.estimate(make_run(rows=rows)).times
    corrected = engine.estimate(make_run(rows=rows), Correction(device="gpu", date="", step_time=KNOWN)).times

    assert corrected.step.expected == pytest.approx(1.5 * plain.step.expected)
    # Observed runs bring the device nearer; of its rate they say nothing where the rows are unknown.
    assert width(plain.step) / 1.5 < width(corrected.step) <= width(plain.step)


def test_one_run_is_one_run():
    one = Correction(device="gpu", date="", step_time=replace(KNOWN, observations=1))
    (remark,) = one.remarks()
    assert remark.message.endswith("learned from 1 run on gpu")


def test_the_answer_says_what_it_was_corrected_with(estimates):
    corrected = estimates[1]
    said = {remark.code: remark.message for remark in corrected.remarks}
    assert said["STEP_TIME_CORRECTED"].endswith("1.5, learned from 18 runs on gpu")
    assert said["MEMORY_CORRECTED"].endswith(
        "1.5, learned from 18 runs on gpu; no upper end is below that without them"
    )
    assert any(source.name == "observed-runs" and source.locator == "gpu" for source in corrected.times.step.sources)


def test_a_low_end_of_zero_stays_zero():
    assert KNOWN.apply(Interval(0.0, 1.0, 2.0)).low == 0.0
    assert KNOWN.apply(Interval(0.0, 0.0, 0.0)) == Interval(0.0, 0.0, 0.0)
