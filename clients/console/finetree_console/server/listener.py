# SPDX-License-Identifier: Apache-2.0
"""The address that is listened on, and the line that says so."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path

from finetree import __version__

from finetree_console.settings import Settings, SettingsError

BACKLOG = 512


def bind(settings: Settings) -> socket.socket:
    """Bind the address of the settings.

    Raises:
        SettingsError: ADDRESS_UNAVAILABLE.
    """
    try:
        family, kind, number, _, place = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, number)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(place)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        why = "another program uses it" if error.errno == errno.EADDRINUSE else error.strerror or "no such address"
        text = f"cannot listen on {settings.host}:{settings.port}: {why}; give another --address"
        raise SettingsError("ADDRESS_UNAVAILABLE", text) from None
    return listener


def address_of(listener: socket.socket) -> str:
    """HOST:PORT of a socket, with an IPv6 host in brackets."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def announce(address: str, ready_file: Path | None) -> None:
    """Write the ready line, JSON with the bound address: to stdout, or to a file that appears complete."""
    document = {"service": "finetree-console", "version": __version__, "address": address, "pid": os.getpid()}
    line = json.dumps(document)
    if ready_file is None:
        print(line, flush=True)  # noqa: T201  # the one line of standard output
        return
    scratch = ready_file.with_name(f"{ready_file.name}.{os.getpid()}")
    scratch.write_text(line + "\n", encoding="utf-8")
    scratch.replace(ready_file)
