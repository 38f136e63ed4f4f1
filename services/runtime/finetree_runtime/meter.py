# SPDX-License-Identifier: Apache-2.0
"""Counting, as the code that counts sees it: instruments by name, whatever shows them, or nothing.

    started = meter.counter("finetree_attempts_total", "Attempts that have ended.", ("outcome",))
    started.add("succeeded")

`OFF` is the meter of a service that shows no metrics: its instruments do nothing, and what a gauge would read is never
read. A label has few values that the service itself knows: the number of series on a page must not grow with its users.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

Values = Mapping[tuple[str, ...], float]
"""Values by the values of the labels, in the order of the labels' names."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper ends of the buckets of a short time in seconds."""


class Counter(Protocol):
    """Counts what happens; it only grows while the service runs."""

    def add(self, *labels: str, by: float = 1.0) -> None:
        """Count `by` more under the values of the labels."""
        ...


class Histogram(Protocol):
    """Counts values by size."""

    def begin(self, *labels: str) -> None:
        """Show the values of the labels from 0 on: Prometheus sees no increase in a series that begins with 1."""
        ...

    def observe(self, value: float, *labels: str) -> None:
        """Count a value under the values of the labels."""
        ...


class Meter(Protocol):
    """Makes instruments. A name is made once; it is the one on the page, with its unit and, of a counter, `_total`."""

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        """Make a counter. `text` says what is counted, in one sentence."""
        ...

    def histogram(
        self, name: str, text: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = SECONDS
    ) -> Histogram:
        """Make a histogram with the upper ends of its buckets; there is another one without end."""
        ...

    def gauge(self, name: str, text: str, labels: Sequence[str] = (), *, read: Callable[[], Values]) -> None:
        """Have `read` called on the event loop for the present values, each time that the page is asked for."""
        ...

    def total(self, name: str, text: str, labels: Sequence[str] = (), *, read: Callable[[], Values]) -> None:
        """Make a counter of numbers that are kept elsewhere, which `read` returns as a gauge's does."""
        ...


class _Nothing:
    """A meter whose instruments do nothing, and those instruments."""

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:  # noqa: ARG002 - counts nothing
        return self

    def histogram(
        self,
        name: str,  # noqa: ARG002 - counts nothing
        text: str,  # noqa: ARG002 - counts nothing
        labels: Sequence[str] = (),  # noqa: ARG002 - counts nothing
        *,
        buckets: Sequence[float] = SECONDS,  # noqa: ARG002 - counts nothing
    ) -> Histogram:
        return self

    def gauge(self, name: str, text: str, labels: Sequence[str] = (), *, read: Callable[[], Values]) -> None:
        pass

    def total(self, name: str, text: str, labels: Sequence[str] = (), *, read: Callable[[], Values]) -> None:
        pass

    def add(self, *labels: str, by: float = 1.0) -> None:
        pass

    def begin(self, *labels: str) -> None:
        pass

    def observe(self, value: float, *labels: str) -> None:
        pass


OFF: Meter = _Nothing()
"""The meter of a service that shows no metrics."""
NOT_MEASURED: Histogram = _Nothing()
"""A histogram that does nothing."""
