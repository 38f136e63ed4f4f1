# SPDX-License-Identifier: Apache-2.0
"""Chat completions, answered by the targets of jobs that serve a base model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import finetree
from finetree import AnswerPiece, AsyncGeneration
from finetree_api.trainer.v1 import job_pb2, serving_pb2
from starlette.requests import Request
from starlette.responses import Response

from finetree_console.connection import Streamed, unless_gone
from finetree_console.errors import Json
from finetree_console.events.generate import HEARTBEAT_SECONDS
from finetree_console.events.pieces import begun, following, paced
from finetree_console.events.watch import HEADERS
from finetree_console.openai import errors
from finetree_console.openai.errors import refusal
from finetree_console.openai.ids import tuned_job
from finetree_console.rpc.body import check_media_type, parse_json, read_body

FIELDS = (
    *("model", "messages", "temperature", "top_p", "seed", "max_tokens", "max_completion_tokens", "stop"),
    *("stream", "stream_options", "n", "user", "metadata", "store"),
)
"""Fields that are taken; of those behind `n`, nothing depends."""
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
TEMPERATURE = 1.0
"""Of a request that names none, as in this interface."""
BASE = "base"
_FINISHED = {serving_pb2.FINISH_REASON_MAX_NEW_TOKENS: "length"}
"""`finish_reason` by how an answer ended; "stop" for the others."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What every part of an answer has in common."""

    id: str
    model: str
    created: int

    def document(self, kind: str, choices: Sequence[Mapping[str, Any]], **fields: Any) -> dict[str, Any]:
        """Make an object of the interface."""
        common = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**common, "choices": list(choices), **fields}


async def complete_chat(request: Request) -> Response:
    """POST /v1/chat/completions.

    Raises:
        RefusedError: INVALID_REQUEST; NOT_SERVING: no job of the project serves the model now.
        FinetreeError: what the service refuses.
    """
    content = await read_body(request, max_bytes=request.app.state.settings.max_body_bytes)
    check_media_type(request)
    body = parse_json(content)
    options = read_options(body)
    client: finetree.AsyncClient = request.app.state.client
    job, target = await _served(client, body["model"])
    options.setdefault("max_new_tokens", job.serve.max_context_tokens)
    answers: AsyncGeneration = client.serving(job.name).generate(messages_of(body), targets=[target], **options)
    completion = Completion(f"chatcmpl-{request.state.request_id}", body["model"], int(time.time()))
    if body.get("stream"):
        request.state.slot.become_stream()
        counted = bool((body.get("stream_options") or {}).get("include_usage"))
        first = asyncio.ensure_future(following(answers))
        release = await begun(first, answers.close)
        chunks = _chunks(completion, answers, first, draining=request.app.state.draining, counted=counted)
        return Streamed(chunks, headers=HEADERS, release=release)
    try:
        texts = await unless_gone(request, answers.read())
    finally:
        await answers.close()
    (text,), (finish,) = texts.values(), answers.finishes.values()
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _reason(finish)}
    return Json(completion.document("chat.completion", [choice], usage=_usage(finish)))


def read_options(body: Any) -> dict[str, Any]:
    """Read how tokens are chosen, as arguments of `generate`.

    Raises:
        RefusedError: INVALID_REQUEST.
    """
    if not isinstance(body, Mapping):
        raise refusal("", "the body must be a JSON object", "MALFORMED_REQUEST")
    for name in body:
        if name not in FIELDS:
            raise refusal(name, f"{name!r} is not supported; known are {', '.join(FIELDS)}")
    if not isinstance(body.get("model"), str):
        raise refusal("model", "model: is needed, a text")
    if body.get("n") not in (None, 1):
        raise refusal("n", "n: one answer is given; ask again with another seed for more")
    options: dict[str, Any] = {"temperature": _number(body, "temperature", TEMPERATURE)}
    for name, given in (("top_p", "top_p"), ("seed", "seed"), ("max_new_tokens", "max_completion_tokens")):
        number = _number(body, given, None)
        if number is not None:
            options[name] = number
    if "max_new_tokens" not in options and (most := _number(body, "max_tokens", None)) is not None:
        options["max_new_tokens"] = most
    stop = body.get("stop")
    options["stop"] = [stop] if isinstance(stop, str) else list(stop or ())
    if not all(isinstance(text, str) for text in options["stop"]):
        raise refusal("stop", "stop: a text or a list of texts")
    return options


