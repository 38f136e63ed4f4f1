# SPDX-License-Identifier: Apache-2.0
"""Replies that are serialized already: one message of a stream that many clients get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class SerializedReply:
    """The bytes of a message of the rpc's reply type; a handler gives it to gRPC in place of the message."""

    content: bytes


def or_serialized(serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes] | None:
    """Return a serializer that takes a SerializedReply as it is."""
    if serialize is None:
        return None

    def serialized(message: Any) -> bytes:
        return message.content if isinstance(message, SerializedReply) else serialize(message)

    return serialized
