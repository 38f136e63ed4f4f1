# SPDX-License-Identifier: Apache-2.0
"""Requests to a serving worker: whose answer is whose, and what becomes of those that nobody reads."""

import asyncio

import pytest
from finetree_api.trainer.v1 import serving_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_trainer.workers.exchange import Exchange, WorkerGoneError


class Worker:
    """The other side: what was sent to it, and answers under a request's number."""

    def __init__(self) -> None:
        self.asked: list[worker_pb2.ServingRequest] = []
        self.exchange = Exchange(lambda message: self.asked.append(message.serving))
        self.done: list[str] = []

    def ask(self, name: str):
        request = worker_pb2.ServingRequest(generate=serving_pb2.GenerateRequest(prompt=name))
        return self.exchange.ask(request, lambda: self.done.append(name))

    def say(self, number: int, *texts: str, index: int = 0, end: bool = False) -> None:
        pieces = [serving_pb2.GenerationPiece(target_index=index, text=text) for text in texts]
        usage = serving_pb2.GenerationUsage(new_tokens=7) if end else None
        generated = serving_pb2.GenerateResponse(pieces=pieces, usage=usage)
        self.exchange.receive(worker_pb2.ServingReply(id=number, generated=generated))


async def test_answers_go_to_whoever_asked_and_late_ones_to_nobody():
    worker = Worker()
    one, two = worker.ask("one"), worker.ask("two")
    first, second = (request.id for request in worker.asked)
    worker.say(second, "for two", end=True)
    worker.say(first, "for one", end=True)
    worker.say(first, "too late")
    assert (await one.next()).generated.pieces[0].text == "for one"
    assert (await two.next()).generated.pieces[0].text == "for two"
    assert worker.done == ["two", "one"]


async def test_what_a_slow_reader_has_not_read_is_joined_by_target():
    worker = Worker()
    answers = worker.ask("slow")
    number = worker.asked[0].id
    for word in ("a", "b", "c"):
        worker.say(number, word)
        worker.say(number, word.upper(), index=1)
    worker.say(number, end=True)
    reply = (await answers.next()).generated
    assert {piece.target_index: piece.text for piece in reply.pieces} == {0: "abc", 1: "ABC"}
    assert reply.usage.new_tokens == 7


async def test_a_cancelled_one_is_cancelled_once_at_the_worker_and_one_that_ended_is_not():
    worker = Worker()
    answers = worker.ask("cancelled")
    answers.cancel()
    answers.cancel()
    assert [request.WhichOneof("request") for request in worker.asked] == ["generate", "cancel"]
    assert worker.asked[1].id == worker.asked[0].id
    ended = worker.ask("ended")
    worker.say(worker.asked[2].id, "x", end=True)
    ended.cancel()
    assert len(worker.asked) == 3
    assert worker.done == ["cancelled", "ended"]


async def test_the_end_of_the_stream_ends_every_answer_after_what_has_arrived():
    worker = Worker()
    answers, waiting = worker.ask("begun"), worker.ask("waiting")
    worker.say(worker.asked[0].id, "half")
    reader = asyncio.ensure_future(waiting.next())
    await asyncio.sleep(0)
    worker.exchange.close()
    assert (await answers.next()).generated.pieces[0].text == "half"
    for coming in (answers.next(), reader):
        with pytest.raises(WorkerGoneError):
            await coming
    assert worker.done == ["begun", "waiting"]
