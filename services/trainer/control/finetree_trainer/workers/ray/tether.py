# SPDX-License-Identifier: Apache-2.0
"""`python tether.py PARENT COMMAND…`: becomes the command, and is killed by the kernel as soon as its parent ends.

The parent is the actor that stands for the worker: with it Ray has given the worker's resources to others. Run as a
file, with the standard library alone.
"""

import ctypes
import os
import signal
import sys

_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2); it stays over execve(2)."""


def main() -> None:
    """Tie this process to its parent, and become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)  # it has ended before it was asked for
    os.execvp(command[0], command)  # noqa: S606 - the worker's program, of the settings


if __name__ == "__main__":
    main()
