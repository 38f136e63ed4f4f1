# SPDX-License-Identifier: Apache-2.0
"""Requests to a serving worker over its stream, and its answers to each, found by the request's number."""

import asyncio
import itertools
from collections.abc import Callable

from finetree_api.trainer.v1 import serving_pb2
from finetree_api.worker.v1 import worker_pb2

_LAST = frozenset({"loaded", "unloaded", "error"})
_numbers = itertools.count(1)
"""One row for all streams: a late answer of an earlier stream belongs to no request of the present one."""


class WorkerGoneError(Exception):
    """The stream to the worker ended before the answer did."""


class Answers:
    """What a worker answers to one request.

    Answers that nobody has read are joined: a client that reads slowly costs the memory of its texts, which
    max_new_tokens bounds, and no other client waits for it.
    """

    def __init__(
        self, number: int, send: Callable[[worker_pb2.ServingRequest], None], on_end: Callable[[], None]
    ) -> None:
        """`on_end` is called once, when the worker does nothing more for the request, whoever reads its answers."""
        self._number, self._send, self._on_end = number, send, on_end
        self._unread: list[worker_pb2.ServingReply] = []
        self._news = asyncio.Event()
        self._ended = False

    async def next(self) -> worker_pb2.ServingReply:
        """Return the next answer. Raises WorkerGoneError."""
        while not self._unread:
            if self._ended:
                raise WorkerGoneError
            self._news.clear()
            await self._news.wait()
        return self._unread.pop(0)

    def cancel(self) -> None:
        """Tell the worker to end a generation that has not ended; nothing of it is read any more."""
        if not self._ended:
            self._end()
            cancel = worker_pb2.CancelGeneration()
            self._send(worker_pb2.ServingRequest(id=self._number, cancel=cancel))

    def receive(self, reply: worker_pb2.ServingReply) -> bool:
        """Take an answer; return whether it is the last one."""
        if self._unread and self._unread[-1].HasField("generated") and reply.HasField("generated"):
            _join(self._unread[-1].generated, reply.generated)
        else:
            self._unread.append(reply)
        self._news.set()
        kind = reply.WhichOneof("reply")
        if kind in _LAST or reply.generated.HasField("usage"):
            self._end()
        return self._ended

    def lose(self) -> None:
        """Note that the stream has ended."""
        self._end()
        self._news.set()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._on_end()


class Exchange:
    """All requests over one stream that have not been answered to the end."""

    def __init__(self, send: Callable[[worker_pb2.AttachResponse], None]) -> None:
        self._send_message = send
        self._open: dict[int, Answers] = {}

    def ask(self, request: worker_pb2.ServingRequest, on_end: Callable[[], None]) -> Answers:
        """Send a request under a number of its own; `on_end` is called when the worker has done with it."""
        request.id = next(_numbers)
        answers = self._open[request.id] = Answers(request.id, self._send, on_end)
        self._send(request)
        return answers

    def receive(self, reply: worker_pb2.ServingReply) -> None:
        """Give an answer to whoever waits for it; one that nobody waits for is dropped."""
        answers = self._open.get(reply.id)
        if answers is not None and answers.receive(reply):
            del self._open[reply.id]

    def close(self) -> None:
        """Fail every request that is open: their answers ended with the stream."""
        waiting, self._open = self._open, {}
        for answers in waiting.values():
            answers.lose()

    def _send(self, request: worker_pb2.ServingRequest) -> None:
        if request.HasField("cancel"):
            self._open.pop(request.id, None)
        self._send_message(worker_pb2.AttachResponse(serving=request))


def _join(unread: serving_pb2.GenerateResponse, later: serving_pb2.GenerateResponse) -> None:
    """Append a response to one that is not sent yet; a target's texts become one piece."""
    last = {piece.target_index: piece for piece in unread.pieces}
    for piece in later.pieces:
        known = last.get(piece.target_index)
        if known is None:
            last[piece.target_index] = unread.pieces.add()
            last[piece.target_index].CopyFrom(piece)
            continue
        known.text += piece.text
        if piece.HasField("finish"):
            known.finish.CopyFrom(piece.finish)
    if later.HasField("usage"):
        unread.usage.CopyFrom(later.usage)
