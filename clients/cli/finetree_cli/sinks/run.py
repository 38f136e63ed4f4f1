# SPDX-License-Identifier: Apache-2.0
"""All sinks of a file at once, a thread for each: one that hangs holds nobody up."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from finetree_cli.sinks import metrics_file
from finetree_cli.sinks.config import SinkConfig
from finetree_cli.sinks.cursors import Cursors
from finetree_cli.sinks.pump import Pump

if TYPE_CHECKING:
    from finetree import Client

JOIN_SECONDS = 30.0
"""Longest wait for a delivery on the way when the sinks stop; it is sent again at the next start."""


@contextlib.contextmanager
def delivering(
    configs: Sequence[SinkConfig],
    client: "Client",
    folder: Path,
    say: Callable[[str], None],
    *,
    metrics: Path | None = None,
) -> Iterator[None]:
    """Deliver to all sinks while the block runs, and keep a file for Prometheus: `metrics`, or one beside the cursors.

    Raises:
        BadInput: The folder of the cursors, or the file, cannot be used.
        NotAvailable: Another process delivers from it.
    """
    stop = threading.Event()
    with Cursors(folder) as cursors:
        pumps = [Pump(config, client, cursors, say, stop) for config in configs]
        threads = [threading.Thread(target=pump.run, name=pump.config.name, daemon=True) for pump in pumps]
        file, names = metrics or folder / metrics_file.FILE, [config.name for config in configs]
        metrics_file.write_first(file, cursors, names)
        writing = partial(metrics_file.keep_writing, file, cursors, names, stop=stop, say=say)
        threads.append(threading.Thread(target=writing, name="metrics", daemon=True))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(JOIN_SECONDS)
            with contextlib.suppress(OSError):
                metrics_file.write(file, cursors, names)


def deliver_once(
    configs: Sequence[SinkConfig],
    client: "Client",
    folder: Path,
    say: Callable[[str], None],
    *,
    metrics: Path | None = None,
) -> list[str]:
    """Bring every sink up to the logs as they are now; returns the names of those that lack something."""
    with Cursors(folder) as cursors:
        pumps = [Pump(config, client, cursors, say) for config in configs]
        left = [pump.config.name for pump in pumps if not pump.step()]
        names = [config.name for config in configs]
        metrics_file.write_first(metrics or folder / metrics_file.FILE, cursors, names)
        return left
