# SPDX-License-Identifier: Apache-2.0
"""Limits on what rendering and tokenizing a block of rows may cost: templates and tokenizers are other people's code.

A chat template is a program that can loop for hours and build a text of gigabytes, and a tokenizer's regular expression
can take minutes for a row. A block has at most 512 rows and about a million characters, which take less than a
hundredth of the limits.
"""

import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Never

from finetree_worker.errors import DataError

BLOCK_SECONDS = 60.0
"""Processor time of a block, over all threads: so that a busy machine costs no run."""
BLOCK_BYTES = 2 << 30
"""Memory that a block may take beyond what the process has."""


class BlockLimits:
    """The limits of one file's blocks, while `limited` holds; without `hold` nothing is limited."""

    def __init__(self, *, hold: bool) -> None:
        self.first_row = 1
        self._hold = hold
        self._hard = resource.getrlimit(resource.RLIMIT_DATA)[1]

    def begin(self, first_row: int) -> None:
        """Begin a block, which gets the limits anew; errors name its first row."""
        self.first_row = first_row
        if not self._hold:
            return
        signal.setitimer(signal.ITIMER_PROF, BLOCK_SECONDS)
        soft = _data_bytes() + BLOCK_BYTES
        if self._hard != resource.RLIM_INFINITY:
            soft = min(soft, self._hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, self._hard))

    def refusal(self, what: str) -> DataError:
        """Build the error for a block that has reached a limit."""
        row = self.first_row
        return DataError(
            "TOKENIZATION_LIMIT",
            f"Rendering and tokenizing the rows from row {row} on took more than {what}.",
            field=f"dataset[{row}]",
            remedy="Check the model's chat template and tokenizer, which come with the model; or split very long rows.",
            row=row,
        )


@contextmanager
def limited() -> Iterator[BlockLimits]:
    """Hold the limits while a file is tokenized. Raises DataError TOKENIZATION_LIMIT.

    Signals reach the main thread alone; on another one (a test, a program of one's own) nothing is limited.
    """
    in_main = threading.current_thread() is threading.main_thread()
    limits = BlockLimits(hold=in_main)
    if not in_main:
        yield limits
        return

    def too_slow(_number: int, _frame: FrameType | None) -> Never:
        raise limits.refusal(f"{BLOCK_SECONDS:g} s of processor time")

    handler, memory = signal.signal(signal.SIGPROF, too_slow), resource.getrlimit(resource.RLIMIT_DATA)
    try:
        yield limits
    except MemoryError as error:
        raise limits.refusal(f"{BLOCK_BYTES >> 30} GiB of memory") from error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        resource.setrlimit(resource.RLIMIT_DATA, memory)


def _data_bytes() -> int:
    """Private writable memory of this process in bytes: what RLIMIT_DATA limits (proc(5), VmData)."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    line = next((line for line in status.splitlines() if line.startswith("VmData:")), "")
    return int(line.split()[1]) * 1024 if line else BLOCK_BYTES * 8
