# SPDX-License-Identifier: Apache-2.0
import math
import random

import pytest
from finetree_estimator.evidence import calibration
from finetree_estimator.evidence.calibration import EMPTY, Point, learn
from finetree_estimator.evidence.corrections import UNCORRECTED

DAY = 86_400_000_000


def point(number: int, ratio: float = 1.0, **changes: object) -> Point:
    """A run that took `ratio` times the predicted second, with a peak of 3 GB, 1 GB of it counted, as predicted."""
    values = {
        "job": f"projects/p/jobs/{number}",
        "attempt": 1,
        "device": "rtx-4090",
        "family": "llama",
        "method": "lora",
        "predicted_step": 1.0,
        "measured_step": ratio,
        "counted_bytes": 1e9,
        "predicted_bytes": 3e9,
        "measured_bytes": 3e9,
        "end_time": 20_000 * DAY + number,
        "digest": f"{number:064x}",
    }
    return Point(**(values | changes))


def step_factor(*ratios: float) -> float:
    return learn(point(n, ratio) for n, ratio in enumerate(ratios)).correction("rtx-4090", "llama").step_time.value


def test_nothing_learned_corrects_nothing():
    assert learn([]) is EMPTY
    assert EMPTY.correction("rtx-4090", "llama") is UNCORRECTED
    assert learn([point(1)]).correction("another", "llama") is UNCORRECTED


def test_a_few_observations_move_a_little_and_many_move_all_the_way():
    one, three, ten, hundred = (step_factor(*[1.5] * count) for count in (1, 3, 10, 100))

    assert 1 < one < three < ten < hundred < 1.5
    assert one == pytest.approx(1.5 ** (1 / 3))
    assert hundred == pytest.approx(1.5, rel=0.01)


@pytest.mark.parametrize("wild", [50.0, 1 / 50])
def test_one_wild_run_among_five_changes_almost_nothing(wild):
    usual = [1.2, 1.22, 1.18, 1.21]
    assert step_factor(*usual, wild) == pytest.approx(step_factor(*usual, 1.2), rel=0.05)


def test_several_wild_runs_among_twenty_are_left_out_and_counted():
    usual = [1.2 + 0.01 * (n % 5) for n in range(14)]
    learned = learn(point(n, ratio) for n, ratio in enumerate([*usual, 40.0, 0.03, 25.0, 30.0, 45.0, 0.05]))

    assert learned.entries["rtx-4090", ""].step_time.value == pytest.approx(1.2 ** (14 / 16), rel=0.02)
    assert len(learned.entries["rtx-4090", ""].odd) == 6
    assert [learned.is_odd(p) for p in learned.points] == [False] * 14 + [True] * 6


@pytest.mark.parametrize("ratio", [50.0, 1 / 50])
def test_a_first_wild_run_counts_for_a_factor_of_two_at_most(ratio):
    assert abs(math.log(step_factor(ratio))) <= math.log(2) / 3 + 1e-9


def test_factors_stay_inside_their_limits():
    low, high = calibration.STEP_TIME_LIMITS
    assert step_factor(*[49.0] * 50) == high
    assert step_factor(*[1 / 49] * 50) == low
    below_what_is_counted = learn(point(n, measured_bytes=0.5e9) for n in range(50))
    factor = below_what_is_counted.correction("rtx-4090", "llama").memory
    assert calibration.MEMORY_LIMITS[0] <= factor.value < 0.55


def test_memory_is_compared_beyond_what_is_counted():
    learned = learn(point(n, measured_bytes=4e9) for n in range(20))
    # 3 GB instead of 2 GB beyond the counted 1 GB.
    assert learned.correction("rtx-4090", "llama").memory.value == pytest.approx(1.5 ** (20 / 22))


def test_what_was_not_measured_is_not_learned():
    learned = learn(point(n, 1.5, measured_bytes=0.0) for n in range(5))
    assert learned.correction("rtx-4090", "llama").memory.observations == 0
    assert learned.correction("rtx-4090", "llama").step_time.observations == 5


def test_a_family_with_enough_runs_has_its_own_factor_and_others_the_devices():
    llama = [point(n, 2.0) for n in range(8)]
    qwen = [point(100 + n, 1.0, family="qwen") for n in range(calibration.FAMILY_POINTS)]
    few = [point(200, 1.0, family="phi")]
    learned = learn([*llama, *qwen, *few])

    assert set(learned.entries) == {("rtx-4090", family) for family in ("", "llama", "qwen")}
    assert (
        learned.correction("rtx-4090", "llama").step_time.value > learned.correction("rtx-4090", "qwen").step_time.value
    )
    assert learned.correction("rtx-4090", "phi").step_time == learned.entries["rtx-4090", ""].step_time


def test_a_family_that_was_never_seen_narrows_the_interval_less():
    learned = learn(point(n, 1.2) for n in range(30))
    seen, unseen = learned.correction("rtx-4090", "llama"), learned.correction("rtx-4090", "gemma")

    assert unseen.step_time.value == pytest.approx(seen.step_time.value)
    assert unseen.step_time.weight == seen.step_time.weight / 2


def test_the_width_shrinks_with_observations_and_never_below_its_floor():
    widths = []
    for count in (1, 5, 20, 100):
        low, _, high = calibration.interval_of(
            learn(point(n, 1.2) for n in range(count)).entries["rtx-4090", ""].step_time
        )
        widths.append(math.log(high / low) / 2)

    assert widths == sorted(widths, reverse=True)
    assert widths[-1] >= calibration.HALF_WIDTH_90 * calibration.SPREAD_FLOOR


def test_scattered_runs_leave_the_interval_wide():
    steady = learn(point(n, 1.2) for n in range(20)).entries["rtx-4090", ""].step_time
    scattered = learn(point(n, 1.2 * 1.25 ** (n % 5 - 2)) for n in range(20)).entries["rtx-4090", ""].step_time
    assert scattered.spread > 3 * steady.spread


def test_the_order_of_arrival_changes_nothing():
    points = [point(n, 1 + 0.1 * (n % 7), device=f"device-{n % 3}") for n in range(40)]
    shuffled = list(points)
    random.Random(3).shuffle(shuffled)

    assert learn(shuffled) == learn(points)


def test_the_revision_changes_with_every_point():
    points = [point(n) for n in range(5)]
    parts = [learn(points[:count]).part for count in range(6)]

    assert len({part.sha256 for part in parts}) == len({part.part_id for part in parts}) == 6
    assert parts[-1].date == "2024-10-04"


def test_only_the_newest_runs_of_a_device_count():
    old = [point(n, 3.0) for n in range(200)]
    new = [point(1000 + n, 1.0) for n in range(calibration.RECENT)]
    assert learn([*old, *new]).entries["rtx-4090", ""].step_time.value == pytest.approx(1.0)
