# SPDX-License-Identifier: Apache-2.0
"""The events of all jobs of a project, also where jobs are deleted while somebody watches."""

import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetree import Client
    from finetree_api.trainer.v1 import event_pb2


def project_events(
    client: "Client",
    on_gap: Callable[[], None],
    *,
    cursor: str = "",
    now: bool = False,
    timeout: float | None = None,
    **filters: Any,
) -> "Generator[tuple[event_pb2.JobEvent, str]]":
    """Yield events with the cursor behind each, until the timeout has passed or the iterator is closed.

    Where events were removed that were not read yet, with a job that was deleted, `on_gap` is called, and what follows
    comes.

    Raises:
        OutOfRange: EVENTS_EXPIRED: what follows the cursor that was given is no longer kept.
        FinetreeError: What else `Client.watch_jobs` raises.
    """
    from finetree import FinetreeTimeout, OutOfRange

    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        stream = client.watch_jobs(cursor=cursor, now=now, timeout=left, **filters)
        try:
            with closing(stream):
                for event in stream:
                    yield event, stream.cursor
            return
        except OutOfRange as error:
            behind = error.metadata.get("cursor", "")
            if not behind or stream.cursor == cursor:
                raise
            cursor, now = behind, False
        except FinetreeTimeout as error:
            if error.reason != "TIMEOUT":
                raise
            return
        on_gap()
