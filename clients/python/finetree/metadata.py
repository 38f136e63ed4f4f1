# SPDX-License-Identifier: Apache-2.0
"""Metadata of the calls of a block of code, for programs that pass on what their own callers sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_CURRENT: ContextVar[Mapping[str, str]] = ContextVar("finetree_call_metadata")


@contextmanager
def call_metadata(entries: Mapping[str, str]) -> Iterator[None]:
    """Send these metadata entries with every call made inside, in place of the client's own of the same name.

    For a gateway, whose calls carry the credentials, the request id and the trace of whom they are made for:

        with finetree.call_metadata({"authorization": header, "x-request-id": request_id}):
            await client.create_job(…)

    They belong to the running thread or task, and to the tasks that it starts inside.

    Args:
        entries: keys in small letters, values in printable ASCII.
    """
    token = _CURRENT.set({**current(), **entries})
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current() -> Mapping[str, str]:
    """Entries of the block that runs; empty outside of any."""
    return _CURRENT.get({})
