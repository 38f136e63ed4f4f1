# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC109 - the parameters are the synchronous client's; a timeout becomes the call's deadline
"""A base model that is kept loaded, and the answers that it and trained weights on it give."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self

from finetree_api.trainer.v1 import event_pb2, job_pb2, serving_pb2
from finetree_api.types.v1 import weights_pb2

from finetree._async.job import AsyncJob
from finetree._async.transport import AsyncTransport, Stream
from finetree._shared import rpcs, trainer_requests
from finetree._shared.retry import deadline_after, within
from finetree._shared.trainer import serving
from finetree._shared.trainer.serving import AnswerPiece, Answers, PromptLike
from finetree._shared.trainer.weights import WeightsLike, trained_artifact, weights_of


class AsyncGeneration:
    """The answers to one prompt, piece by piece as they are decoded; those of several targets come interleaved.

    It asks on the first `next`. `close()` ends it and frees what it holds at the service; it is a context.
    """

    def __init__(
        self, transport: AsyncTransport, request: serving_pb2.GenerateRequest, *, timeout: float | None = None
    ) -> None:
        self._transport, self._request, self._timeout = transport, request, timeout
        self._answers = Answers()
        self._stream: Stream[serving_pb2.GenerateResponse] | None = None
        self._closed = False

    @property
    def texts(self) -> dict[str, str]:
        """What has been read of each target's answer, by the target's name."""
        return self._answers.texts

    @property
    def finishes(self) -> dict[str, serving_pb2.Finish]:
        """Why each answer ended that has, by the target's name."""
        return self._answers.finishes

    @property
    def usage(self) -> serving_pb2.GenerationUsage | None:
        """Tokens and speed of all answers; None until they have ended."""
        return self._answers.usage

    def __aiter__(self) -> AsyncIterator[AnswerPiece]:
        return self

    async def __anext__(self) -> AnswerPiece:
        while not self._closed:
            piece = self._answers.take()
            if piece is not None:
                return piece
            if self._answers.usage is not None:
                await self.close()
                break
            await self._receive()
        raise StopAsyncIteration

    async def read(self) -> dict[str, str]:
        """Read all that is left, and return each target's whole answer by the target's name.

        Raises:
            FinetreeError: what `generate` raises.
        """
        async for _ in self:
            pass
        return self._answers.texts

    async def close(self) -> None:
        """End the answers. Safe to call twice."""
        self._closed = True
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _receive(self) -> None:
        try:
            if self._stream is None:
                self._stream = await self._transport.stream(rpcs.GENERATE, self._request, timeout=self._timeout)
            response = await self._stream.read()
        except BaseException:
            await self.close()
            raise
        if response is None:
            await self.close()
            raise serving.cut_off()
        self._answers.accept(response)


