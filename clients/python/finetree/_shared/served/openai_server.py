# SPDX-License-Identifier: Apache-2.0
"""A server that answers like OpenAI's: its models, and greedy completions with the log-probability of each token.

urllib: a few requests, and no redirect that would carry a key to another host. Blocking.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from finetree._shared.requests import invalid
from finetree.errors import Unavailable

LOOPBACK = frozenset(("127.0.0.1", "localhost", "::1"))
MAX_ANSWER_BYTES = 8 << 20
ANSWER_SECONDS = 60.0
"""Longest wait for an answer, unless the caller says otherwise: of a slow machine with a queue."""
MOST_SAID = 200
"""Characters of a server's own message that are repeated."""
_NOT_UNDERSTOOD = (400, 422)
"""What servers answer to a request with a field that they do not have."""


class ServerError(Unavailable):
    """The server does not answer, or not as such servers do; `status` is its code, 0 for no usable answer."""

    def __init__(self, message: str = "", *, status: int = 0) -> None:
        super().__init__(message, reason="SERVER_BROKEN")
        self.status = status


@dataclass(frozen=True, slots=True)
class Completion:
    """A greedy answer, with the log-probabilities of its tokens where the server offers them."""

    text: str
    logprobs: tuple[float, ...] = ()


@dataclass(slots=True)
class OpenAiServer:
    """A server at a URL.

    Attributes:
        url: where /v1 is, without it or with it.
        key: sent as the bearer token where it is not empty; never over plain HTTP to another machine.
        timeout: seconds to wait for an answer.
    """

    url: str
    key: str = field(default="", repr=False)
    timeout: float = ANSWER_SECONDS
    _chats: bool = False
    """Whether it has no raw completions, so that canaries are asked as chats."""
    _plain: bool = False
    """Whether it refuses requests that ask for log-probabilities, so that texts alone are compared."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise invalid("url", f"{self.url!r} is no address; write it as http://HOST:PORT")
        if self.key and parts.scheme != "https" and parts.hostname not in LOOPBACK:
            raise invalid("key", "it is sent over https:// alone; use https://, or give no key")
        self.url = self.url.rstrip("/").removesuffix("/v1")

    def models(self) -> dict[str, str]:
        """Return the models by name, each with the model that it is an adapter of, empty where none is named.

        vLLM and SGLang name it as `parent`, this suite as `finetree.base_model`.
        """
        document = self._ask("GET", "/v1/models")
        listed = document.get("data") if isinstance(document, dict) else None
        if not isinstance(listed, list):
            raise _broken("GET /v1/models: the answer has no list of models")
        found = [each for each in listed if isinstance(each, dict) and isinstance(each.get("id"), str)]
        return {each["id"]: _parent(each) for each in found}

    def complete(self, model: str, prompt: str, *, tokens: int) -> Completion:
        """Continue a text greedily; where there are no raw completions, answer it as a chat."""
        if not self._chats:
            asked = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "seed": 0}
            try:
                return self._completion(self._answer("/v1/completions", asked, {"logprobs": 1}), "text")
            except ServerError as error:
                if error.status not in (404, 405, 501):
                    raise
                self._chats = True
        return self.chat(model, prompt, tokens=tokens)

    def chat(self, model: str, prompt: str, *, tokens: int) -> Completion:
        """Answer a user's turn greedily."""
        messages = [{"role": "user", "content": prompt}]
        asked = {"model": model, "messages": messages, "max_tokens": tokens, "temperature": 0, "seed": 0}
        return self._completion(self._answer("/v1/chat/completions", asked, {"logprobs": True}), "message")

    def _answer(self, path: str, asked: Mapping[str, Any], logprobs: Mapping[str, Any]) -> Any:
        """Ask for an answer with log-probabilities; of a server that refuses these, without them from then on."""
        if not self._plain:
            try:
                return self._ask("POST", path, {**asked, **logprobs})
            except ServerError as error:
                if error.status not in _NOT_UNDERSTOOD:
                    raise
        found = self._ask("POST", path, asked)
        self._plain = True
        return found

    def _completion(self, document: Any, part: str) -> Completion:
        choice: Any = {}
        try:
            choice = document["choices"][0]
            text = choice["message"]["content"] if part == "message" else choice["text"]
        except (KeyError, IndexError, TypeError):
            text = None
        if not isinstance(text, str):
            raise _broken("the answer has no text where completions have it")
        return Completion(text, _logprobs(choice.get("logprobs")))

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"User-Agent": "finetree", "Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {self.key}"} if self.key else {}
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)  # noqa: S310 - http or https
        try:
            with _opener().open(request, timeout=self.timeout) as response:
                return json.loads(response.read(MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                said = f"{method} {path}: {error.code} {error.reason}{_said(error)}"
                raise _broken(said, status=error.code) from None
        except ValueError:
            raise _broken(f"{method} {path}: the answer is no JSON") from None
        except (OSError, HTTPException) as error:
            why = error.reason if isinstance(error, urllib.error.URLError) else error
            raise _broken(f"{method} {path}: no answer ({type(why).__name__})") from None


def _broken(said: str, *, status: int = 0) -> ServerError:
    return ServerError(f"{said}; check the server's log, and that it serves /v1/completions", status=status)


def _parent(model: Mapping[str, Any]) -> str:
    own = model.get("finetree")
    return str(model.get("parent") or (own.get("base_model") if isinstance(own, dict) else "") or "")


def _said(error: urllib.error.HTTPError) -> str:
    """Return the message of an error in OpenAI's form, shortened; empty where there is none."""
    try:
        document = json.loads(error.read(MAX_ANSWER_BYTES))
        text = document["error"]["message"] if isinstance(document["error"], dict) else document["message"]
    except (OSError, ValueError, HTTPException, KeyError, TypeError):
        return ""
    shown = "".join(letter if letter.isprintable() else " " for letter in str(text)[:MOST_SAID])
    return f": {shown}"


def _logprobs(found: Any) -> tuple[float, ...]:
    """Return the log-probabilities of an answer's tokens, in either of two forms; none where they are not offered."""
    if not isinstance(found, dict):
        return ()
    values, content = found.get("token_logprobs"), found.get("content")
    if not isinstance(values, list):
        listed = content if isinstance(content, list) else []
        values = [each.get("logprob") for each in listed if isinstance(each, dict)]
    return tuple(float(each) for each in values if isinstance(each, int | float))


def _opener() -> urllib.request.OpenerDirector:
    """Return what sends requests, by the environment's proxy, and follows no redirect."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener
