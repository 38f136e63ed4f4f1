# SPDX-License-Identifier: Apache-2.0
"""A watcher's place in the order of a project, as an opaque string.

It names the block that it stands in, the number of the last event seen of it, and a tag of that block. The tag is what
makes the place safe: where a restored backup, or a rewritten file, has another block there, the place is refused.
"""

import zlib
from dataclasses import dataclass

from finetree_runtime.errors import FailedPrecondition, InvalidArgument

_PREFIX = "p1"
_PARTS = 6


@dataclass(frozen=True, slots=True)
class Place:
    """A place after event `seq` of the block at `position`; position 0 is before every block."""

    position: int = 0
    seq: int = 0
    tag: str = "0"


def tag_of(uid: str, first_seq: int) -> str:
    """What a block is known by: the job that it is of, and the number of its first event."""
    return f"{zlib.crc32(f'{uid}/{first_seq}'.encode()):08x}"


def encode(epoch: str, project: str, place: Place) -> str:
    """The cursor of a place."""
    return f"{_PREFIX}.{epoch}.{place.position}.{place.seq}.{place.tag}.{_check(epoch, project, place)}"


def decode(text: str, epoch: str, project: str) -> Place:
    """Read a cursor.

    Raises InvalidArgument CURSOR_INVALID for a string that is not a cursor of this project, FailedPrecondition
    LOG_RESET for one of another log.
    """
    parts = text.split(".")
    if len(parts) != _PARTS or parts[0] != _PREFIX or not (_is_number(parts[2]) and _is_number(parts[3])):
        raise _invalid()
    place = Place(int(parts[2]), int(parts[3]), parts[4])
    if parts[5] != _check(parts[1], project, place):
        raise _invalid()
    if parts[1] != epoch:
        raise log_reset()
    return place


def log_reset() -> FailedPrecondition:
    """Build the error for a place that is in another log than this one."""
    return FailedPrecondition(
        "LOG_RESET", "The event log was restored from a backup; list the jobs, and watch them without a cursor."
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 16


def _check(epoch: str, project: str, place: Place) -> str:
    return f"{zlib.crc32(f'{epoch}/{project}/{place.position}/{place.seq}/{place.tag}'.encode()):08x}"


def _invalid() -> InvalidArgument:
    text = "is not a cursor of this project; use one from a WatchJobs response, or none"
    return InvalidArgument("CURSOR_INVALID", f"cursor: {text}", violations=[("cursor", text, "CURSOR_INVALID")])
