# SPDX-License-Identifier: Apache-2.0
"""Bearer tokens that are read again: from a file that changes, a command whose answer expires, or a caller's function.

A token is read on the first call, kept, and read again when it expires (a JSON Web Token says when), when its file
has changed, and when a service answers UNAUTHENTICATED.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from finetree.config.file import file_stamp, parse_config, wrong
from finetree.errors import Unauthenticated

COMMAND_SECONDS = 30.0
"""Longest time that a command may take."""
BEFORE_EXPIRY = 30.0
"""Seconds before its expiry from which a token is read again."""
FRESH = 30.0
"""Seconds after a reading within which a refused token is wrong rather than old."""


class TokenSource(Protocol):
    """Where a token comes from."""

    def read(self) -> str:
        """Read the token; may block."""

    def stamp(self) -> object:
        """Something that differs when the token may have changed; must be quick."""

    def without_secrets(self) -> TokenSource | None:
        """A copy that may be pickled; None where nothing would be left of it."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """A token that the caller gave. It does not pickle."""

    value: str = field(repr=False)

    def read(self) -> str:
        """Return it."""
        return self.value

    def stamp(self) -> object:
        """It never changes."""
        return None

    def without_secrets(self) -> TokenSource | None:
        """Nothing is left."""
        return None


@dataclass(frozen=True, slots=True)
class Variable:
    """A token in the environment, read again in the process that unpickles it."""

    name: str

    def read(self) -> str:
        """Read the variable."""
        return os.environ.get(self.name, "")

    def stamp(self) -> object:
        """It changes only when a service refuses it."""
        return None

    def without_secrets(self) -> TokenSource | None:
        """The name is no secret."""
        return self


@dataclass(frozen=True, slots=True)
class InProfile:
    """A token that stands in the configuration file itself."""

    path: Path
    profile: str

    def read(self) -> str:
        """Read the profile as it is now."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise wrong(self.path, 0, "token", "cannot be read any more") from None
        return str(parse_config(self.path, text).profile(self.profile).get("token", ""))

    def stamp(self) -> object:
        """It changes only when a service refuses it."""
        return None

    def without_secrets(self) -> TokenSource | None:
        """The place is no secret."""
        return self


@dataclass(frozen=True, slots=True)
class InFile:
    """A token in a file of its own, such as one that a Kubernetes kubelet or an agent rotates."""

    path: Path

    def read(self) -> str:
        """Read the file."""
        try:
            return self.path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise unavailable(f"token_file {self.path} cannot be read: {why}") from None

    def stamp(self) -> object:
        """Time, size and place of the file."""
        return file_stamp(self.path)

    def without_secrets(self) -> TokenSource | None:
        """The path is no secret."""
        return self


@dataclass(frozen=True, slots=True)
class OfCommand:
    """A token that a command prints."""

    words: tuple[str, ...]

    def read(self) -> str:
        """Run the command, without a shell."""
        name = f"token_command {self.words[0]!r}"
        try:
            ended = subprocess.run(
                self.words,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise unavailable(f"{name} did not end within {COMMAND_SECONDS:g} s") from None
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it did not print UTF-8"
            raise unavailable(f"{name} cannot be run: {why}") from None
        if ended.returncode:
            said = (ended.stderr.strip().splitlines() or ["it printed no error"])[-1][:200]
            raise unavailable(f"{name} ended with exit code {ended.returncode}: {said}")
        return ended.stdout.strip()

    def stamp(self) -> object:
        """Running it is the only way to know."""
        return None

    def without_secrets(self) -> TokenSource | None:
        """The words stand in the environment or the configuration file."""
        return self


@dataclass(frozen=True, slots=True)
class OfFunction:
    """A token that a function of the caller returns. It does not pickle."""

    function: Callable[[], str]

    def read(self) -> str:
        """Call the function."""
        return self.function()

    def stamp(self) -> object:
        """Calling it is the only way to know."""
        return None

    def without_secrets(self) -> TokenSource | None:
        """A function may hold the token."""
        return None


class Token:
    """A bearer token. Threads may share it; it survives a fork, and pickles without the token itself."""

    def __init__(self, source: TokenSource) -> None:
        self.source = source
        self._value = ""
        self._stamp: object = None
        self._expiry: float | None = None
        self._read_at = 0.0
        self._renewed_at: float | None = None
        self._locks: dict[int, threading.Lock] = {}

    def __repr__(self) -> str:
        return f"Token({self.source!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Token) and self.source == other.source

    def __hash__(self) -> int:
        return hash(self.source)

    @property
    def kept(self) -> str:
        """The token, when it need not be read again; otherwise empty. Never blocks."""
        expired = self._expiry is not None and time.time() >= self._expiry - BEFORE_EXPIRY
        # An expired one that was read just now will not become younger.
        old = expired and time.monotonic() - self._read_at > FRESH
        return "" if old or self.source.stamp() != self._stamp else self._value

    def value(self) -> str:
        """Return the token, and read it if need be; that may block.

        Raises:
            Unauthenticated: TOKEN_UNAVAILABLE.
        """
        with self._lock():
            return self.kept or self._read()

    def renew(self, refused: str) -> bool:
        """Read again after a service refused a token, and say whether there is another one now.

        A token that was itself read because of a refusal, a moment ago, is not old but wrong: it is not read again.
        """
        with self._lock():
            if self._value != refused:
                return True
            now = time.monotonic()
            if self._renewed_at is not None and now - self._renewed_at < FRESH:
                return False
            self._renewed_at = now
            return self._read() != refused

    def without_secrets(self) -> Token | None:
        """Make a copy that may be pickled; None where only the caller knew the token."""
        bare = self.source.without_secrets()
        return None if bare is None else Token(bare)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.source.without_secrets(),)

    def _read(self) -> str:
        stamp = self.source.stamp()
        value = self.source.read()
        if not value:
            raise unavailable("the token is empty")
        if not value.isascii() or not value.isprintable() or " " in value:
            raise unavailable("the token has characters that no bearer token has, such as spaces or line ends")
        self._value, self._stamp, self._expiry = value, stamp, expiry_of(value)
        self._read_at = time.monotonic()
        return value

    def _lock(self) -> threading.Lock:
        # One for each process: a forked child cannot wait for a thread of its parent.
        return self._locks.setdefault(os.getpid(), threading.Lock())


def _unpickled(source: TokenSource | None) -> Token | None:
    return None if source is None else Token(source)


def expiry_of(token: str) -> float | None:
    """Unix time at which a JSON Web Token says that it expires; None for any other token. Nothing is verified."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    expiry = claims.get("exp") if isinstance(claims, dict) else None
    return float(expiry) if isinstance(expiry, int | float) and not isinstance(expiry, bool) else None


def unavailable(text: str) -> Unauthenticated:
    """Make the error for a token that cannot be had."""
    return Unauthenticated(text, reason="TOKEN_UNAVAILABLE")
