# SPDX-License-Identifier: Apache-2.0
"""Identifiers: time-ordered ids and resource names."""

from __future__ import annotations

import os
import re
import secrets
import struct
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from finetree_runtime.errors import invalid_field

DEFAULT_PROJECT = "default"
"""The project of names that state none."""

_SEGMENT = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")
_lock = threading.Lock()
_last = 0
_POOL_BYTES = 4096
"""Random bytes that are fetched at once: every call of a service needs an id, and the system is asked for each else."""
_pool: Iterator[tuple[int]] = iter(())


def uuid7() -> uuid.UUID:
    """A version 7 UUID (RFC 9562): 48 bits of milliseconds, 12 bits of their fraction, 62 random bits.

    Ids of one process are strictly increasing, those of several are ordered as well as their clocks agree.
    """
    return uuid.UUID(int=_uuid7())


def uuid7_text() -> str:
    """A version 7 UUID in its usual form; cheaper than by way of the object, for what every call needs one of."""
    digits = f"{_uuid7():032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _uuid7() -> int:
    global _last, _pool  # noqa: PLW0603  # what makes ids of a process increase, and what makes them unknowable
    with _lock:
        nanoseconds = time.time_ns()
        ticks = nanoseconds // 1_000_000 << 12 | (nanoseconds % 1_000_000) * 4096 // 1_000_000
        _last = ticks = max(ticks, _last + 1)
        drawn = next(_pool, None)
        if drawn is None:
            _pool = struct.iter_unpack("Q", secrets.token_bytes(_POOL_BYTES))
            drawn = next(_pool)
    return (ticks >> 12) << 80 | 0x7 << 76 | (ticks & 0xFFF) << 64 | 0b10 << 62 | drawn[0] >> 2


def _forget_pool() -> None:
    global _pool  # noqa: PLW0603  # the parent draws from the same one
    _pool = iter(())


os.register_at_fork(after_in_child=_forget_pool)


@dataclass(frozen=True, slots=True)
class ResourceName:
    """`projects/{project}/{collection}/{id}`, for example projects/default/jobs/0192."""

    project: str
    collection: str
    id: str

    def __str__(self) -> str:
        return f"projects/{self.project}/{self.collection}/{self.id}"

    def child(self, collection: str, child_id: str | int) -> str:
        """The name of something inside, for example of an artifact of a job."""
        return f"{self}/{collection}/{child_id}"


def parse_name(text: str, collection: str, *, field_path: str = "name", project: str = DEFAULT_PROJECT) -> ResourceName:
    """Read a full name, or a short id, which then belongs to `project`.

    Raises:
        InvalidArgument: INVALID_NAME with the field.
    """
    parts = text.split("/")
    if len(parts) == 1:
        parts = ["projects", project, collection, text]
    fits = len(parts) == 4 and parts[0] == "projects" and parts[2] == collection
    if not fits or not _SEGMENT.fullmatch(parts[1]) or not _SEGMENT.fullmatch(parts[3]):
        wanted = f'must be "projects/{{project}}/{collection}/{{id}}" or an id of a-z, 0-9, ".", "_" and "-"'
        raise invalid_field(field_path, wanted, "INVALID_NAME")
    return ResourceName(parts[1], collection, parts[3])


def parse_child(
    text: str, collection: str, child_collection: str, *, field_path: str = "name", project: str = DEFAULT_PROJECT
) -> tuple[ResourceName, str]:
    """Read the name of something inside a resource: `{name of the resource}/{child_collection}/{child}`.

    Raises:
        InvalidArgument: INVALID_NAME with the field.
    """
    parent, _, rest = text.rpartition(f"/{child_collection}/")
    if not parent or not _SEGMENT.fullmatch(rest):
        wanted = f'must be "projects/{{project}}/{collection}/{{id}}/{child_collection}/{{id}}"'
        raise invalid_field(field_path, wanted, "INVALID_NAME")
    return parse_name(parent, collection, field_path=field_path, project=project), rest


def parse_parent(text: str, *, field_path: str = "parent", project: str = DEFAULT_PROJECT) -> str:
    """The project's id from `projects/{project}`; empty text means `project`.

    Raises:
        InvalidArgument: INVALID_NAME with the field.
    """
    if not text:
        return project
    prefix, _, name = text.partition("/")
    if prefix != "projects" or not _SEGMENT.fullmatch(name):
        raise invalid_field(field_path, 'must be "projects/{project}" or empty', "INVALID_NAME")
    return name
