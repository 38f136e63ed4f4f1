# SPDX-License-Identifier: Apache-2.0
"""The estimator's rpcs: messages in, messages out. What is decided, is decided in the modules that it calls."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.estimator.v1 import estimator_pb2_grpc
from finetree_api.types.v1 import evidence_pb2 as ev
from finetree_runtime.errors import DomainError, FailedPrecondition, to_status
from finetree_runtime.paging import PageTokens, page_size
from finetree_runtime.server import validation
from finetree_runtime.server.handlers import in_bytes
from finetree_runtime.server.identity import distribution_version

from finetree_estimator import answering, batches
from finetree_estimator.answering import Present, Question
from finetree_estimator.answers import Answers, key_of
from finetree_estimator.catalog.accelerators import accelerators
from finetree_estimator.catalog.models import ModelEntry, models
from finetree_estimator.evidence.calibration import EMPTY, Calibration
from finetree_estimator.gathering import Gathering
from finetree_estimator.messages import calibration as calibration_messages
from finetree_estimator.messages import catalog
from finetree_estimator.messages import estimate as writing
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.whatif import check_plan

if TYPE_CHECKING:
    from finetree_estimator.evidence.learner import Learner

NAME = "finetree-estimator"
FEATURES = ("cpu", "shape", "price-book", "batch", "remedies", "check", "what-fits")
"""Features that a client may look for in GetServerInfo."""
MAX_BATCH_ROWS = 1000
"""Rows of a batch, as the contract limits them."""

Entry = TypeVar("Entry")


class Waiting(NamedTuple):
    """A call that is answered with others."""

    raw: bytes
    question: Question
    answer: asyncio.Future[bytes]


class EstimatorServicer(estimator_pb2_grpc.EstimatorServiceServicer):
    """EstimatorService of the contract. Of `knowledge` only what `learner` has learned changes while it serves."""

    def __init__(
        self,
        knowledge: Knowledge,
        *,
        calibration: Calibration = EMPTY,
        learner: "Learner | None" = None,
        page_token_key: str = "",
        max_request_bytes: int = 0,
    ) -> None:
        self._present = Present.of(knowledge, calibration if learner is None else learner.calibration)
        self._learner = learner
        self._answers = Answers()
        self._gathering = Gathering(self._answer_group)
        self._tokens = PageTokens(page_token_key)
        self._max_request_bytes = max_request_bytes

    @in_bytes
    def EstimateRun(self, request: bytes, context: Any) -> bytes | asyncio.Future[bytes]:  # type: ignore[override]  # bytes
        """Estimate one run; at once, unless so many ask that it is answered with others."""
        self._relearn()
        answer = self._answers.find(request)
        if answer is not None:
            return writing.run_response(answer)
        message = validation.parse(pb.EstimateRunRequest, request)
        if message.view == pb.ESTIMATE_VIEW_FULL:  # takes as long as a whole group
            return self._answer_alone(request, message)
        if not self._gathering.alone():
            waiting = Waiting(request, Question(message), asyncio.get_running_loop().create_future())
            self._gathering.add(waiting)
            return waiting.answer
        try:
            return self._answer_alone(request, message)
        finally:
            self._gathering.answered_alone()

    @in_bytes
    async def BatchEstimateRuns(self, request: bytes, context: Any) -> bytes:  # type: ignore[override]
        """Estimate many runs; a row that fails carries its own status."""
        rows = validation.read(pb.BatchEstimateRunsRequest, request).rows
        batches.check_keys([row.key for row in rows])
        results = []
        for first, end in batches.abreast(rows):
            await asyncio.sleep(0)
            results += self._rows(first, rows[first:end])
        return b"".join(results)

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        """List the models of the catalogue."""
        entries, token = self._page(request, "models", models(), _model_names)
        return pb.ListModelsResponse(models=map(catalog.model_message, entries), next_page_token=token)

    async def ListAccelerators(
        self,
        request: pb.ListAcceleratorsRequest,
        context: Any,
    ) -> pb.ListAcceleratorsResponse:
        """List the accelerators of the catalogue."""
        entries, token = self._page(request, "accelerators", accelerators(), lambda entry: (entry.name,))
        messages = [catalog.accelerator_message(entry, self._present.knowledge.prices) for entry in entries]
        return pb.ListAcceleratorsResponse(accelerators=messages, next_page_token=token)

    async def ListPrices(self, request: pb.ListPricesRequest, context: Any) -> pb.ListPricesResponse:
        """List the quotes of the price book."""
        quotes = catalog.select_prices(self._present.knowledge.prices, request)
        scope = f"prices/{request.accelerator}/{request.provider}/{request.term}"
        entries, token = self._cut(scope, quotes, request.page_size, request.page_token)
        prices = map(catalog.price_message, entries)
        book = self._present.revision.price_book
        return pb.ListPricesResponse(prices=prices, next_page_token=token, price_book=book)

    async def CheckPlan(self, request: pb.CheckPlanRequest, context: Any) -> pb.CheckPlanResponse:
        """Hold a run against limits."""
        return self.check(request)

    async def ReportObservation(
        self, request: pb.ReportObservationRequest, context: Any
    ) -> pb.ReportObservationResponse:
        """Take what a run measured."""
        accepted = await self._learning().report(request)
        self._relearn()
        return pb.ReportObservationResponse(accepted=accepted, calibration=self._present.revision.calibration)

    async def GetCalibration(self, request: pb.GetCalibrationRequest, context: Any) -> pb.GetCalibrationResponse:
        """Say what was learned from observed runs."""
        self._relearn()
        return calibration_messages.calibration_message(request, self._present.calibration, self._tokens)

    async def ResetCalibration(self, request: pb.ResetCalibrationRequest, context: Any) -> pb.ResetCalibrationResponse:
        """Forget what was learned."""
        device = calibration_messages.device_name(request.device, self._present.calibration)
        removed = await self._learning().reset(device)
        self._relearn()
        return pb.ResetCalibrationResponse(removed=removed, calibration=self._present.revision.calibration)

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Any) -> pb.GetServerInfoResponse:
        """Say what this server is."""
        self._relearn()
        limits = {"max_batch_rows": MAX_BATCH_ROWS, "max_request_bytes": self._max_request_bytes}
        server = ev.ServerInfo(
            service=NAME,
            version=distribution_version(NAME),
            api_revisions=["v1"],
            features=self._features(),
            limits=limits,
        )
        return pb.GetServerInfoResponse(server=server, revision=self._present.revision)

    def estimate(self, request: pb.EstimateRunRequest) -> pb.Estimate:
        """The answer to a validated request; the one-shot program calls it too. Raises DomainError."""
        self._relearn()
        key = key_of(request)
        known = self._answers.find(key)
        return pb.Estimate.FromString(self._answer(key, Question(request)) if known is None else known)

    def _answer(self, key: bytes, question: Question) -> bytes:
        """The answer to a validated question that is not kept yet; it is kept from then on. Raises its error."""
        answering.answer([question], self._present)
        if question.error is not None:
            raise question.error
        return self._kept(key, question)

    def _kept(self, key: bytes, question: Question) -> bytes:
        """The answer to a question, kept from now on."""
        assert question.answer is not None  # noqa: S101  # it has one or an error
        self._answers.keep(key, question.answer)
        return question.answer

    def _answer_alone(self, raw: bytes, request: pb.EstimateRunRequest) -> bytes:
        """The response to a request that is not validated yet."""
        question = Question(request)
        answering.validate([(question, "", raw)])
        return writing.run_response(self._answer(raw, question))

    def _answer_group(self, group: list[Waiting]) -> None:
        """Answer calls that were gathered, abreast."""
        self._relearn()
        asked = [waiting for waiting in group if not waiting.answer.done()]  # a call may have been cancelled
        answering.validate((waiting.question, "", waiting.raw) for waiting in asked)
        answering.answer([waiting.question for waiting in asked], self._present)
        for raw, question, answer in asked:
            if question.error is not None:
                answer.set_exception(question.error)
            else:
                answer.set_result(writing.run_response(self._kept(raw, question)))

    def check(self, request: pb.CheckPlanRequest) -> pb.CheckPlanResponse:
        """The answer to a validated request; the one-shot program calls it too. Raises DomainError."""
        return check_plan.check_plan(request, self.estimate, self._present.knowledge, self._present.calibration)

    def _features(self) -> tuple[str, ...]:
        return (*FEATURES, "calibration") if self._learner is not None else FEATURES

    def _learning(self) -> "Learner":
        if self._learner is None:
            text = "this server keeps no observations; start it with --state-dir"
            raise FailedPrecondition("CALIBRATION_OFF", text)
        return self._learner

    def _relearn(self) -> None:
        """Go over to the present calibration; its revision is in every answer from then on."""
        if self._learner is None or self._learner.calibration is self._present.calibration:
            return
        self._present = Present.of(self._present.knowledge, self._learner.calibration)
        self._answers.forget()

    def _rows(self, first: int, rows: Sequence[pb.BatchEstimateRow]) -> list[bytes]:
        """Results of rows that begin with this number, as the response has them; what is not known is asked abreast."""
        self._relearn()
        keys = [key_of(row.request) for row in rows]
        known = [self._answers.find(key) for key in keys]
        asked = {at: Question(row.request) for at, row in enumerate(rows) if known[at] is None}
        # What was answered before was valid then.
        answering.validate((question, f"rows[{first + at}].request", keys[at]) for at, question in asked.items())
        answering.answer(list(asked.values()), self._present)
        return [
            writing.batch_result(row.key, answer) if answer is not None else self._new(row.key, key, asked[at])
            for at, (row, key, answer) in enumerate(zip(rows, keys, known, strict=True))
        ]

    def _new(self, row_key: str, key: bytes, question: Question) -> bytes:
        """The result of a row that was not known."""
        if isinstance(question.error, DomainError):
            return writing.batch_error(row_key, to_status(question.error))
        if question.error is not None:
            raise question.error
        return writing.batch_result(row_key, self._kept(key, question))

    def _page(
        self,
        request: pb.ListModelsRequest | pb.ListAcceleratorsRequest,
        what: str,
        entries: Sequence[Entry],
        names: Callable[[Entry], tuple[str, ...]],
    ) -> tuple[Sequence[Entry], str]:
        prefix = request.prefix.lower()
        found = [entry for entry in entries if any(name.lower().startswith(prefix) for name in names(entry))]
        return self._cut(f"{what}/{prefix}", found, request.page_size, request.page_token)

    def _cut(self, scope: str, found: Sequence[Entry], size: int, token: str) -> tuple[Sequence[Entry], str]:
        """A page of what was found, and the token of the next one."""
        start = int(self._tokens.read(scope, token) or 0)
        end = start + page_size(size)
        return found[start:end], self._tokens.issue(scope, str(end)) if end < len(found) else ""


def _model_names(entry: ModelEntry) -> tuple[str, ...]:
    return entry.name, entry.hub_id, entry.family, *entry.aliases
