# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_api.types.v1 import evidence_pb2
from finetree_worker.events.machine_usage import Usage
from finetree_worker.events.slowdown import SlowdownWatch, causes_of, rate_causes
from finetree_worker.plan import Expected

ESTIMATE = evidence_pb2.Interval(low=0.5, expected=0.8, high=1.0)
CALM = Usage(0.0, own=0.0, own_kernel=0.0, major_faults=0, busy=0.0, stolen=0.0, throttled=0.0, swapped_pages=0)


class Machine:
    """Counters that move as the test says, ten seconds at a time."""

    def __init__(self, **rates: float) -> None:
        self.now, self.rates = CALM, {"own": 2.0, "busy": 2.0, **rates}

    def __call__(self) -> Usage:
        moved = {
            name: type(getattr(CALM, name))(getattr(self.now, name) + 10 * rate) for name, rate in self.rates.items()
        }
        self.now = replace(self.now, wall=self.now.wall + 10, **moved)
        return self.now


def watch(machine=None, *, expected=None, rates=None, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    return SlowdownWatch(
        expected or Expected(ESTIMATE, forward_rate=1e12, backward_rate=5e11),
        threads=2,
        mean_tokens=100,
        measure_rates=None if rates is None else lambda: rates,
        usage=machine or Machine(),
    )


def steps(watching, *seconds: float, tokens: int = 100):
    return [found for each in seconds if (found := watching.step(each, tokens)) is not None]


def test_steps_as_estimated_say_nothing_and_slow_ones_are_told_within_ten_steps(monkeypatch):
    assert steps(watch(monkeypatch=monkeypatch), *[1.4] * 100) == []
    (slow,) = steps(watch(monkeypatch=monkeypatch), 9.0, 9.0, *[1.6] * 8)
    alert = slow.alert()
    assert alert.code == "SLOWER_THAN_EXPECTED"
    assert "Steps take 1.6 s, estimated were 0.8 s (0.5 to 1)" in alert.message


@pytest.mark.parametrize(
    ("rates", "cause"),
    [
        ({"own": 0.8, "busy": 2.0}, "other processes took 60% of the machine, and this one had 40% of its 2 threads"),
        ({"own": 1.0, "busy": 1.0, "throttled": 1.0}, "CPU limit held its threads back for 50%"),
        ({"own": 1.0, "busy": 1.0, "stolen": 0.5}, "hypervisor gave 25%"),
        ({"swapped_pages": 300}, "memory is swapped (300 pages a second)"),
        ({"major_faults": 300}, "pages are read from disk (300 a second)"),
        ({"own_kernel": 1.0}, "50% of its own time went into the kernel"),
    ],
)
def test_the_cause_is_what_was_measured(monkeypatch, rates, cause):
    (slow,) = steps(watch(Machine(**rates), rates=(5e11, 1e11), monkeypatch=monkeypatch), *[2.0] * 10)
    assert cause in slow.alert().message
    assert "matrix products" not in slow.alert().message


def test_others_on_cores_that_this_process_does_not_use_are_no_cause():
    shares = replace(CALM, wall=10, own=19.5, busy=80).since(CALM, cores=8, threads=2)
    assert shares.others > 0.7
    assert causes_of(shares, 2) == []


def test_the_processor_is_measured_only_where_nothing_else_explains_it(monkeypatch):
    (slow,) = steps(watch(rates=(9e11, 2e11), monkeypatch=monkeypatch), *[2.0] * 10)
    assert "matrix products run at 40% of the rate that estimates start from" in slow.alert().message
    (unknown,) = steps(watch(rates=(9e11, 4e11), monkeypatch=monkeypatch), *[2.0] * 10)
    assert "nothing that was measured explains it" in unknown.alert().message
    assert rate_causes((1e11, 1e11), (0.0, 0.0)) == []
    assert rate_causes((5e11, 1e9), (1e12, 0.0)) != []


def test_long_rows_are_a_cause_and_not_the_machine(monkeypatch):
    (slow,) = steps(watch(monkeypatch=monkeypatch), *[2.0] * 10, tokens=210)
    assert "2.1 times as long as the run's mean" in slow.alert().message


def test_a_run_that_becomes_slow_is_told_once_each_time_and_three_times_at_most(monkeypatch):
    watching = watch(expected=Expected(), monkeypatch=monkeypatch)
    assert steps(watching, *[1.0] * 18) == []
    (slow,) = steps(watching, *[2.0] * 40)
    assert "Steps take 2 s, and 1 s before" in slow.alert().message
    told = [slow for _ in range(5) for slow in steps(watching, *[1.0] * 8, *[3.0] * 8)]
    assert len(told) == 2


def test_the_counters_of_this_machine_move():
    before = Usage.now()
    sum(range(2_000_000))
    shares = Usage.now().since(before, cores=1, threads=1)
    assert 0 < shares.own <= 1.5
    assert 0 <= shares.stolen < 1
