# SPDX-License-Identifier: Apache-2.0
"""A receiver of webhooks on loopback, which a test makes fail in every usual way."""

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

SECRET = base64.b64encode(b"a secret of a receiver, 32 bytes").decode()


class Receiver:
    """Keeps what it takes.

    Attributes:
        answer: status, headers and body for an event, before it is kept; it is kept where the status is 2xx. None: the
            connection is cut without an answer, and the event is kept all the same, as by a receiver that dies late.
    """

    def __init__(self) -> None:
        self.answer: Callable[[dict[str, Any]], tuple[int, dict[str, str], bytes] | None] = lambda _: (204, {}, b"")
        self.taken: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self.requests = 0
        self.arrived = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                receiver.take(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        """Check, keep and answer a request."""
        body = handler.rfile.read(int(handler.headers["content-length"]))
        event = json.loads(body)
        signed = f"{handler.headers['webhook-id']}.{handler.headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.new(base64.b64decode(SECRET), signed, hashlib.sha256).digest()).decode()
        with self.arrived:
            self.requests += 1
            if handler.headers["webhook-signature"] != f"v1,{expected}":
                self.problems.append("the signature is wrong")
            if handler.headers["webhook-id"] != event["id"]:
                self.problems.append("the header and the body name different events")
            answered = self.answer(event)
            if answered is None or answered[0] < 300:
                self.taken.append(event)
            self.arrived.notify_all()
        if answered is None:
            handler.connection.close()
            return
        status, headers, text = answered
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(text))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(text)

    def wait_for(self, count: int, *, seconds: float = 60.0) -> None:
        """Wait until so many events were taken."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.taken) >= count, seconds), len(self.taken)

    def first_deliveries(self, job: str) -> list[int]:
        """Numbers of a job's events in the order in which each was taken for the first time."""
        return list(dict.fromkeys(event["data"]["seq"] for event in self.taken if event["data"]["job_uid"] == job))

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, daemon=True, kwargs={"poll_interval": 0.05}).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
