# SPDX-License-Identifier: Apache-2.0
"""A watcher's place in a job's log as an opaque string: log epoch, event number and a checksum.

A client that stores its place between two events of a batch, as the SDK does, appends "~" and the number of the last
event that it has seen: to the cursor that it had before the batch, or to nothing where it had none yet.
"""

import zlib

from finetree_runtime.errors import FailedPrecondition, InvalidArgument

_PREFIX = "w1"
_SEEN = "~"


def encode(epoch: str, uid: str, seq: int) -> str:
    """The cursor after event `seq` of a job."""
    return f"{_PREFIX}.{epoch}.{seq}.{_check(epoch, uid, seq)}"


def decode(text: str, epoch: str, uid: str) -> int:
    """Read the number that a cursor stands after, with or without the number of an event seen after it.

    Raises InvalidArgument CURSOR_INVALID for a string that is not a cursor of this job, FailedPrecondition LOG_RESET
    for one from before the log was restored: its numbers may name other events now.
    """
    base, mark, seen = text.rpartition(_SEEN)
    if mark:
        if not _is_number(seen) or _SEEN in base:
            raise _invalid()
        return max(int(seen), decode(base, epoch, uid) if base else 0)
    prefix, _, rest = text.partition(".")
    theirs, _, rest = rest.partition(".")
    number, _, check = rest.partition(".")
    if prefix != _PREFIX or not _is_number(number):
        raise _invalid()
    if check != _check(theirs, uid, int(number)):
        raise _invalid()
    if theirs != epoch:
        raise FailedPrecondition(
            "LOG_RESET", "The event log was restored from a backup; watch the job from the beginning."
        )
    return int(number)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 16


def _check(epoch: str, uid: str, seq: int) -> str:
    return f"{zlib.crc32(f'{epoch}/{uid}/{seq}'.encode()):08x}"


def _invalid() -> InvalidArgument:
    text = "is not a cursor of this job; use one from a WatchJob response, or none"
    return InvalidArgument("CURSOR_INVALID", f"cursor: {text}", violations=[("cursor", text, "CURSOR_INVALID")])
