# SPDX-License-Identifier: Apache-2.0
"""Notices a rank that keeps the others waiting, and says how much."""

from collections import deque
from collections.abc import Sequence
from statistics import median

from finetree_api.trainer.v1 import event_pb2

WINDOW = 20
"""Steps that are judged together."""
SLOWER = 0.8
"""Share of the others' median speed below which a rank is a straggler: like devices differ by a few percent."""
WAITED = 0.05
"""Share of the others' time that they must have waited for it: less is not worth a word."""


class Stragglers:
    """Judges the ranks' speeds, tokens per second of their own computing, over windows of steps."""

    def __init__(self) -> None:
        self._steps: deque[Sequence[event_pb2.RankMetrics]] = deque(maxlen=WINDOW)
        self._named: set[int] = set()
        self._seen = 0

    def step(self, ranks: Sequence[event_pb2.RankMetrics]) -> list[event_pb2.Alert]:
        """Note a step; return an Alert STRAGGLER for a rank that has become one, once for each."""
        self._steps.append(ranks)
        self._seen += 1
        if self._seen % WINDOW:
            return []
        speeds = [self._speed(rank) for rank in range(len(ranks))]
        found = []
        for rank, speed in enumerate(speeds):
            others = [other for place, other in enumerate(speeds) if place != rank and other > 0]
            if rank in self._named or not others or not 0 < speed < SLOWER * median(others):
                continue
            waited = self._waited(rank)
            if waited >= WAITED:
                self._named.add(rank)
                found.append(_alert(ranks[rank], speed / median(others), waited))
        return found

    def _speed(self, rank: int) -> float:
        tokens = sum(step[rank].tokens for step in self._steps)
        return tokens / max(1e-9, sum(step[rank].compute_seconds for step in self._steps))

    def _waited(self, rank: int) -> float:
        """Share of the other ranks' time that they waited longer than this rank.

        What the messages themselves take, all wait for.
        """
        others = [(other, step[rank]) for step in self._steps for other in step if other.rank != rank]
        waited = sum(other.wait_seconds - own.wait_seconds for other, own in others)
        return waited / max(1e-9, sum(other.wait_seconds + other.compute_seconds for other, _ in others))


def _alert(rank: event_pb2.RankMetrics, speed: float, waited: float) -> event_pb2.Alert:
    device = f" ({rank.device_id})" if rank.device_id else ""
    text = (
        f"Rank {rank.rank}{device} computes {speed:.0%} of the tokens a second that the other ranks do: in {WINDOW} "
        f"steps they waited for {waited:.0%} of their time. Look for other work on its device, or for a throttled one."
    )
    return event_pb2.Alert(code="STRAGGLER", message=text)
