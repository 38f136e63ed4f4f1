# SPDX-License-Identifier: Apache-2.0
"""Signs of life of ranks: a counter that each raises twice a second, in a file that all of them map.

A rank that is stopped, or whose machine does not schedule it, raises none and uses no processor time. A step may take
as long as it takes: nothing here depends on that.
"""

import mmap
import os
import struct
import threading
from contextlib import suppress
from pathlib import Path

BEAT_SECONDS = 0.5
_COUNTER = struct.Struct("<Q")


class Beats:
    """The counters of all ranks."""

    def __init__(self, file: Path, count: int) -> None:
        """Map the file; whoever comes first makes it."""
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, count * _COUNTER.size)
            self._map = mmap.mmap(descriptor, count * _COUNTER.size)
        finally:
            os.close(descriptor)

    def read(self, rank: int) -> int:
        """Return a rank's counter."""
        value: int = _COUNTER.unpack_from(self._map, rank * _COUNTER.size)[0]
        return value

    def keep(self, rank: int) -> None:
        """Raise a rank's counter from now on, in a thread that ends with the process."""

        def run() -> None:
            pause, count = threading.Event(), 0
            while True:
                count += 1
                _COUNTER.pack_into(self._map, rank * _COUNTER.size, count)
                pause.wait(BEAT_SECONDS)

        threading.Thread(target=run, name="rank-beat", daemon=True).start()


def processor_ticks(pid: int) -> int:
    """Processor time that a process has used, in ticks of the system; 0 where it does not tell."""
    with suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    return 0
