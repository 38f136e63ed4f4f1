# SPDX-License-Identifier: Apache-2.0
"""Limits on what rendering and tokenizing a block of rows may cost: templates and tokenizers are other people's code.

A chat template is a program that can loop for hours and build a text of gigabytes, and a tokenizer's regular expression
can take minutes for a row, or for ever. A block has at most 512 rows and about a million characters, which take less
than a hundredth of the limits.

A signal's handler runs between two instructions of Python. What stays in a library's code all the time, such as a
pattern that tries out everything, is ended with its process by the kernel, after twice the time.
"""

import math
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Never

from finetree_worker.errors import DataError, PlanError

BLOCK_SECONDS = 60.0
"""Processor time of a block, over all threads: so that a busy machine costs no run."""
BLOCK_BYTES = 2 << 30
"""Memory that a block may take beyond what the process has."""


CALL_SECONDS = 10.0
"""Processor time of a single conversation or prompt, which takes some milliseconds."""

AGAIN_SECONDS = 2.0
"""Least processor time from one signal of the timer to the next."""

GRACE_SECONDS = 5.0
"""Processor time until the kernel ends a process, beside twice the time that is allowed."""


class BlockLimits:
    """The limits of one file's blocks, while `limited` holds; without `hold` nothing is limited."""

    def __init__(self, *, hold: bool) -> None:
        self.first_row = 1
        self._hold = hold

    def begin(self, first_row: int) -> None:
        """Begin a block, which gets the limits anew; errors name its first row."""
        self.first_row = first_row
        if not self._hold:
            return
        _begin_timer(BLOCK_SECONDS)
        _limit_data()
        _end_after(2 * BLOCK_SECONDS + GRACE_SECONDS)

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

    try:
        with _restored(too_slow):
            _limit_data()  # reading the first rows counts, too
            yield limits
    except MemoryError as error:
        raise limits.refusal(f"{BLOCK_BYTES >> 30} GiB of memory") from error


def held() -> bool:
    """Whether limits hold now."""
    return signal.getitimer(signal.ITIMER_PROF)[0] > 0


@contextmanager
def limited_call(what: str) -> Iterator[None]:
    """Hold limits while one text is rendered or tokenized, unless others hold. Raises PlanError TOKENIZATION_LIMIT.

    `what` is the beginning of the error's text, such as "Rendering these messages". On another thread than the main one
    nothing is limited.
    """
    if held() or threading.current_thread() is not threading.main_thread():
        yield
        return

    def refusal(limit: str) -> PlanError:
        return PlanError(
            "TOKENIZATION_LIMIT",
            f"{what} took more than {limit}.",
            field="model",
            remedy="Check the model's chat template and tokenizer, which come with the model.",
        )

    def too_slow(_number: int, _frame: FrameType | None) -> Never:
        raise refusal(f"{CALL_SECONDS:g} s of processor time")

    try:
        with _restored(too_slow):
            _begin_timer(CALL_SECONDS)
            _limit_data()
            _end_after(2 * CALL_SECONDS + GRACE_SECONDS)
            yield
    except MemoryError as error:
        raise refusal(f"{BLOCK_BYTES >> 30} GiB of memory") from error


@contextmanager
def _restored(too_slow: Callable[[int, FrameType | None], Never]) -> Iterator[None]:
    """Handle the timer's signal by `too_slow` in the block; put the handler and all limits back afterwards."""
    over = False

    def handle(number: int, frame: FrameType | None) -> None:
        if not over:  # else it would raise below, where limits are put back
            too_slow(number, frame)

    handler = signal.signal(signal.SIGPROF, handle)
    memory, processor = (resource.getrlimit(which) for which in (resource.RLIMIT_DATA, resource.RLIMIT_CPU))
    try:
        try:
            yield
        finally:
            over = True
    finally:
        over = True  # a signal may have come before the first of these; the next one is seconds away
        signal.setitimer(signal.ITIMER_PROF, 0)
        # Ignored first, which drops one that is on its way to another thread: the usual handler would end the process.
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
        signal.signal(signal.SIGPROF, handler)
        resource.setrlimit(resource.RLIMIT_DATA, memory)
        resource.setrlimit(resource.RLIMIT_CPU, processor)


def _begin_timer(seconds: float) -> None:
    # Again after a while, in which files can be closed: an exception that a handler raises in a destructor is lost.
    signal.setitimer(signal.ITIMER_PROF, seconds, max(seconds / 4, AGAIN_SECONDS))


def _limit_data() -> None:
    """Let the process have BLOCK_BYTES more than it has now."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = _data_bytes() + BLOCK_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _end_after(seconds: float) -> None:
    """Have the kernel end the process by SIGXCPU when it has used so much more processor time."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(usage.ru_utime + usage.ru_stime + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _data_bytes() -> int:
    """Private writable memory of this process in bytes: what RLIMIT_DATA limits (proc(5), VmData)."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    line = next((line for line in status.splitlines() if line.startswith("VmData:")), "")
    return int(line.split()[1]) * 1024 if line else BLOCK_BYTES * 8
