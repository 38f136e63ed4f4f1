# SPDX-License-Identifier: Apache-2.0
"""The route of Generate: answers of a served base model as Server-Sent Events, as they are decoded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

from finetree import AnswerPiece, AsyncGeneration, FinetreeError, to_json
from finetree_api.trainer.v1 import serving_pb2
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from finetree_console.connection import Streamed
from finetree_console.errors import document_of, invalid
from finetree_console.events.frames import frame
from finetree_console.events.watch import HEADERS, STATUS_SECONDS
from finetree_console.rpc.body import read_message
from finetree_console.rpc.contract import method_of

HEARTBEAT_SECONDS = 10.0
"""Seconds without a piece after which a comment is written, which tells proxies that the connection lives."""
Body = Callable[["asyncio.Future[AnswerPiece | None]"], AsyncGenerator[bytes]]
"""Makes the pieces of a response's body from answers, of which the first piece was begun to be read."""
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
    return await streamed(answers, lambda first: _frames(answers, first, draining, request_id=request_id))


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


async def pieces_of(
    answers: AsyncGeneration, coming: asyncio.Future[AnswerPiece | None], draining: asyncio.Event
) -> AsyncGenerator[AnswerPiece | None]:
    """Iterate over pieces as they come, with None for each `HEARTBEAT_SECONDS` of silence, until the server stops.

    `coming` is the first of them, which was begun to be read.
    """
    stopping = asyncio.ensure_future(draining.wait())
    try:
        while True:
            awaited: set[asyncio.Future[Any]] = {coming, stopping}
            await asyncio.wait(awaited, timeout=HEARTBEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                piece = coming.result()
                if piece is None:
                    return
                yield piece
                coming = asyncio.ensure_future(following(answers))
            elif stopping.done():
                return
            else:
                yield None
    finally:
        coming.cancel()
        stopping.cancel()
        await asyncio.gather(coming, stopping, return_exceptions=True)


async def following(answers: AsyncGeneration) -> AnswerPiece | None:
    """Read the next piece; None at the end."""
    return await anext(answers, None)


async def streamed(answers: AsyncGeneration, body: Body) -> Response:
    """Begin to read answers, and respond with what `body` makes of them; a client that hangs up cancels them.

    Raises:
        FinetreeError: what the service refuses within `STATUS_SECONDS`.
    """
    first = asyncio.ensure_future(following(answers))

    async def release() -> None:
        first.cancel()
        await asyncio.wait({first})
        await answers.close()

    try:
        await asyncio.wait({first}, timeout=STATUS_SECONDS)
        if first.done():
            first.result()
    except BaseException:
        await release()
        raise
    return Streamed(body(first), headers=HEADERS, release=release)


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
        async with contextlib.aclosing(pieces_of(answers, first, draining)) as pieces:
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
