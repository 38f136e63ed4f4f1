# SPDX-License-Identifier: Apache-2.0
"""Parts of messages as bytes of the wire: those that recur are kept, and joined they are a message.

An answer has dozens of small messages. Made one by one, each costs several calls into protobuf, and is copied on its
way into the answer; most of them are the same in the next one.
"""

from functools import cache, lru_cache

from google.protobuf.message import Message

_DELIMITED = 2
"""Wire type of strings and messages (protobuf encoding, "Message Structure")."""


@cache
def key(message: type[Message], name: str) -> bytes:
    """What stands on the wire before a field that holds a message or a string."""
    return varint(message.DESCRIPTOR.fields_by_name[name].number << 3 | _DELIMITED)


def delimited(before: bytes, body: bytes) -> bytes:
    """A field that holds a message or a string; `before` is its `key`."""
    return before + varint(len(body)) + body


@lru_cache(maxsize=8192)
def varint(number: int) -> bytes:
    """A number in groups of seven bits, the lowest first; all but the last have the top bit set."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
