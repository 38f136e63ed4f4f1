# SPDX-License-Identifier: Apache-2.0
"""The journal of an attempt: its events on disk, kept until the service has them in its log."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from finetree_api.worker.v1 import worker_pb2
from finetree_data.durable_files import make_folder, sync_folder
from finetree_data.exchange.journal import FILE_NAME, Record, encode, read
from finetree_data.fail_points import fail_point

RESERVE_NAME = "journal.reserve"
"""Name of the file whose space the last records get when the disk is full."""
RESERVE_BYTES = 256 * 1024
"""Size of that file."""
OUTCOME_BYTES = RESERVE_BYTES // 2
"""Share of the reserve that only the last record may use, since it says how the task ended."""


class Journal:
    """File of an attempt's events. `append` belongs to one thread; `after` and `batch` may be called from another.

    Once `append` returns, the operating system has the events: a killed worker loses none. With `durable` they are on
    the disk as well.
    """

    def __init__(self, folder: Path) -> None:
        """Open or create the journal in `folder`: truncate a torn tail, number on after the last record.

        Raises OSError.
        """
        make_folder(folder)
        self._fd = os.open(folder / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._path = folder / FILE_NAME
        self._reader = self._path.open("rb", buffering=0)
        self._end, self._last_seq = 0, 0
        with self._path.open("rb") as stream:
            for record in read(stream):
                self._end, self._last_seq = record.end, record.event.worker_seq
        os.ftruncate(self._fd, self._end)
        self._reserve = folder / RESERVE_NAME
        with suppress(OSError):
            self._reserve.write_bytes(b"\0" * RESERVE_BYTES)
        sync_folder(folder)

    @property
    def last_seq(self) -> int:
        """Number of the newest event; 0 for none."""
        return self._last_seq

    @property
    def end(self) -> int:
        """Size of the whole records in bytes."""
        return self._end

    def append(self, events: Iterable[worker_pb2.WorkerEvent], *, durable: bool) -> None:
        """Number the events and write them in one go. Raises OSError, with none of them in the journal."""
        chunk, seq = bytearray(), self._last_seq
        for event in events:
            seq += 1
            event.worker_seq = seq
            chunk += encode(event)
        fail_point("journal.before_write")
        try:
            self._write(bytes(chunk))
            if durable:
                fail_point("journal.before_sync")
                os.fdatasync(self._fd)
                fail_point("journal.after_sync")
        except OSError:
            os.ftruncate(self._fd, self._end)
            raise
        self._end += len(chunk)
        # The reading thread looks at the number first, so the bytes must be there before it.
        self._last_seq = seq

    def _write(self, chunk: bytes) -> None:
        written = 0
        while written < len(chunk):
            written += os.pwrite(self._fd, chunk[written:], self._end + written)

    def release_reserve(self, *, keep: int = 0) -> None:
        """Free the reserved disk space but for `keep` bytes: the last records on a full disk need it."""
        with suppress(OSError):
            if keep:
                os.truncate(self._reserve, min(keep, self._reserve.stat().st_size))
            else:
                self._reserve.unlink(missing_ok=True)

    def after(self, worker_seq: int) -> int:
        """Return the offset of the first record newer than `worker_seq`."""
        offset = 0
        with self._path.open("rb") as stream:
            for record in read(stream):
                if record.event.worker_seq > worker_seq:
                    break
                offset = record.end
        return offset

    def batch(self, offset: int, max_bytes: int) -> list[Record]:
        """Return records from `offset` on, of about `max_bytes` together; at least one where there is one."""
        found: list[Record] = []
        size, end = 0, self._end
        if offset >= end:
            return found
        for record in read(self._reader, offset):
            found.append(record)
            size += record.size
            if size >= max_bytes or record.end >= end:
                break
        return found

    def close(self) -> None:
        """Flush to disk and close; the reserve is deleted, the journal stays for the service."""
        with suppress(OSError):
            os.fsync(self._fd)
        os.close(self._fd)
        self._reader.close()
        self.release_reserve()
