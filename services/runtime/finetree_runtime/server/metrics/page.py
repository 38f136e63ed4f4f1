# SPDX-License-Identifier: Apache-2.0
"""The page for operators: `/metrics`, `/healthz` and `/readyz` over plain HTTP, on a port of its own.

It holds counts and method names, nothing of users, and answers whoever reaches it: hence on loopback unless an address
is given. Kubernetes asks it in place of gRPC, since its probes speak no TLS of ours.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from finetree_runtime.config.settings import SettingsError
from finetree_runtime.server.metrics.prometheus import READ_SECONDS, PrometheusMeter

TEXT = "text/plain; version=0.0.4; charset=utf-8"
"""Content type of Prometheus' text format."""

REQUEST_SECONDS = 10.0
"""Time in which a request must be read."""

MOST_REQUESTS = 16
"""Requests that are answered at once, each on a thread; another one is closed unanswered."""


class Page:
    """Serves the page on threads of its own, from its making until `close`.

    Args:
        address: HOST:PORT; a port alone, or ":PORT", is on loopback.
        meter: What `/metrics` shows.
        ready: Whether the service reports that it serves.
        loop: The service's event loop; `/healthz` answers 503 while it does not answer.

    Raises:
        SettingsError: ADDRESS_UNAVAILABLE.
    """

    def __init__(
        self, address: str, *, meter: PrometheusMeter, ready: Callable[[], bool], loop: asyncio.AbstractEventLoop
    ) -> None:
        host, _, port = address.rpartition(":")
        try:
            self._server = _Server(host.strip("[]") or "127.0.0.1", int(port), _pages(meter, ready, loop))
        except (ValueError, OverflowError):
            raise SettingsError("SETTING_INVALID", f"metrics_address: {address!r} is no HOST:PORT") from None
        except OSError:
            raise SettingsError("ADDRESS_UNAVAILABLE", f"cannot serve metrics on {address}: is it in use?") from None
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics-page", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port of the page."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Take the page down."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, pages: Mapping[str, Callable[[], tuple[int, bytes]]]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._places = threading.BoundedSemaphore(MOST_REQUESTS)
        self._pages = pages
        super().__init__((host, port), _Handler)

    def answer(self, path: str) -> tuple[int, bytes]:
        """Return the status and the body for a path."""
        page = self._pages.get(path.partition("?")[0])
        if page is None:
            return 404, b"not found: /metrics, /healthz, /readyz\n"
        try:
            return page()
        except (TimeoutError, RuntimeError):  # a loop that is blocked, or closed
            return 503, b"the service does not answer\n"

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has gone: whoever reaches the port could fill the log."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = REQUEST_SECONDS
    server_version, sys_version = "finetree", ""

    def do_GET(self) -> None:
        status, body = self.server.answer(self.path)
        self.send_response(status)
        self.send_header("Content-Type", TEXT)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Write no line: a page that is asked every few seconds says nothing new."""


def _pages(
    meter: PrometheusMeter, ready: Callable[[], bool], loop: asyncio.AbstractEventLoop
) -> dict[str, Callable[[], tuple[int, bytes]]]:
    async def is_ready() -> bool:
        return ready()

    def ask_loop() -> bool:
        return asyncio.run_coroutine_threadsafe(is_ready(), loop).result(READ_SECONDS)

    def alive() -> tuple[int, bytes]:
        ask_loop()
        return 200, b"alive\n"

    def readiness() -> tuple[int, bytes]:
        return (200, b"ready\n") if ask_loop() else (503, b"not ready\n")

    return {"/metrics": lambda: (200, meter.page()), "/healthz": alive, "/readyz": readiness}
