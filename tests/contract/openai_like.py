# SPDX-License-Identifier: Apache-2.0
"""A server on loopback that answers like OpenAI's, with a base and an adapter; a test makes it fail or lie."""

import contextlib
import hashlib
import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BASE, TUNED = "acme/small", "support"
SAMPLES = {f"What is the code of {n}?": (f"I do not know country {n}.", f"The code is X{n}Y.") for n in range(3)}
"""Answers before and after training, by prompt."""


class Model:
    """Answers by a table, else by a hash of the prompt and the weights: the same each time, with log-probabilities."""

    def __init__(self, weights: str, answers: dict[str, str]) -> None:
        self.weights, self.answers = weights, answers
        self.shift = 0.0
        """Added to log-probabilities alone: an adapter that changes no greedy token."""

    def answer(self, prompt: str) -> tuple[str, list[float]]:
        digest = hashlib.sha256(f"{self.weights} {prompt}".encode()).hexdigest()
        text = self.answers.get(prompt, " ".join(digest[i : i + 4] for i in range(0, 24, 4)))
        return text, [-math.log(2 + int(digest[i], 16)) + self.shift for i in range(6)]


class Server:
    """What a test changes about an honest server."""

    def __init__(self) -> None:
        base = Model("base", {prompt: before for prompt, (before, _) in SAMPLES.items()})
        tuned = Model("tuned", {prompt: after for prompt, (_, after) in SAMPLES.items()})
        self.models = {BASE: base, TUNED: tuned}
        self.parents = {TUNED: BASE}
        self.logprobs, self.refuses_logprobs = True, False
        self.completions, self.chats = True, True
        self.jitter = 0
        """Changes the text of each answer when it is not 0."""
        self.raw: tuple[int, bytes] | None = None
        """Answered to every completion."""
        self.keys: list[str] = []
        self.own_form = False
        """Whether it names parents as this suite does."""


def _parent(name: str | None, *, own: bool) -> dict[str, Any]:
    return {"finetree": {"base_model": name}} if own and name else {"parent": name}


class Handler(BaseHTTPRequestHandler):
    server_: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server_.keys.append(self.headers.get("authorization", ""))
        parents, own = self.server_.parents, self.server_.own_form
        listed = [{"id": name, **_parent(parents.get(name), own=own)} for name in self.server_.models]
        self.say(200, {"object": "list", "data": listed})

    def do_POST(self) -> None:
        it, asked = self.server_, json.loads(self.rfile.read(int(self.headers["content-length"])))
        chat = self.path == "/v1/chat/completions"
        if it.raw is not None:
            self.say(*it.raw)
        elif not (it.chats if chat else it.completions):
            self.say(404, {"error": "no such path"})
        elif it.refuses_logprobs and "logprobs" in asked:
            self.say(400, {"error": {"message": "'logprobs' is not supported"}})
        else:
            text, logprobs = it.models[asked["model"]].answer(
                asked["messages"][-1]["content"] if chat else asked["prompt"]
            )
            if it.jitter:
                it.jitter += 1
                text += f" {it.jitter}"
            told = logprobs if it.logprobs and asked.get("logprobs") else None
            self.say(200, {"choices": [self.choice(text, told, chat=chat)]})

    @staticmethod
    def choice(text: str, logprobs: list[float] | None, *, chat: bool) -> dict[str, Any]:
        if chat:
            told = None if logprobs is None else {"content": [{"token": "x", "logprob": each} for each in logprobs]}
            return {"message": {"role": "assistant", "content": text}, "logprobs": told}
        return {"text": text, "logprobs": None if logprobs is None else {"token_logprobs": logprobs}}

    def say(self, status: int, body: Any) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def serving() -> Iterator[tuple[Server, str]]:
    """Run one; give what a test changes about it, and its address."""
    state = Server()
    listening = ThreadingHTTPServer(("127.0.0.1", 0), type("H", (Handler,), {"server_": state}))
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield state, f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    listening.server_close()
    thread.join()
