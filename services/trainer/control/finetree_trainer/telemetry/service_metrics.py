# SPDX-License-Identifier: Apache-2.0
"""Metrics of the trainer itself: its store, its watchers, its background loops and its disk."""

import asyncio
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress

from finetree_runtime.meter import Meter, Values

from finetree_trainer.joblog.watch import Watches
from finetree_trainer.layout import Layout
from finetree_trainer.objects.storage import ObjectStorage
from finetree_trainer.store.database import Store

BATCHES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
"""Upper ends of the buckets of the changes in one commit."""

LAGS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper ends of the buckets of the time until a watcher gets an event, seconds."""


def show_store(meter: Meter, store: Store, layout: Layout) -> None:
    """Show how long commits take and how much they hold, and the disk that they are on."""
    seconds = meter.histogram("finetree_event_commit_seconds", "Time of a commit of the event log, its flush included.")
    sizes = meter.histogram(
        "finetree_event_batch_size", "Changes of jobs that were committed together.", buckets=BATCHES
    )

    def on_commit(took: float, changes: int) -> None:
        seconds.observe(took)
        sizes.observe(changes)

    def disk() -> Values:
        usage = shutil.disk_usage(layout.root)
        return {("free",): usage.free, ("used",): usage.used}

    def database() -> Values:
        size = 0
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                size += layout.database.with_name(layout.database.name + suffix).stat().st_size
        return {(): size}

    store.on_commit = on_commit
    meter.gauge("finetree_disk_bytes", "Disk of the trainer's data folder.", ("state",), read=disk)
    meter.gauge("finetree_database_bytes", "Size of the trainer's database, its journal included.", read=database)


def show_watches(meter: Meter, watches: Watches) -> None:
    """Show how many watches are open, and how late their events are."""
    meter.gauge("finetree_watchers", "Watches that are open.", read=lambda: {(): watches.count})
    watches.lag = meter.histogram(
        "finetree_watch_lag_seconds",
        "Time from an event's storing until it is sent to a watcher that had seen all before it.",
        buckets=LAGS,
    )


def show_unknown_workers(meter: Meter, unknown: Callable[[], int]) -> None:
    """Show how many workers may be alive or dead."""
    meter.gauge(
        "finetree_unknown_liveness",
        "Workers that may be alive or dead; their jobs wait until the lease is over.",
        read=lambda: {(): float(unknown())},
    )


def show_objects(meter: Meter, objects: ObjectStorage) -> None:
    """Show what waits for the object store, whether it answers, and what went to it and came from it."""
    if not objects.copies.enabled:
        return
    traffic = objects.copies.traffic
    meter.gauge(
        "finetree_object_store_up",
        "Whether the object store answered the last request: 1, or 0.",
        read=lambda: {(): float(traffic.answers)},
    )
    meter.gauge(
        "finetree_object_store_waiting",
        "Datasets, checkpoints and artifacts that wait for their upload to the object store.",
        read=lambda: {(): objects.uploads.waiting},
    )
    meter.total(
        "finetree_object_store_bytes_total",
        "Bytes sent to the object store and fetched from it.",
        ("direction",),
        read=lambda: {("sent",): traffic.sent, ("fetched",): traffic.fetched},
    )
    meter.total(
        "finetree_object_store_failures_total",
        "Transfers that failed since the object store could not be used, and are tried again.",
        read=lambda: {(): traffic.failures},
    )
    meter.gauge(
        "finetree_object_cache_bytes",
        "Bytes in the data folder of what the object store has, too.",
        read=lambda: {(): objects.cache.bytes},
    )


def show_loops(meter: Meter, loops: Callable[[], Mapping[str, "asyncio.Task[None]"]]) -> None:
    """Show which background loops run; one that has died is never begun again."""
    meter.gauge(
        "finetree_loop_up",
        "Whether a background loop of the trainer runs: 1, or 0 when it has died.",
        ("loop",),
        read=lambda: {(name,): float(not task.done()) for name, task in loops().items()},
    )
