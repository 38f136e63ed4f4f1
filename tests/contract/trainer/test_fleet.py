# SPDX-License-Identifier: Apache-2.0
"""The simulated fleet of `benchmarks/trainer/fleet.py`, at a small size: what must hold at any."""

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks/trainer"
sys.path.insert(0, str(FOLDER))
fleet_world = pytest.importorskip("fleet_world")
fleet_workload = pytest.importorskip("fleet_workload")
sys.path.remove(str(FOLDER))

HOUR = fleet_workload.HOUR


def run(**changes):  # noqa: ANN003 - fields of the plan
    """A small fleet: its world at the end."""
    return fleet_world.simulate(fleet_workload.Plan(**({"devices": 24, "jobs": 80} | changes)))


@pytest.fixture(scope="module")
def world():
    return run(arrivals="both", node_mtbf=5 * HOUR)


def test_every_job_ends_and_no_device_is_given_twice(world):
    seen = world.seen
    assert seen.violations == []
    assert seen.ended == 80
    assert sum(map(len, seen.waits.values())) == 80
    assert not any(world.queue.slots.of(uid) for uid in list(world.queue.slots.jobs()))
    assert len(world.queue) == 0


def test_jobs_of_failed_nodes_run_again(world):
    assert world.seen.failures > 0
    assert world.seen.again
    assert world.queue.node_changes.cpu


def test_the_same_seed_gives_the_same_run():
    first, again, other = (run(jobs=20, node_mtbf=5 * HOUR, seed=seed).seen.checksum for seed in (1, 1, 2))
    assert first == again != other


def test_projects_hold_what_their_weights_say_while_all_wait():
    seen = run(devices=104, jobs=200, node_mtbf=0.0).seen
    weights = fleet_workload.WEIGHTS
    total = sum(seen.contended.values())
    shares = {name: seen.contended[name] / total for name in weights}
    # Thirteen nodes, some jobs of a whole one: what a project has begun with it keeps for hours.
    for name in weights:
        assert shares[name] == pytest.approx(weights[name] / sum(weights.values()), abs=0.07), (name, shares)
    assert max(shares, key=shares.__getitem__) == "a"


def test_rounds_are_counted_on_a_fleet_that_is_full():
    found = run(full=True, rounds=5)
    assert len(found.queue.rounds.cpu) == 5
    assert found.seen.busy_contended == pytest.approx(found.seen.contended_there, rel=0.05)
    assert all(cost > 0 for cost in found.queue.rounds.cpu)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"devices": 0}, "devices"), ({"jobs": 0}, "jobs"), ({"arrivals": "x"}, "arrivals"),
     ({"full": True, "arrivals": "stream"}, "full")],
)  # fmt: skip
def test_a_plan_that_cannot_be_is_refused_by_the_field(changes, named):
    with pytest.raises(ValueError, match=f"^{named}: "):
        fleet_workload.Plan(**({"devices": 8, "jobs": 8} | changes))
