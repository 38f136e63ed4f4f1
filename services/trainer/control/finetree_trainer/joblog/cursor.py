# SPDX-License-Identifier: Apache-2.0
"""A watcher's place in a job's log as an opaque string: log epoch, event number and a checksum."""

import zlib

from finetree_runtime.errors import FailedPrecondition, InvalidArgument

_PREFIX = "w1"


def encode(epoch: str, uid: str, seq: int) -> str:
    """The cursor after event `seq` of a job."""
    return f"{_PREFIX}.{epoch}.{seq}.{_check(epoch, uid, seq)}"


def decode(text: str, epoch: str, uid: str) -> int:
    """Read the number that a cursor stands after.

    Raises InvalidArgument CURSOR_INVALID for a string that is not a cursor of this job, FailedPrecondition LOG_RESET
    for one from before the log was restored: its numbers may name other events now.
    """
    prefix, _, rest = text.partition(".")
    theirs, _, rest = rest.partition(".")
    number, _, check = rest.partition(".")
    if prefix != _PREFIX or not number.isascii() or not number.isdigit() or len(number) > 16:
        raise _invalid()
    if check != _check(theirs, uid, int(number)):
        raise _invalid()
    if theirs != epoch:
        raise FailedPrecondition(
            "LOG_RESET", "The event log was restored from a backup; watch the job from the beginning."
        )
    return int(number)


def _check(epoch: str, uid: str, seq: int) -> str:
    return f"{zlib.crc32(f'{epoch}/{uid}/{seq}'.encode()):08x}"


def _invalid() -> InvalidArgument:
    text = "is not a cursor of this job; use one from a WatchJob response, or none"
    return InvalidArgument("CURSOR_INVALID", f"cursor: {text}", violations=[("cursor", text, "CURSOR_INVALID")])
