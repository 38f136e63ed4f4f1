# SPDX-License-Identifier: Apache-2.0
"""What makes two requests the same one."""

import hashlib

from google.protobuf.message import Message


def body_hash(request: Message, *without: str) -> str:
    """SHA-256 of a request without the named fields; map order does not matter, and no client's encoding does."""
    body = type(request)()
    body.CopyFrom(request)
    for field in without:
        body.ClearField(field)
    return hashlib.sha256(body.SerializeToString(deterministic=True)).hexdigest()
