# SPDX-License-Identifier: Apache-2.0
"""A rank that keeps the others waiting is named once, with what was measured."""

from collections.abc import Sequence

from finetree_api.trainer.v1 import event_pb2
from finetree_worker.ranks.straggler import WINDOW, Stragglers


def step(seconds: Sequence[float], tokens: Sequence[int] = (100, 100, 100)) -> list[event_pb2.RankMetrics]:
    longest = max(seconds)
    return [
        event_pb2.RankMetrics(
            rank=rank, device_id=f"cuda:{rank}", compute_seconds=own, wait_seconds=longest - own, tokens=count
        )
        for rank, (own, count) in enumerate(zip(seconds, tokens, strict=True))
    ]


def test_a_slow_rank_is_named_after_a_window_and_only_once() -> None:
    watch = Stragglers()
    found = [watch.step(step((1.0, 2.0, 1.0))) for _ in range(3 * WINDOW)]
    assert [len(alerts) for alerts in found] == [0] * (WINDOW - 1) + [1] + [0] * 2 * WINDOW
    (alert,) = found[WINDOW - 1]
    assert alert.code == "STRAGGLER"
    assert "Rank 1 (cuda:1) computes 50% of the tokens a second" in alert.message
    assert "waited for 50% of their time" in alert.message


def test_a_rank_with_more_rows_or_a_little_less_speed_is_no_straggler() -> None:
    watch = Stragglers()
    for _ in range(WINDOW):
        assert not watch.step(step((1.0, 2.0, 1.0), (100, 200, 100)))
        assert not Stragglers().step(step((1.0, 1.1, 1.0)))


def test_ranks_without_work_are_not_judged() -> None:
    watch = Stragglers()
    for _ in range(2 * WINDOW):
        assert not watch.step(step((1.0, 0.001, 1.0), (100, 0, 100)))


def test_what_messages_take_is_nobodys_fault() -> None:
    """Divided ranks that wait alike for a slow network are judged by what they wait beyond each other."""
    watch = Stragglers()
    for _ in range(WINDOW):
        metrics = step((1.0, 1.3, 1.0))
        for rank in metrics:
            rank.wait_seconds += 9.0
        assert not watch.step(metrics)
