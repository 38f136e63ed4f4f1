# SPDX-License-Identifier: Apache-2.0
"""Requests about served base models, built from what a caller writes, and what is collected of their answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetree_api.trainer.v1 import job_pb2, serving_pb2
from finetree_api.types.v1 import hardware_pb2, method_pb2, model_pb2, training_pb2, weights_pb2

from finetree._shared.channels import new_request_id
from finetree._shared.requests import enum_number, invalid
from finetree._shared.trainer_requests import ModelLike, model_source
from finetree.durations import to_duration
from finetree.errors import FailedPrecondition, Internal
from finetree.spec import coerce

TRAINED = "trained"
"""Name of the target of a job that is served without naming any."""
MessageLike = serving_pb2.ChatMessage | Mapping[str, str]
PromptLike = str | Sequence[MessageLike]


@dataclass(frozen=True, slots=True)
class AnswerPiece:
    """A piece of one target's answer.

    Attributes:
        target: name of the target, "base" for the base model.
        text: what follows in its answer; whole characters.
        finish: why and after how many tokens the answer ended, in its last piece; else None.
    """

    target: str
    text: str
    finish: serving_pb2.Finish | None = None


class Answers:
    """What has arrived of the answers to one prompt."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.finishes: dict[str, serving_pb2.Finish] = {}
        self.usage: serving_pb2.GenerationUsage | None = None
        self._unread: list[AnswerPiece] = []

    def accept(self, response: serving_pb2.GenerateResponse) -> None:
        """Take a response."""
        for name in response.targets:
            self.texts[name] = ""
        names = list(self.texts)
        for piece in response.pieces:
            name = names[piece.target_index]
            finish = piece.finish if piece.HasField("finish") else None
            self.texts[name] += piece.text
            if finish is not None:
                self.finishes[name] = finish
            self._unread.append(AnswerPiece(name, piece.text, finish))
        if response.HasField("usage"):
            self.usage = response.usage

    def take(self) -> AnswerPiece | None:
        """Give the next piece that nobody has read; None where there is none."""
        return self._unread.pop(0) if self._unread else None


def cut_off() -> Internal:
    """Make the error for a stream that ended before the answers did."""
    return Internal("the stream ended before the answers did; ask again", reason="NO_ANSWER")


def named_job(model: object) -> str:
    """Name of the job that is to be served; empty where a model is named.

    A resource name of a job is one; a hub id has one slash, and a catalog's name none.
    """
    if isinstance(model, str):
        return model if "/jobs/" in model else ""
    name = getattr(model, "name", "")
    return name if isinstance(name, str) and not isinstance(model, model_pb2.ModelSource) else ""


def base_of(job: job_pb2.Job) -> model_pb2.ModelSource:
    """The base model of a job, at the commit that the job used.

    Raises:
        FailedPrecondition: NOT_SERVING: the job has none.
    """
    source = job.serve.model if job.WhichOneof("task") == "serve" else job.train.spec.model
    if job.WhichOneof("task") not in ("train", "serve"):
        text = f"{job.name} has trained nothing and serves nothing; name a job that does, or a model"
        raise FailedPrecondition(text, reason="NOT_SERVING")
    if job.base.revision and source.WhichOneof("source") in ("hub", "name"):
        return model_pb2.ModelSource(hub=model_pb2.HubModel(id=job.base.hub_id, revision=job.base.revision))
    return source


def target(name: str, weights: weights_pb2.TrainedWeights) -> serving_pb2.ServeTarget:
    """Build a target."""
    return serving_pb2.ServeTarget(name=name, weights=weights)


def serve_task(
    model: ModelLike,
    targets: Iterable[serving_pb2.ServeTarget],
    *,
    precision: str | int,
    quantization: str | int | None,
    hardware: hardware_pb2.Hardware | Mapping[str, Any] | None,
    lease: float | None,
    yield_after: float | None,
    max_context_tokens: int | None,
    max_parallel: int | None,
) -> serving_pb2.ServeTask:
    """Build a ServeTask."""
    return serving_pb2.ServeTask(
        model=model_source(model),
        precision=enum_number(training_pb2.Precision, precision, "precision"),
        quantization=None
        if quantization is None
        else enum_number(method_pb2.Quantization, quantization, "quantization"),
        targets=targets,
        hardware=None if hardware is None else coerce(hardware_pb2.Hardware, hardware, prefix="hardware"),
        lease=None if lease is None else to_duration(lease),
        yield_after=None if yield_after is None else to_duration(yield_after),
        max_context_tokens=max_context_tokens,
        max_parallel=max_parallel,
    )


def generate(
    job: str,
    prompt: PromptLike,
    *,
    targets: Sequence[str],
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    seed: int | None,
    max_new_tokens: int | None,
    stop: Sequence[str],
) -> serving_pb2.GenerateRequest:
    """Build the request of Generate; a text is taken as it is, messages are rendered by the model's template."""
    request = serving_pb2.GenerateRequest(job=job, targets=targets)
    if isinstance(prompt, str):
        request.prompt = prompt
    else:
        request.conversation.messages.extend(_message(each, index) for index, each in enumerate(prompt))
    request.sampling.CopyFrom(
        serving_pb2.Sampling(
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            seed=seed,
            max_new_tokens=max_new_tokens,
            stop=stop,
        )
    )
    return request


def _message(message: MessageLike, index: int) -> serving_pb2.ChatMessage:
    if isinstance(message, serving_pb2.ChatMessage):
        return message
    field = f"messages[{index}]"
    if set(message) != {"role", "content"}:
        raise invalid(field, 'expected {"role": …, "content": …}')
    role = enum_number(serving_pb2.ChatRole, message["role"], f"{field}.role")
    return serving_pb2.ChatMessage(role=role, content=message["content"])


def conversation(said: PromptLike, system: str) -> list[MessageLike]:
    """Messages of a chat; a text is what the user says."""
    messages: list[MessageLike] = [{"role": "user", "content": said}] if isinstance(said, str) else list(said)
    return [{"role": "system", "content": system}, *messages] if system else messages


def load_target(job: str, wanted: serving_pb2.ServeTarget, request_id: str) -> serving_pb2.LoadTargetRequest:
    """Build the request of LoadTarget."""
    return serving_pb2.LoadTargetRequest(job=job, target=wanted, request_id=request_id or new_request_id())


def unload_target(job: str, name: str, request_id: str) -> serving_pb2.UnloadTargetRequest:
    """Build the request of UnloadTarget."""
    return serving_pb2.UnloadTargetRequest(job=job, target=name, request_id=request_id or new_request_id())


def ended(job: job_pb2.Job) -> FailedPrecondition:
    """Make the error for a served base model whose lease has ended."""
    return FailedPrecondition(f"{job.name}: {job.state_reason.text}", reason="LEASE_EXPIRED")
