# SPDX-License-Identifier: Apache-2.0
"""All sinks of a file at once, a thread for each: one that hangs holds nobody up."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetree_cli.sinks.config import SinkConfig
from finetree_cli.sinks.cursors import Cursors
from finetree_cli.sinks.pump import Pump

if TYPE_CHECKING:
    from finetree import Client

JOIN_SECONDS = 30.0
"""Longest wait for a delivery on the way when the sinks stop; it is sent again at the next start."""


@contextlib.contextmanager
def delivering(
    configs: Sequence[SinkConfig], client: "Client", folder: Path, say: Callable[[str], None]
) -> Iterator[None]:
    """Deliver to all sinks while the block runs.

    Raises:
        BadInput: The folder of the cursors cannot be used.
        NotAvailable: Another process delivers from it.
    """
    stop = threading.Event()
    with Cursors(folder) as cursors:
        pumps = [Pump(config, client, cursors, say, stop) for config in configs]
        threads = [threading.Thread(target=pump.run, name=pump.config.name, daemon=True) for pump in pumps]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(JOIN_SECONDS)


def deliver_once(
    configs: Sequence[SinkConfig], client: "Client", folder: Path, say: Callable[[str], None]
) -> list[str]:
    """Bring every sink up to the logs as they are now; returns the names of those that lack something."""
    with Cursors(folder) as cursors:
        pumps = [Pump(config, client, cursors, say) for config in configs]
        return [pump.config.name for pump in pumps if not pump.step()]
