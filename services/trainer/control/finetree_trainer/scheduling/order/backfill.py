# SPDX-License-Identifier: Apache-2.0
"""Backfill: jobs that fit pass those before them that do not, for a bounded number of times.

A job that waits for two GPUs, or for much memory, would wait for ever while smaller ones come: what it lacks is never
free at once. So a job that others have passed `PASSES` times, or that has waited `PATIENCE_SECONDS` since the first one
passed it, keeps what it waits for: no job behind it starts there until it has started itself. It keeps as many devices
as it needs and no more, and nothing where only other programs are in its way: to stop our own jobs would not help it.
The counts live in memory; after a restart of the service they begin anew.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

PASSES = 8
"""How often a job that does not fit yet is passed by jobs behind it."""
PATIENCE_SECONDS = 1800.0
"""Longest time that jobs pass it, from the first one on."""
HOST = ("", "host")
"""The place of the host's memory, beside those of devices."""
Place = tuple[str, str]


@dataclass(slots=True)
class Passed:
    """How often jobs behind a waiting one have started where it would, and since when, microseconds since 1970."""

    times: int = 0
    since: int = 0

    def add(self, now: int) -> None:
        """Count one more."""
        self.times += 1
        self.since = self.since or now

    def enough(self, now: int) -> bool:
        """Whether nothing passes it any more."""
        return self.times >= PASSES or (self.since > 0 and now - self.since >= PATIENCE_SECONDS * 1e6)


class Kept:
    """What is kept for jobs that were passed often enough, within one round of the queue."""

    def __init__(self) -> None:
        self._owners: dict[Place, str] = {}

    def owner(self, places: Iterable[Place]) -> str:
        """The name of a job for which one of these places is kept; "" where all are for anybody."""
        return next((self._owners[place] for place in places if place in self._owners), "")

    def keep_memory(self, place: Place, name: str) -> None:
        """Keep a memory for a job."""
        self._owners.setdefault(place, name)

    def keep_devices(self, places: Iterable[Place], count: int, name: str) -> None:
        """Keep the first of these devices that are kept for nobody, as many as a job needs; no further one is read."""
        for place in islice((place for place in places if place not in self._owners), count):
            self._owners[place] = name
