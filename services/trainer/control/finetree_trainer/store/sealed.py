# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ARG002 - the signature of a TypeDecorator
"""Bytes that are stored with their checksum: a flipped bit on the disk is found when they are read, and named.

SQLite checks the form of its pages and nothing of their content, and a damaged protobuf message often parses.
"""

import zlib
from typing import Any

from finetree_runtime.errors import FailedPrecondition
from sqlalchemy import Dialect, LargeBinary, TypeDecorator

CHECKSUM_BYTES = 4


class Damaged(bytes):
    """What is read in place of bytes whose checksum does not fit: empty."""


class Sealed(TypeDecorator[bytes]):
    """A column of bytes, each value followed by its CRC-32 (big endian)."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: bytes | None, dialect: Dialect) -> bytes | None:
        """Append the checksum."""
        return None if value is None else seal(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> bytes | None:
        """Remove the checksum, or return Damaged."""
        return None if value is None else unseal(value)


def seal(content: bytes) -> bytes:
    """Append the checksum to bytes."""
    return content + zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "big")


def unseal(stored: Any) -> bytes:
    """Return bytes without their checksum; Damaged where it does not fit, or where the value is no bytes at all."""
    if not isinstance(stored, bytes | memoryview):
        return Damaged()
    content, checksum = bytes(stored[:-CHECKSUM_BYTES]), bytes(stored[-CHECKSUM_BYTES:])
    return content if zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "big") == checksum else Damaged()


def record_damaged(what: str) -> FailedPrecondition:
    """Build the error for something whose record is damaged, for example "job 0192"."""
    return FailedPrecondition(
        "RECORD_DAMAGED",
        f"The record of {what} is damaged on disk; restore the trainer's data from a backup.",
        metadata={"resource": what},
    )
