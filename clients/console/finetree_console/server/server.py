# SPDX-License-Identifier: Apache-2.0
"""The HTTP server: uvicorn with bounds, and with a stop that ends event streams first."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from finetree_console.server.certificates import CHECK_SECONDS, Certificates
from finetree_console.server.protocol import BoundedProtocol
from finetree_console.settings import Settings

IDLE_SECONDS = 30
"""Time after which a connection without a request is closed."""
MAX_HEAD_BYTES = 32 * 1024
"""Largest head of a request."""
MAX_CONNECTIONS = 2048
"""Connections at once; further ones are answered with 503. Requests have limits of their own."""


class Server(uvicorn.Server):
    """Serves an application until a signal, or until `should_exit` is set.

    `on_ready` is called once it accepts requests.
    """

    def __init__(self, app: Starlette, settings: Settings, on_ready: Callable[[], None] | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=BoundedProtocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                limit_concurrency=MAX_CONNECTIONS,
                ssl_certfile=settings.tls_cert,
                ssl_keyfile=settings.tls_key,
                timeout_notify=CHECK_SECONDS,
                callback_notify=self._refresh_certificates,
            )
        )
        self._app = app
        self._settings = settings
        self._certificates: Certificates | None = None
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen."""
        await super().startup(sockets)
        context, cert, key = self.config.ssl, self._settings.tls_cert, self._settings.tls_key
        if context is not None and cert is not None and key is not None:
            self._certificates = Certificates(context, cert, key)
        if self._on_ready is not None:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop to listen, tell streams to end, and wait for running requests."""
        self._app.state.draining.set()
        await super().shutdown(sockets)

    async def _refresh_certificates(self) -> None:
        if self._certificates is not None:
            await self._certificates.refresh()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # the signature of uvicorn
        """Stop at the first signal; end at once at the second."""
        if self.should_exit:
            os._exit(128 + sig)
        self.should_exit = True


def stop_with_stdin(server: Server) -> None:
    """Stop the server when standard input ends, which is so when the process that started it is gone."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        server.should_exit = True

    threading.Thread(target=wait, name="stdin", daemon=True).start()
