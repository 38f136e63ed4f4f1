# SPDX-License-Identifier: Apache-2.0
"""Mark of handlers that take and return bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])


def in_bytes(handler: _Function) -> _Function:
    """Mark a unary handler that takes its request as bytes, which it validates itself, and answers with bytes.

    It may be a plain function, where it waits for nothing, or return a future that is done within milliseconds.
    """
    handler.in_bytes = True  # type: ignore[attr-defined]  # functions take attributes
    return handler


def takes_bytes(handler: Callable[..., Any]) -> bool:
    """Whether a handler is one marked with `in_bytes`."""
    return bool(getattr(handler, "in_bytes", False))
