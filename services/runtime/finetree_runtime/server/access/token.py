# SPDX-License-Identifier: Apache-2.0
"""Bearer tokens: `ft_`, 43 characters of chance (256 bits in base 62) and 6 characters of checksum.

The form is `ft_[0-9A-Za-z]{49}`. A scanner for secrets finds it by that expression, and the checksum, CRC-32 of all
that comes before it, tells a token from text that only looks like one. Stored is the SHA-256 alone: of 256 random bits
a hash without salt gives nothing away.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib

PREFIX = "ft_"
TOKEN = re.compile(r"ft_[0-9A-Za-z]{49}")
"""Form of a token; docs/access.md gives it to scanners for secrets."""

_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_BITS = 256
_SECRET_CHARACTERS = 43  # 62**43 > 2**256
_CHECKSUM_CHARACTERS = 6  # 62**6 > 2**32


def make_token() -> str:
    """Make a new token."""
    body = PREFIX + _base62(secrets.randbits(_SECRET_BITS), _SECRET_CHARACTERS)
    return body + _checksum(body)


def is_token(text: str) -> bool:
    """Whether a text is a token by its form and its checksum; nothing is looked up."""
    if not TOKEN.fullmatch(text):
        return False
    return text[-_CHECKSUM_CHARACTERS:] == _checksum(text[:-_CHECKSUM_CHARACTERS])


def token_hash(token: str) -> str:
    """SHA-256 of a token in hex: what is stored, and what a token is found by."""
    return hashlib.sha256(token.encode()).hexdigest()


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECKSUM_CHARACTERS)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
