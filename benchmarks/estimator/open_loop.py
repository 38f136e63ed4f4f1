# SPDX-License-Identifier: Apache-2.0
"""Calls at a steady rate from a client that costs next to nothing, so that what is measured is the server.

A client of grpc.aio takes more time for a call than an echo server does, and on a machine of few cores the two wait for
each other. This one writes frames that were made beforehand (RFC 9113; header blocks without indexing, RFC 7541) and
reads no more of the answers than that they are complete: some 20 µs a call.
"""

import select
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0x0, 0x1, 0x4, 0x6, 0x7, 0x8
_END_STREAM, _END_HEADERS, _ACK = 0x1, 0x4, 0x1
_LARGEST_WINDOW = 2**31 - 1
_FIRST_WINDOW = 65_535
_INITIAL_WINDOW_SIZE = 0x4
"""Settings identifier of the window that each stream begins with (RFC 9113, 6.5.2)."""


class LoadError(Exception):
    """The server ended the connection, or a call failed."""


@dataclass(slots=True)
class _Connection:
    """One HTTP/2 connection, as far as unary calls need it."""

    address: str
    path: str
    link: socket.socket = field(init=False)
    headers: bytes = field(init=False)
    window: int = _FIRST_WINDOW
    """Bytes that may be sent before the server gives leave for more."""
    unread: bytearray = field(default_factory=bytearray)
    answered: dict[int, int] = field(default_factory=dict)
    """Bytes of data that came for each call that is not complete."""

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        self.link = socket.create_connection((host, int(port)))
        self.link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.headers = _header_block(self.path, self.address)
        settings = struct.pack(">HI", _INITIAL_WINDOW_SIZE, _LARGEST_WINDOW)
        more = struct.pack(">I", _LARGEST_WINDOW - _FIRST_WINDOW)
        self.link.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, more))

    def call(self, stream: int, body: bytes) -> None:
        """Send a call's headers and its only message."""
        message = b"\0" + struct.pack(">I", len(body)) + body
        self.window -= len(message)
        if self.window < 0:
            raise LoadError("the server does not read as fast as calls are made")
        self.answered[stream] = 0
        sent = _frame(_HEADERS, _END_HEADERS, stream, self.headers) + _frame(_DATA, _END_STREAM, stream, message)
        self.link.sendall(sent)

    def complete(self) -> list[int]:
        """Read what has come: the calls that it completes."""
        received = self.link.recv(1 << 18)
        if not received:
            raise LoadError("the server closed the connection")
        self.unread += received
        done: list[int] = []
        place = 0
        while len(self.unread) - place >= 9:
            length = int.from_bytes(self.unread[place : place + 3], "big")
            end = place + 9 + length
            if end > len(self.unread):
                break
            kind, flags = self.unread[place + 3], self.unread[place + 4]
            stream = int.from_bytes(self.unread[place + 5 : place + 9], "big") & 0x7FFFFFFF
            done += self._take(kind, flags, stream, self.unread[place + 9 : end])
            place = end
        del self.unread[:place]
        return done

    def _take(self, kind: int, flags: int, stream: int, payload: bytearray) -> list[int]:
        if kind == _DATA:
            self.answered[stream] += len(payload)
        elif kind == _HEADERS and flags & _END_STREAM:
            if not self.answered.pop(stream):  # an error has trailers alone
                raise LoadError("a call failed")
            return [stream]
        elif kind == _WINDOW_UPDATE and stream == 0:
            self.window += int.from_bytes(payload, "big")
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            self.link.sendall(_frame(kind, _ACK, 0, bytes(payload) if kind == _PING else b""))
        elif kind == _GOAWAY:
            raise LoadError("the server goes away")
        return []


def latencies(address: str, path: str, bodies: Sequence[bytes], *, rate: float, seconds: float) -> list[float]:
    """Make `rate` calls a second for so long, whatever comes back.

    Args:
        address: HOST:PORT of a server without TLS.
        path: "/package.Service/Method".
        bodies: Serialised requests, taken in turn.
        rate: Calls a second.
        seconds: How long.

    Returns:
        Milliseconds from when each call was due to its complete answer, sorted.

    Raises:
        LoadError: The server ended the connection, or a call failed.
    """
    connection = _Connection(address, path)
    total, made = int(rate * seconds), 0
    taken: list[float] = []
    began = time.perf_counter() + 0.05
    with connection.link:
        while len(taken) < total:
            wait = began + made / rate - time.perf_counter() if made < total else 1.0
            if wait > 0:
                readable, _, _ = select.select([connection.link], [], [], wait)
                if readable:
                    done, now = connection.complete(), time.perf_counter()
                    taken += [(now - began - (stream - 1) // 2 / rate) * 1e3 for stream in done]
                continue
            connection.call(2 * made + 1, bodies[made % len(bodies)])
            made += 1
    return sorted(taken)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _header_block(path: str, authority: str) -> bytes:
    """Headers of a call; the numbers are places in the static table (RFC 7541, appendix A)."""
    post, http = b"\x83", b"\x86"
    named = ((b"content-type", b"application/grpc"), (b"te", b"trailers"))
    block = post + http + b"\x04" + _text(path.encode()) + b"\x01" + _text(authority.encode())
    return block + b"".join(b"\0" + _text(name) + _text(value) for name, value in named)


def _text(value: bytes) -> bytes:
    assert len(value) < 0x7F  # a length of one byte
    return bytes((len(value),)) + value
