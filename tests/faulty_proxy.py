# SPDX-License-Identifier: Apache-2.0
"""A proxy before an object store, which answers 500, cuts connections, or is slow."""

import itertools
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class FaultyProxy(socketserver.ThreadingTCPServer):
    """Forwards connections to a port of this machine.

    `fault(number)` says what happens to the connection of a number, from 1: "" (nothing), "500" (its first request is
    answered with that), "cut" (it ends after `cut_bytes` of what a client sends), or "slow" (each piece waits).
    """

    daemon_threads = True
    allow_reuse_address = True
    cut_bytes = 100_000
    slow_seconds = 0.02

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.target = port
        self.fault: Callable[[int], str] = lambda _number: ""
        self.numbers = itertools.count(1)
        self.faults = 0
        """Connections that something has happened to."""
        self.open: set[socket.socket] = set()
        self.sent = 0
        """Bytes that clients have sent through it, as far as one thread sees those of the others."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def drop(self) -> None:
        """End every connection, so that the next request comes on a new one: clients keep theirs for many requests."""
        for connection in list(self.open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: object) -> None:
        """Say nothing: connections that end are what this is for."""


@contextmanager
def faulty_proxy(port: int) -> Iterator[FaultyProxy]:
    """Run a proxy in a thread."""
    with FaultyProxy(port) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()


class _Connection(socketserver.BaseRequestHandler):
    server: FaultyProxy

    def handle(self) -> None:
        fault = self.server.fault(next(self.server.numbers))
        self.server.faults += bool(fault)
        if fault == "500":
            self.request.recv(65536)
            with suppress(OSError):
                self.request.sendall(
                    b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                )
            return
        with socket.create_connection(("127.0.0.1", self.server.target)) as upstream:
            self.server.open.add(self.request)
            back = threading.Thread(target=self._forward, args=(upstream, self.request, fault), daemon=True)
            back.start()
            self._forward(self.request, upstream, fault, cut=fault == "cut")
            back.join()
            self.server.open.discard(self.request)

    def _forward(self, source: socket.socket, target: socket.socket, fault: str, *, cut: bool = False) -> None:
        left = self.server.cut_bytes
        with suppress(OSError):
            while piece := source.recv(65536):
                if fault == "slow":
                    time.sleep(self.server.slow_seconds)
                left -= len(piece)
                if cut and left < 0:
                    break
                target.sendall(piece)
                if source is self.request:
                    self.server.sent += len(piece)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
