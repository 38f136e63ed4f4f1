# SPDX-License-Identifier: Apache-2.0
"""Metrics of the trainer itself, read as a page reads them."""

import asyncio
from collections import defaultdict

from finetree_trainer.layout import Layout
from finetree_trainer.telemetry.service_metrics import show_loops, show_store
from finetree_trainer.workers.heartbeats import Heartbeats
from finetree_trainer.workers.session import Worker


class Histogram:
    """Keeps its values in a list."""

    def __init__(self, values) -> None:
        self._values = values

    def observe(self, value) -> None:
        self._values.append(value)


class Meter:
    """Keeps what is measured, and how gauges are read."""

    def __init__(self) -> None:
        self.reads, self.measured = {}, defaultdict(list)

    def gauge(self, name, _text, _labels=(), *, read) -> None:
        self.reads[name] = read

    def histogram(self, name, _text, _labels=(), *, buckets=()):
        assert list(buckets) == sorted(buckets)
        return Histogram(self.measured[name])


async def test_a_loop_that_has_died_is_at_0():
    async def die() -> None:
        pass

    meter, alive, dead = Meter(), asyncio.create_task(asyncio.Event().wait()), asyncio.create_task(die())
    show_loops(meter, lambda: {"queue": alive, "leases": dead})
    await dead
    assert meter.reads["finetree_loop_up"]() == {("queue",): 1.0, ("leases",): 0.0}
    alive.cancel()


def test_each_commit_is_measured_with_what_it_holds_and_one_that_fails_is_not(store, tmp_path):
    meter = Meter()
    show_store(meter, store, Layout(tmp_path))
    store.submit(lambda _: None).result()
    store.submit(lambda connection: connection.exec_driver_sql("COMMIT")).exception()
    store.submit(lambda _: None).result()
    assert meter.measured["finetree_event_batch_size"] == [1, 1]
    assert all(seconds > 0 for seconds in meter.measured["finetree_event_commit_seconds"])
    assert meter.reads["finetree_database_bytes"]()[()] > 0
    assert set(meter.reads["finetree_disk_bytes"]()) == {("free",), ("used",)}


def test_a_worker_whose_process_nobody_can_look_at_is_unknown():
    workers = [Worker("w1", "", None, job="j1", attempt=1)]
    heartbeats = Heartbeats(lambda: workers, interval=1.0, lease=1.0, end=lambda *_: None)
    assert heartbeats.unknown() == 1
    workers.clear()
    assert heartbeats.unknown() == 0
