# SPDX-License-Identifier: Apache-2.0
"""The lines of an audit log, each with the hash of the one before.

A record is one line of ASCII JSON, whose last three members are

    …,"prev":"<hash of the record before>","hash":"<SHA-256 of this line up to and with prev, and a closing brace>"}

so that `sha256sum` and a text editor are enough to check one by hand. The first record of a log has `START` as `prev`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

START = "0" * 64
"""`prev` of the first record."""
TORN = "torn"
"""`event` of the record that follows a line which was cut off: it has the hash of those bytes."""

_HASH_LENGTH = len(START)
_TAIL_LENGTH = len(b',"hash":"') + _HASH_LENGTH + len(b'"}')


class Position(NamedTuple):
    """Where a chain stands: the number of its last record, and that record's hash."""

    seq: int = 0
    hash: str = START


def seal(fields: Mapping[str, Any], after: Position) -> tuple[bytes, Position]:
    """Build the line of the record after a position, line end included, and the position that it makes."""
    seq = after.seq + 1
    document = {"seq": seq, **fields, "prev": after.hash}
    body = json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii")
    digest = hashlib.sha256(body).hexdigest()
    return body[:-1] + f',"hash":"{digest}"}}\n'.encode("ascii"), Position(seq, digest)


def position_of(line: bytes) -> Position | None:
    """Position that a line without its line end makes; None where it is no record, or its hash is not its own."""
    body, tail = line[:-_TAIL_LENGTH] + b"}", line[-_TAIL_LENGTH:]
    digest = hashlib.sha256(body).hexdigest()
    if tail != f',"hash":"{digest}"}}'.encode("ascii"):
        return None
    try:
        seq = json.loads(body)["seq"]
    except (ValueError, KeyError, TypeError):
        return None
    return Position(seq, digest) if type(seq) is int else None
