# SPDX-License-Identifier: Apache-2.0
"""The route of Generate: answers of a served base model as Server-Sent Events, as they are decoded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from finetree import AnswerPiece, AsyncGeneration, FinetreeError, to_json
from finetree_api.trainer.v1 import serving_pb2
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from finetree_console.connection import Streamed
from finetree_console.errors import document_of, invalid
from finetree_console.events.frames import frame
from finetree_console.events.pieces import begun, following, paced
from finetree_console.events.watch import HEADERS
from finetree_console.rpc.body import read_message
from finetree_console.rpc.contract import method_of

HEARTBEAT_SECONDS = 10.0
"""Seconds without a piece after which a comment is written, which tells proxies that the connection lives."""
_SETTINGS = ("temperature", "top_p", "top_k", "seed", "max_new_tokens")


def routes() -> list[Route]:
    """The route of Generate."""
    return [Route(method_of(serving_pb2.GenerateRequest).path, generate, methods=["POST"])]


async def generate(request: Request) -> Response:
    """Stream the answers to a prompt; a client that hangs up cancels them.

    Raises:
        FinetreeError: what the service refuses within `STATUS_SECONDS`; later it is an event of the type "failure".
    """
    limit = request.app.state.settings.max_body_bytes
    asked = await read_message(request, serving_pb2.GenerateRequest, max_bytes=limit)
    assert isinstance(asked, serving_pb2.GenerateRequest)  # noqa: S101  # as was asked for
    request.state.slot.become_stream()
    answers = _answers(request, asked)
    draining, request_id = request.app.state.draining, request.state.request_id
    first = asyncio.ensure_future(following(answers))
    release = await begun(first, answers.close)
    body = _frames(answers, first, draining, request_id=request_id)
    return Streamed(body, headers=HEADERS, release=release)


def _answers(request: Request, asked: serving_pb2.GenerateRequest) -> AsyncGeneration:
    kind, sampling = asked.WhichOneof("input"), asked.sampling
    if kind is None:
        raise invalid("input", "is needed: give a prompt or a conversation")
    prompt = asked.prompt if kind == "prompt" else list(asked.conversation.messages)
    given = {field.name for field, _ in sampling.ListFields()}
    settings: dict[str, Any] = {name: getattr(sampling, name) for name in _SETTINGS if name in given}
    answers: AsyncGeneration = request.app.state.client.serving(asked.job).generate(
        prompt, targets=tuple(asked.targets), stop=tuple(sampling.stop), **settings
    )
    return answers


async def _frames(
    answers: AsyncGeneration,
    first: asyncio.Future[AnswerPiece | None],
    draining: asyncio.Event,
    *,
    request_id: str,
) -> AsyncGenerator[bytes]:
    """Each piece as a response of its own, and the usage as the last."""
    named = False
    try:
        async with contextlib.aclosing(paced(answers, first, draining, heartbeat=HEARTBEAT_SECONDS)) as pieces:
            async for piece in pieces:
                if piece is None:
                    yield b": \n\n"
                    continue
                yield _frame(_response(answers, piece, named=named))
                named = True
        if answers.usage is not None:
            yield _frame(serving_pb2.GenerateResponse(usage=answers.usage))
    except FinetreeError as error:
        yield frame(document_of(error, request_id), kind="failure")


def _response(answers: AsyncGeneration, piece: AnswerPiece, *, named: bool) -> serving_pb2.GenerateResponse:
    names = list(answers.texts)
    part = serving_pb2.GenerationPiece(target_index=names.index(piece.target), text=piece.text, finish=piece.finish)
    return serving_pb2.GenerateResponse(targets=() if named else names, pieces=[part])


def _frame(response: serving_pb2.GenerateResponse) -> bytes:
    return frame(to_json(response, defaults=True))
