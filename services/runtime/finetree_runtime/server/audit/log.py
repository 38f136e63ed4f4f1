# SPDX-License-Identifier: Apache-2.0
"""The audit log of a running service: records go to a thread, which writes and flushes them in groups.

A record is in the file milliseconds after it was noted, and on the disk a second later: a killed process loses what the
thread has not written, a power cut a second. Who must not lose a record waits for it (`AuditLog.durable`).
Where the disk takes nothing, records wait in memory, `MAX_WAITING` at most, and are written when it does again; a
record of its own then says how many were lost.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetree_runtime.errors import Unavailable
from finetree_runtime.server.audit.files import AuditFiles
from finetree_runtime.server.logging import get_logger

SYNC_SECONDS = 1.0
"""Longest time from the write of a record to its flush to the disk."""
RETRY_SECONDS = 1.0
"""Time between two tries where the disk takes nothing."""
MAX_WAITING = 10_000
"""Records that wait in memory for a disk that takes nothing: about 10 MB."""

_Item = tuple[Mapping[str, Any], "Future[None] | None"]


class AuditLog:
    """Writes records from any thread, in the order in which they were noted."""

    def __init__(self, files: AuditFiles) -> None:
        """Begin to write. Raises OSError where the files cannot be read or written."""
        files.open()
        self._files = files
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._waiting: deque[Mapping[str, Any]] = deque()
        self._lost = 0
        self.lost = 0
        """Records that were lost since the service began."""
        self._failing = False
        self._unsynced_since: float | None = None
        self._thread = threading.Thread(target=self._loop, name="audit", daemon=True)
        self._thread.start()

    @classmethod
    def at(cls, folder: Path, file_bytes: int) -> AuditLog:
        """Write to a folder, in files of about `file_bytes`. Raises OSError, FolderInUseError."""
        return cls(AuditFiles(folder, file_bytes))

    def note(self, event: str, fields: Mapping[str, Any]) -> None:
        """Add a record, which is written a little later."""
        self._queue.put((stamped(event, fields), None))

    async def durable(self, event: str, fields: Mapping[str, Any]) -> None:
        """Add a record and wait until it is on the disk. Raises Unavailable AUDIT_UNAVAILABLE."""
        future: Future[None] = Future()
        self._queue.put((stamped(event, fields), future))
        await asyncio.wrap_future(future)

    @property
    def waiting(self) -> int:
        """Records that the disk has not taken yet."""
        return len(self._waiting)

    def close(self) -> None:
        """Write what was noted, flush it, and end the thread."""
        self._queue.put(None)
        self._thread.join()
        self._files.close()

    def _loop(self) -> None:
        open_ = True
        while open_:
            items, open_ = self._next()
            for fields, future in items:
                if future is None:
                    self._keep(fields)
            self._flush_waiting()
            self._write_durably([(fields, future) for fields, future in items if future is not None])
            self._sync_if_due(now=not open_)

    def _next(self) -> tuple[list[_Item], bool]:
        """Wait for records, or until something else is due; return them, and whether there can be more."""
        due = RETRY_SECONDS if self._waiting else None
        if self._unsynced_since is not None:
            due = max(0.0, self._unsynced_since + SYNC_SECONDS - time.monotonic())
        items: list[_Item] = []
        try:
            item = self._queue.get(timeout=due)
            while item is not None:
                items.append(item)
                item = self._queue.get_nowait()
        except queue.Empty:
            return items, True
        return items, False

    def _keep(self, fields: Mapping[str, Any]) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._lost += 1
            self.lost += 1
        else:
            self._waiting.append(fields)

    def _flush_waiting(self) -> None:
        if not self._waiting:
            return
        try:
            self._open_again()
            lost = [stamped("lost", {"count": self._lost})] if self._lost else []
            self._append([*self._waiting, *lost])
        except OSError as error:
            self._report(error)
            return
        self._waiting.clear()
        self._lost = 0

    def _write_durably(self, items: list[tuple[Mapping[str, Any], Future[None]]]) -> None:
        items = [item for item in items if item[1].set_running_or_notify_cancel()]
        if not items:
            return
        try:
            self._open_again()
            if not self._waiting:  # else the disk took nothing a moment ago, and a chain is in the order of its calls
                self._append([fields for fields, _ in items])
                self._sync()
        except OSError as error:
            self._report(error)
            self._files.give_up()
            for _, future in items:
                future.set_exception(unavailable())
            return
        for _, future in items:
            if self._waiting:
                future.set_exception(unavailable())
            else:
                future.set_result(None)

    def _open_again(self) -> None:
        """After a failure, leave out those records of before that the file has after all."""
        for _ in range(min(self._files.open(), len(self._waiting))):
            self._waiting.popleft()

    def _append(self, records: list[Mapping[str, Any]]) -> None:
        self._files.append(records)
        if self._unsynced_since is None:
            self._unsynced_since = time.monotonic()
        if self._failing:
            self._failing = False
            get_logger().warning("audit_writable_again")

    def _sync_if_due(self, *, now: bool) -> None:
        since = self._unsynced_since
        if since is not None and (now or time.monotonic() - since >= SYNC_SECONDS):
            try:
                self._sync()
            except OSError as error:
                self._report(error)

    def _sync(self) -> None:
        self._unsynced_since = None
        self._files.sync()

    def _report(self, error: OSError) -> None:
        if not self._failing:
            self._failing = True
            get_logger().error("audit_unwritable", error=error.strerror or str(error))


def stamped(event: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Build a record of now."""
    return {"time": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"), "event": event} | dict(
        fields
    )


def unavailable() -> Unavailable:
    """Build the error for a change that is refused because it could not be recorded."""
    text = "The audit log cannot be written, and nothing may change without it; nothing was done. Try again later."
    return Unavailable("AUDIT_UNAVAILABLE", text, retry_delay=5.0)
