# SPDX-License-Identifier: Apache-2.0
"""A meter whose instruments stand on a page of Prometheus."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from finetree_runtime.meter import SECONDS, Counter, Histogram, Values
from finetree_runtime.server.logging import get_logger

READ_SECONDS = 5.0
"""Time that the event loop gets to read the gauges: a loop that is blocked longer makes the page fail."""


class PrometheusMeter:
    """Instruments with a registry of their own: several services of one process do not meet on one page.

    Gauges are read on the event loop of the service, where what they read is not changing meanwhile.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        import prometheus_client  # takes 70 ms, only needed with metrics on

        # A second series beside each counter, which nobody reads.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations
        self._client = prometheus_client
        self._loop = loop
        self._gauges: list[_Gauge] = []
        self.instruments: list[Instrument] = []
        """What was made so far."""
        self.registry = prometheus_client.CollectorRegistry()
        if sys.platform == "linux":
            prometheus_client.ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        """Make a counter."""
        self._note(name, "counter", text, labels)
        return _Counter(self._client.Counter(name, text, labels, registry=self.registry), named=bool(labels))

    def histogram(
        self, name: str, text: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = SECONDS
    ) -> Histogram:
        """Make a histogram."""
        self._note(name, "histogram", text, labels)
        made = self._client.Histogram(name, text, labels, registry=self.registry, buckets=buckets)
        return _Histogram(made, named=bool(labels))

    def gauge(self, name: str, text: str, labels: Sequence[str] = (), *, read: Callable[[], Values]) -> None:
        """Have values read for each page."""
        self._note(name, "gauge", text, labels)
        self._gauges.append(_Gauge(name, text, tuple(labels), read, counts=False))

    def total(self, name: str, text: str, labels: Sequence[str] = (), *, read: Callable[[], Values]) -> None:
        """Have values that only grow read for each page."""
        self._note(name, "counter", text, labels)
        self._gauges.append(_Gauge(name, text, tuple(labels), read, counts=True))

    def _note(self, name: str, kind: str, text: str, labels: Sequence[str]) -> None:
        self.instruments.append(Instrument(name, kind, tuple(labels), text))

    def page(self) -> bytes:
        """Return the page, in Prometheus' text format. Raises TimeoutError where the event loop is blocked.

        Not to be called on the event loop.
        """
        return self._client.generate_latest(self.registry)

    def describe(self) -> list[Any]:
        """Nothing: what `collect` has is not known before, and nothing may be read when it is registered."""
        return []

    def collect(self) -> Iterator[Any]:
        """Return the gauges as they are now; called by the registry, on the thread of a request."""
        reading = asyncio.run_coroutine_threadsafe(self._read(), self._loop)
        try:
            yield from reading.result(READ_SECONDS)
        finally:
            reading.cancel()

    async def _read(self) -> list[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        families: list[Any] = []
        for gauge in self._gauges:
            try:
                values = gauge.read()
            except Exception as error:  # noqa: BLE001 - what cannot be read now is left out, the rest is shown
                get_logger().error("metric_not_read", metric=gauge.name, exc_info=error)
                continue
            family = (CounterMetricFamily if gauge.counts else GaugeMetricFamily)(
                gauge.name, gauge.text, labels=gauge.labels
            )
            for labels, value in values.items():
                family.add_metric(labels, value)
            families.append(family)
        return families


@dataclass(frozen=True, slots=True)
class Instrument:
    """An instrument as docs/metrics.md lists it: `kind` is counter, gauge or histogram."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class _Gauge:
    name: str
    text: str
    labels: tuple[str, ...]
    read: Callable[[], Values]
    counts: bool


class _Counter:
    def __init__(self, counter: Any, *, named: bool) -> None:
        self._counter, self._named = counter, named

    def add(self, *labels: str, by: float = 1.0) -> None:
        (self._counter.labels(*labels) if self._named else self._counter).inc(by)


class _Histogram:
    def __init__(self, histogram: Any, *, named: bool) -> None:
        self._histogram, self._named = histogram, named

    def begin(self, *labels: str) -> None:
        if self._named:
            self._histogram.labels(*labels)

    def observe(self, value: float, *labels: str) -> None:
        (self._histogram.labels(*labels) if self._named else self._histogram).observe(value)