def messages_of(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Read the conversation.

    Raises:
        RefusedError: INVALID_REQUEST: no list of messages, or one that is no text.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise refusal("messages", "messages: a list of at least one message is needed")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _message(message: Any, param: str) -> dict[str, str]:
    role = message.get("role") if isinstance(message, Mapping) else None
    if not isinstance(role, str) or role not in ROLES:
        raise refusal(f"{param}.role", f"{param}.role: one of {', '.join(ROLES)}")
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = [part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise refusal(f"{param}.content", f"{param}.content: a text, or a list of parts of the type text")
    return {"role": ROLES[role], "content": "".join(map(str, texts))}


def _number(body: Mapping[str, Any], name: str, default: float | None) -> float | None:
    value = body.get(name)
    if value is None:
        return default
    whole = name not in ("temperature", "top_p")
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise refusal(name, f"{name}: expected a {'whole ' if whole else ''}number")
    return value


async def _served(client: finetree.AsyncClient, model: str) -> tuple[job_pb2.Job, str]:
    """The newest job that serves a model now, and the target's name.

    Raises:
        RefusedError: NOT_SERVING.
    """
    async for job in client.list_jobs(states=["running"], tasks=["serve"]):
        target = target_of(job, model)
        if target:
            return job, target
    how = "`finetree serve JOB` serves what a job has trained, as the model of that job or as JOB/trained"
    text = f"no job of this project serves {model!r} now; {how}"
    raise refusal("model", text, "NOT_SERVING", status=404)


def target_of(job: job_pb2.Job, model: str) -> str:
    """Name of the target of a serving job that a model names; empty for none.

    It is named as the tuned model of the job that trained it, by its own name, or with the serving job's id in front of
    it; the base model by its name or hub id.
    """
    trained = tuned_job(model)
    for target in job.serve.loaded:
        of_job = trained and f"/jobs/{trained}/artifacts/" in target.weights.artifact
        if of_job or model in (target.name, f"{job.uid}/{target.name}"):
            return target.name
    bases = {BASE, f"{job.uid}/{BASE}", job.base.hub_id, job.serve.model.name} - {""}
    return BASE if model in bases else ""


async def _chunks(
    completion: Completion,
    answers: AsyncGeneration,
    first: asyncio.Future[AnswerPiece | None],
    *,
    draining: asyncio.Event,
    counted: bool,
) -> AsyncGenerator[bytes]:
    """Chunks as they come, and "[DONE]" behind the last; a failure is a chunk as well."""

    def chunk(delta: Mapping[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        fields = {"usage": None} if counted else {}
        return _frame(completion.document("chat.completion.chunk", [choice], **fields))

    try:
        yield chunk({"role": "assistant", "content": "", "refusal": None})
        async with contextlib.aclosing(paced(answers, first, draining, heartbeat=HEARTBEAT_SECONDS)) as pieces:
            async for piece in pieces:
                if piece is None:
                    yield b": \n\n"
                elif piece.text:
                    yield chunk({"content": piece.text})
        if answers.usage is None:
            return  # the server stops: without "[DONE]" it is no whole answer
        (finish,) = answers.finishes.values()
        yield chunk({}, _reason(finish))
        if counted:
            yield _frame(completion.document("chat.completion.chunk", [], usage=_usage(finish)))
        yield b"data: [DONE]\n\n"
    except finetree.FinetreeError as error:
        yield _frame({"error": errors.document(error)})


def _frame(document: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(document, ensure_ascii=False, allow_nan=False)}\n\n".encode()


def _reason(finish: serving_pb2.Finish) -> str:
    return _FINISHED.get(finish.reason, "stop")


def _usage(finish: serving_pb2.Finish) -> dict[str, int]:
    prompt, new = finish.prompt_tokens, finish.new_tokens
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}
