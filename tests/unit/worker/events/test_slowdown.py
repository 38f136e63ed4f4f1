# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys
from dataclasses import fields, replace

import pytest
from finetree_api.types.v1 import evidence_pb2
from finetree_worker.events import machine_usage
from finetree_worker.events.machine_usage import Shares, Usage
from finetree_worker.events.slowdown import SlowdownWatch, causes_of, rate_causes
from finetree_worker.plan import Expected

ESTIMATE = evidence_pb2.Interval(low=0.5, expected=0.8, high=1.0)
CALM = Usage(**{each.name: 0 if each.type is int else 0.0 for each in fields(Usage)})


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
        (
            {"own_kernel": 1.0, "minor_faults": 250_000},
            "50% of its own time went into the kernel, with 250,000 page faults a second",
        ),
        ({"own": 1.0, "busy": 1.0, "waited": 1.0}, "its threads waited for a processor for 50% of the time"),
        ({"own": 1.0, "busy": 1.0, "heated": 0.4}, "too hot for its full clock for 40% of the time"),
        ({"own": 1.0, "busy": 1.0, "starved": 0.3}, "everything waited for it for 30% of the time"),
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


def test_what_a_limit_takes_is_not_said_twice():
    """Threads that a limit holds back count as waiting too."""
    shares = replace(CALM, wall=10, own=10, busy=10, throttled=10, waited=10).since(CALM, cores=2, threads=2)
    (cause,) = causes_of(shares, 2)
    assert "the container's CPU limit" in cause


BESIDE_A_BUSY_NEIGHBOUR = """
import json, os, time
from dataclasses import asdict
from finetree_worker.events.machine_usage import Usage
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
busy = os.fork()
if not busy:
    while os.getppid() != 1:
        pass
    os._exit(0)
try:
    before = Usage.now()
    while time.perf_counter() - before.wall < 1.0:
        pass
    print(json.dumps(asdict(Usage.now().since(before, cores=1, threads=1))))
finally:
    os.kill(busy, 9)
    os.waitpid(busy, 0)
"""


def test_a_busy_neighbour_is_measured_as_the_cause():
    """For real: two processes that compute on one processor have half of it each, whatever else the machine does."""
    output = subprocess.run([sys.executable, "-c", BESIDE_A_BUSY_NEIGHBOUR], check=True, capture_output=True, text=True)
    shares = Shares(**json.loads(output.stdout))
    assert shares.own < 0.8
    assert shares.waited > 0.2
    assert any("other processes took" in cause or "waited for a processor" in cause for cause in causes_of(shares, 1))


@pytest.mark.parametrize(
    ("line", "folder", "stat"),
    [
        ("0::/", ".", "throttled_usec 2500000"),
        ("0::/jobs/one", "jobs", "throttled_usec 2500000"),
        ("4:cpu,cpuacct:/jobs/one", "cpu/jobs/one", "throttled_time 2500000000"),
        ("4:cpu:/jobs/one", "cpu", "throttled_time 2500000000"),
    ],
    ids=["a container's root", "a group above", "version 1", "version 1, above"],
)
def test_a_limit_counts_in_both_versions_of_control_groups(monkeypatch, tmp_path, line, folder, stat):
    own, groups = tmp_path / "self", tmp_path / "cgroup"
    (groups / folder).mkdir(parents=True)
    (groups / folder / "cpu.stat").write_text(f"nr_periods 5\nnr_throttled 3\n{stat}\n")
    own.mkdir()
    (own / "cgroup").write_text(f"7:memory:/elsewhere\n{line}\n")
    monkeypatch.setattr(machine_usage, "_SELF", own)
    monkeypatch.setattr(machine_usage, "_GROUPS", groups)
    assert Usage.now().throttled == 2.5


def test_the_hottest_core_counts(monkeypatch, tmp_path):
    for name, milliseconds in (("cpu0", 300), ("cpu1", 4200)):
        (tmp_path / name / "thermal_throttle").mkdir(parents=True)
        (tmp_path / name / "thermal_throttle" / "core_throttle_total_time_ms").write_text(f"{milliseconds}\n")
    monkeypatch.setattr(machine_usage, "_PROCESSORS", tmp_path)
    assert Usage.now().heated == 4.2
