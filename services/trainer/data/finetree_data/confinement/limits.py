# SPDX-License-Identifier: Apache-2.0
"""Limits of resources: no memory images on the disk, no file that fills it, first to go when memory is short."""

import resource
from pathlib import Path

MAX_OPEN_FILES = 65536
OOM_SCORE = 500
"""Added to a worker's score (proc(5), oom_score_adj; 1000 is all memory): out of memory, the kernel ends the worker and
not the service, whose own share of the memory is far below a half."""


def limit(max_file_bytes: int) -> str:
    """Set the limits for this process and all that it starts; return what could not be set, empty where all could.

    Address space is not limited: a GPU's driver reserves more of it than any machine has memory. Processes are not
    either: the limit counts all of a user's.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    if max_file_bytes:
        _lower(resource.RLIMIT_FSIZE, max_file_bytes)
    try:
        score = Path("/proc/self/oom_score_adj")
        if int(score.read_text(encoding="ascii")) < OOM_SCORE:
            score.write_text(str(OOM_SCORE), encoding="ascii")
    except (OSError, ValueError) as error:
        return f"oom_score_adj: {getattr(error, 'strerror', None) or error}"
    return ""


def _lower(which: int, value: int) -> None:
    soft, hard = resource.getrlimit(which)
    unlimited = resource.RLIM_INFINITY
    value = value if hard == unlimited else min(value, hard)
    resource.setrlimit(which, (value if soft == unlimited else min(soft, value), value))