class AsyncServing:
    """A base model that a job keeps loaded. As a context it is ready inside, and ended at the end.

    Attributes:
        job: the job that serves.
    """

    def __init__(self, transport: AsyncTransport, job: AsyncJob) -> None:
        self.job = job
        self._transport = transport

    def __repr__(self) -> str:
        return f"<AsyncServing {self.job.name}{trainer_requests.seen(self.job.snapshot)}>"

    async def wait_ready(self, *, timeout: float | None = None) -> job_pb2.Job:
        """Wait until the model is loaded and answers, and return the job as it then is.

        Args:
            timeout: seconds; None means for ever. The job continues when it passes.

        Raises:
            FinetreeTimeout: it was not ready in time.
            JobFailed: the job ended FAILED or CANCELLED.
            FailedPrecondition: LEASE_EXPIRED: its lease has ended.
        """
        deadline = deadline_after(timeout)
        quick = self._transport.options.timeout or rpcs.QUICK
        job = await self.job.refresh(timeout=within(deadline, quick))
        terminal: event_pb2.Terminal | None = None
        follow = self.job.events(after_seq=job.last_seq, kinds=("state_changed",), timeout=within(deadline, None))
        async with follow as stream:
            while job.state != job_pb2.JOB_STATE_RUNNING:
                event = await anext(stream, None)
                if event is None:
                    break
                terminal = event.terminal if event.HasField("terminal") else terminal
                job = await self.job.refresh(timeout=within(deadline, quick))
        if job.state == job_pb2.JOB_STATE_SUCCEEDED:
            raise serving.ended(job)
        if job.state != job_pb2.JOB_STATE_RUNNING:
            raise trainer_requests.job_failed(job, terminal)
        return job

    def generate(
        self,
        prompt: PromptLike,
        *,
        targets: Sequence[str] = (),
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        timeout: float | None = None,
    ) -> AsyncGeneration:
        """Ask the base and targets one prompt, and iterate over the pieces of their answers.

        Args:
            prompt: text, taken as it is; or messages such as {"role": "user", "content": "Hello"}, which the model's
                chat template renders as in training.
            targets: names of those that answer, "base" for the base model, at most five; empty means the base and all.
            temperature: divides the logits; None or 0 takes the most probable token always.
            top_p: chooses among the most probable tokens that have this probability together; None means all.
            top_k: chooses among so many of the most probable tokens; None means all.
            seed: of the random choices; None means 0.
            max_new_tokens: longest answer; None means 256.
            stop: texts that end an answer, at most 8.
            timeout: seconds for the whole; None means for ever.

        Raises:
            NotFound: JOB_NOT_FOUND, TARGET_NOT_LOADED.
            FailedPrecondition: NOT_SERVING (`wait_ready` waits), LEASE_EXPIRED.
            InvalidArgument: PROMPT_TOO_LONG, NO_CHAT_TEMPLATE, TEMPLATE_REFUSED_ROW.
            ResourceExhausted: TOO_MANY_GENERATIONS, OUT_OF_MEMORY_PREFLIGHT.
            Internal: GENERATION_FAILED.
            Unavailable: WORKER_LOST, SERVER_STOPPING: ask again.
        """
        request = serving.generate(
            self.job.name,
            prompt,
            targets=targets,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            seed=seed,
            max_new_tokens=max_new_tokens,
            stop=stop,
        )
        return AsyncGeneration(self._transport, request, timeout=timeout)

    async def chat(
        self,
        messages: PromptLike,
        *,
        system: str = "",
        targets: Sequence[str] = (),
        temperature: float | None = None,
        seed: int | None = None,
        max_new_tokens: int | None = None,
        timeout: float | None = None,
    ) -> dict[str, str]:
        """Say something and return the whole answers, by the names of the targets.

        Args:
            messages: what the user says; or a conversation, as for `generate`.
            system: instructions, put in front; empty means none.
            targets: as for `generate`.
            temperature: as for `generate`.
            seed: as for `generate`.
            max_new_tokens: as for `generate`.
            timeout: seconds for the whole; None means for ever.

        Raises:
            FinetreeError: what `generate` raises.
        """
        said = serving.conversation(messages, system)
        answers = self.generate(
            said, targets=targets, temperature=temperature, seed=seed, max_new_tokens=max_new_tokens, timeout=timeout
        )
        return await answers.read()

    async def load(
        self, name: str, weights: WeightsLike, *, timeout: float | None = None, request_id: str = ""
    ) -> serving_pb2.LoadedTarget:
        """Load trained weights beside those that are loaded, under a name.

        Args:
            name: small letters, digits, ".", "_" and "-".
            weights: a job, whose adapter or model is meant, as a handle, name or short id; its checkpoint as
                "JOB@STEP"; the name of an artifact or checkpoint; or {"path": folder under a model root}.
            timeout: seconds; None means the client's timeout, else 60.
            request_id: idempotency key; empty means a new one, made once per call.

        Raises:
            NotFound: JOB_NOT_FOUND, ARTIFACT_NOT_FOUND, CHECKPOINT_NOT_FOUND, WEIGHTS_NOT_FOUND.
            InvalidArgument: WRONG_BASE, WEIGHTS_UNREADABLE, MODEL_PICKLED.
            AlreadyExists: TARGET_EXISTS: other weights have that name; REQUEST_ID_REUSED.
            FailedPrecondition: NOT_SERVING, LEASE_EXPIRED, WEIGHTS_CHANGED.
            PermissionDenied: PATH_OUTSIDE_ROOTS.
            ResourceExhausted: TARGET_LIMIT, OUT_OF_MEMORY_PREFLIGHT.
        """
        target = serving.target(name, await located(self._transport, weights, "weights"))
        request = serving.load_target(self.job.name, target, request_id)
        return (
            await self._transport.unary(rpcs.LOAD_TARGET, request, timeout=timeout, request_id=request.request_id)
        ).target

    async def unload(self, name: str, *, timeout: float | None = None, request_id: str = "") -> None:
        """Remove a target; answers that it is giving end.

        Args:
            name: the target's.
            timeout: seconds; None means the client's timeout, else 10.
            request_id: idempotency key; empty means a new one, made once per call.

        Raises:
            NotFound: JOB_NOT_FOUND, TARGET_NOT_LOADED.
            FailedPrecondition: NOT_SERVING, LEASE_EXPIRED.
        """
        request = serving.unload_target(self.job.name, name, request_id)
        await self._transport.unary(rpcs.UNLOAD_TARGET, request, timeout=timeout, request_id=request.request_id)

    async def targets(self, *, timeout: float | None = None) -> serving_pb2.ListTargetsResponse:
        """List what is loaded (`targets`), and until when it is kept (`lease`).

        Args:
            timeout: seconds; None means the client's timeout, else 10.

        Raises:
            NotFound: JOB_NOT_FOUND.
            FailedPrecondition: NOT_SERVING: the job serves nothing.
        """
        request = serving_pb2.ListTargetsRequest(job=self.job.name)
        return await self._transport.unary(rpcs.LIST_TARGETS, request, timeout=timeout)

    async def end(self, *, timeout: float | None = None) -> job_pb2.Job:
        """End the job, which frees its device; answers that are being given end.

        Args:
            timeout: seconds; None means the client's timeout, else 10.

        Raises:
            NotFound: JOB_NOT_FOUND.
        """
        return await self.job.cancel(timeout=timeout)

    async def __aenter__(self) -> Self:
        try:
            await self.wait_ready()
        except BaseException:
            await self.end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()


async def located(transport: AsyncTransport, weights: WeightsLike, field: str) -> weights_pb2.TrainedWeights:
    """Make the message of trained weights; of a job, those of its artifact, which are asked for."""
    found = weights_of(transport.options.project, weights, field)
    if isinstance(found, weights_pb2.TrainedWeights):
        return found
    return trained_artifact(found, await AsyncJob(transport, found).artifacts())
