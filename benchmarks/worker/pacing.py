# SPDX-License-Identifier: Apache-2.0
"""How the two sides of a benchmark take turns: step by step, so that what else the machine does hits both.

A side says a line of JSON on its standard output, after `MARK`, when it is ready and after every step, and then reads
one line from its standard input before it goes on. Only one of them works at a time. Imports nothing but the standard
library: the peer's environment has no part of this project.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

MARK = "@pacing "
"""Before what is meant for the driver; libraries print too."""


class Pacer:
    """The side's end of the conversation, and the clock of its steps: what passes, and what the process computes."""

    def __init__(self) -> None:
        self._started, self._cpu_started = time.perf_counter(), time.process_time()

    def tell(self, kind: str, **values: Any) -> None:
        """Say something to the driver."""
        print("\n" + MARK + json.dumps({"kind": kind, **values}), flush=True)

    def ready(self) -> None:
        """Everything before the first step is done: say so and wait for the word."""
        self._wait("ready")

    def step(self, **values: Any) -> None:
        """A step is done: say what it took, and wait for the word."""
        seconds, cpu_seconds = time.perf_counter() - self._started, time.process_time() - self._cpu_started
        self._wait("step", seconds=seconds, cpu_seconds=cpu_seconds, **values)

    def _wait(self, kind: str, **values: Any) -> None:
        self.tell(kind, **values)
        if not sys.stdin.readline():
            sys.exit("the driver is gone")
        self._started, self._cpu_started = time.perf_counter(), time.process_time()


def settings() -> dict[str, Any]:
    """The settings in the file that is the first argument."""
    found: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return found


def peak_bytes() -> int:
    """Largest resident memory of this process so far (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
