# SPDX-License-Identifier: Apache-2.0
"""Identifiers: UUIDs of version 7 and resource names."""

from __future__ import annotations

import re
import secrets
import threading
import time
import uuid
from dataclasses import dataclass

from finetree_runtime.errors import invalid_field

DEFAULT_PROJECT = "default"
"""Project of short names when the caller belongs to none."""

_SEGMENT = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")
_lock = threading.Lock()
_last = 0


def uuid7() -> uuid.UUID:
    """Make a version 7 UUID (RFC 9562): 48 bits of milliseconds, 12 bits of their fraction, 62 random bits.

    Ids of one process strictly increase; ids of several processes are ordered as well as their clocks agree.
    """
    global _last  # noqa: PLW0603  # what makes the ids of a process increase
    with _lock:
        nanoseconds = time.time_ns()
        ticks = nanoseconds // 1_000_000 << 12 | (nanoseconds % 1_000_000) * 4096 // 1_000_000
        _last = ticks = max(ticks, _last + 1)
    number = (ticks >> 12) << 80 | 0x7 << 76 | (ticks & 0xFFF) << 64 | 0b10 << 62 | secrets.randbits(62)
    return uuid.UUID(int=number)


@dataclass(frozen=True, slots=True)
class ResourceName:
    """`projects/{project}/{collection}/{id}`, for example projects/default/jobs/0192."""

    project: str
    collection: str
    id: str

    def __str__(self) -> str:
        return f"projects/{self.project}/{self.collection}/{self.id}"

    def child(self, collection: str, child_id: str | int) -> str:
        """Return the name of a child resource, for example of an artifact of a job."""
        return f"{self}/{collection}/{child_id}"


def parse_name(text: str, collection: str, *, field_path: str = "name", project: str = DEFAULT_PROJECT) -> ResourceName:
    """Parse a full name, or a short id, which then belongs to `project`.

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
    """Parse the name of a child resource, `{parent}/{child_collection}/{child}`, into its parent and its own id.

    Raises:
        InvalidArgument: INVALID_NAME with the field.
    """
    parent, _, rest = text.rpartition(f"/{child_collection}/")
    if not parent or not _SEGMENT.fullmatch(rest):
        wanted = f'must be "projects/{{project}}/{collection}/{{id}}/{child_collection}/{{id}}"'
        raise invalid_field(field_path, wanted, "INVALID_NAME")
    return parse_name(parent, collection, field_path=field_path, project=project), rest


def is_segment(text: str) -> bool:
    """Whether a text can be a part of a name, such as a project's id: 1 to 63 of a-z, 0-9, ".", "_" and "-"."""
    return _SEGMENT.fullmatch(text) is not None


def project_in(text: str) -> str | None:
    """Return the project of a full name or a parent; None for an id alone and for text that no name begins with."""
    prefix, _, rest = text.partition("/")
    project = rest.partition("/")[0]
    return project if prefix == "projects" and is_segment(project) else None


def parse_parent(text: str, *, field_path: str = "parent", project: str = DEFAULT_PROJECT) -> str:
    """Parse a parent, `projects/{project}`, into the project's id; empty text means `project`.

    Raises:
        InvalidArgument: INVALID_NAME with the field.
    """
    if not text:
        return project
    prefix, _, name = text.partition("/")
    if prefix != "projects" or not _SEGMENT.fullmatch(name):
        raise invalid_field(field_path, 'must be "projects/{project}" or empty', "INVALID_NAME")
    return name
