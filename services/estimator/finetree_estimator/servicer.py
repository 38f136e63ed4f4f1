# SPDX-License-Identifier: Apache-2.0
"""The rpcs of EstimatorService: each converts its request, calls the domain code, and converts the result back."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from finetree_api.estimator.v1 import (
    calibration_pb2,
    catalog_pb2,
    check_plan_pb2,
    estimate_pb2,
    estimator_pb2,
    estimator_pb2_grpc,
)
from finetree_api.types.v1 import evidence_pb2
from finetree_runtime.errors import DomainError, FailedPrecondition, invalid_field, to_status
from finetree_runtime.paging import PageTokens, page_size
from finetree_runtime.server.identity import distribution_version, server_info
from finetree_runtime.server.validation import validate

from finetree_estimator.catalog import versions
from finetree_estimator.catalog.accelerators import accelerators
from finetree_estimator.catalog.models import ModelEntry, models
from finetree_estimator.evidence import measured_runs
from finetree_estimator.evidence.calibration import EMPTY, Calibration
from finetree_estimator.messages import calibration as calibration_messages
from finetree_estimator.messages import catalog
from finetree_estimator.messages.check_plan import check_plan_response
from finetree_estimator.messages.estimate import basic_message, summary_message
from finetree_estimator.messages.provenance import revision_message
from finetree_estimator.messages.searches import (
    largest_message,
    nearest_runs_message,
    offers_message,
    remedies_message,
    smallest_hardware_message,
)
from finetree_estimator.settings import NAME
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.whatif import hardware, largest, remedies
from finetree_estimator.whatif.check_plan import check_plan
from finetree_estimator.whatif.fallbacks import Answer, answer_request

if TYPE_CHECKING:
    from finetree_estimator.evidence.learner import Learner

SERVICE = "finetree_api.estimator.v1.EstimatorService"
"""Full name of the gRPC service."""
FEATURES = ("cpu", "shape", "price-book", "batch", "remedies", "check", "what-fits")
"""Features that GetServerInfo names, and "calibration" where the server learns."""
MAX_BATCH_ROWS = 1000
"""Most rows of a batch, the contract's limit."""

ALL_SEARCHES = (
    estimate_pb2.ESTIMATE_SEARCH_NEAREST_RUNS,
    estimate_pb2.ESTIMATE_SEARCH_REMEDIES,
    estimate_pb2.ESTIMATE_SEARCH_LARGEST,
    estimate_pb2.ESTIMATE_SEARCH_SMALLEST_HARDWARE,
    estimate_pb2.ESTIMATE_SEARCH_OFFERS,
)
"""Searches of the FULL view."""

Entry = TypeVar("Entry")
ListRequest = catalog_pb2.ListModelsRequest | catalog_pb2.ListAcceleratorsRequest | catalog_pb2.ListPricesRequest


@dataclass(frozen=True, slots=True)
class State:
    """Inputs of every answer besides the request, and their revision."""

    knowledge: Knowledge
    calibration: Calibration
    revision: evidence_pb2.Revision

    @classmethod
    def of(cls, knowledge: Knowledge, calibration: Calibration) -> "State":
        """Combine knowledge and calibration, and compute their revision."""
        return cls(knowledge, calibration, revision_message(versions.parts(knowledge.prices, calibration.part)))


class EstimatorServicer(estimator_pb2_grpc.EstimatorServiceServicer):
    """EstimatorService of the contract. While it serves, only the calibration of `learner` changes."""

    def __init__(
        self,
        knowledge: Knowledge,
        *,
        calibration: Calibration = EMPTY,
        learner: "Learner | None" = None,
        page_token_key: str = "",
        limits: Mapping[str, int] | None = None,
    ) -> None:
        self._last = State.of(knowledge, calibration if learner is None else learner.calibration)
        self._learner = learner
        self._tokens = PageTokens(page_token_key)
        self._limits = {"max_batch_rows": MAX_BATCH_ROWS, **(limits or {})}

    async def EstimateRun(
        self, request: estimate_pb2.EstimateRunRequest, context: Any
    ) -> estimator_pb2.EstimateRunResponse:
        """Estimate one run."""
        return estimator_pb2.EstimateRunResponse(estimate=await self._estimate(request))

    async def BatchEstimateRuns(
        self, request: estimator_pb2.BatchEstimateRunsRequest, context: Any
    ) -> estimator_pb2.BatchEstimateRunsResponse:
        """Estimate several runs; a row that fails has a status of its own."""
        _check_keys(row.key for row in request.rows)
        results = []
        for number, row in enumerate(request.rows):
            results.append(await self._row(number, row))
            await asyncio.sleep(0)  # lets other calls run: a batch may take seconds
        return estimator_pb2.BatchEstimateRunsResponse(results=results)

    async def ListModels(self, request: catalog_pb2.ListModelsRequest, context: Any) -> catalog_pb2.ListModelsResponse:
        """List the models of the catalog."""
        entries, token = self._page(request, "models", models(), names=_model_names)
        return catalog_pb2.ListModelsResponse(models=map(catalog.model_message, entries), next_page_token=token)

    async def ListAccelerators(
        self,
        request: catalog_pb2.ListAcceleratorsRequest,
        context: Any,
    ) -> catalog_pb2.ListAcceleratorsResponse:
        """List the accelerators of the catalog."""
        entries, token = self._page(request, "accelerators", accelerators(), names=lambda entry: (entry.name,))
        messages = [catalog.accelerator_message(entry, self._state().knowledge.prices) for entry in entries]
        return catalog_pb2.ListAcceleratorsResponse(accelerators=messages, next_page_token=token)

    async def ListPrices(self, request: catalog_pb2.ListPricesRequest, context: Any) -> catalog_pb2.ListPricesResponse:
        """List the quotes of the price book."""
        state = self._state()
        quotes = catalog.select_prices(state.knowledge.prices, request)
        scope = f"prices/{request.accelerator}/{request.provider}/{request.term}"
        entries, token = self._cut(scope, quotes, request)
        prices = map(catalog.price_message, entries)
        return catalog_pb2.ListPricesResponse(
            prices=prices, next_page_token=token, price_book=state.revision.price_book
        )

    async def CheckPlan(
        self, request: check_plan_pb2.CheckPlanRequest, context: Any
    ) -> check_plan_pb2.CheckPlanResponse:
        """Check a run against the limits of a policy."""
        return await asyncio.to_thread(self.check, request)

    async def ReportObservation(
        self, request: calibration_pb2.ReportObservationRequest, context: Any
    ) -> calibration_pb2.ReportObservationResponse:
        """Store the measurements of a finished run and update the calibration."""
        accepted = await self._learning().report(request)
        return calibration_pb2.ReportObservationResponse(
            accepted=accepted, calibration=self._state().revision.calibration
        )

    async def GetCalibration(
        self, request: calibration_pb2.GetCalibrationRequest, context: Any
    ) -> calibration_pb2.GetCalibrationResponse:
        """Return the corrections that observed runs led to, and the observations."""
        return calibration_messages.calibration_message(request, self._state().calibration, self._tokens)

    async def ResetCalibration(
        self, request: calibration_pb2.ResetCalibrationRequest, context: Any
    ) -> calibration_pb2.ResetCalibrationResponse:
        """Delete observations, of one device or of all."""
        device = calibration_messages.device_name(request.device, self._state().calibration)
        removed = await self._learning().reset(device, request.request_id)
        return calibration_pb2.ResetCalibrationResponse(removed=removed, calibration=self._state().revision.calibration)

    async def GetServerInfo(
        self, request: estimator_pb2.GetServerInfoRequest, context: Any
    ) -> estimator_pb2.GetServerInfoResponse:
        """Return the server's version, features, limits and revision."""
        features = (*FEATURES, "calibration") if self._learner is not None else FEATURES
        server = server_info(NAME, distribution_version(NAME), features=features, limits=self._limits)
        return estimator_pb2.GetServerInfoResponse(server=server, revision=self._state().revision)

    def estimate(self, request: estimate_pb2.EstimateRunRequest) -> estimate_pb2.Estimate:
        """Answer a validated EstimateRunRequest. Raises DomainError."""
        state = self._state()
        if request.HasField("pinned"):
            _check_pins(request.pinned, state.revision)
        answer = answer_request(request, state.knowledge, state.calibration)
        if request.view == estimate_pb2.ESTIMATE_VIEW_SUMMARY:
            message = summary_message(answer, state.revision)
        else:
            message = basic_message(answer, state.revision)
        for search in _searches(request):
            message.MergeFrom(_found(search, answer, state))
        return message

    def check(self, request: check_plan_pb2.CheckPlanRequest) -> check_plan_pb2.CheckPlanResponse:
        """Answer a validated CheckPlanRequest. Raises DomainError."""
        state = self._state()
        if request.run.HasField("pinned"):
            _check_pins(request.run.pinned, state.revision)
        return check_plan_response(check_plan(request, state.knowledge, state.calibration), state.revision)

    async def _estimate(self, request: estimate_pb2.EstimateRunRequest) -> estimate_pb2.Estimate:
        """Answer a validated request; searches run in a thread, to keep the event loop free."""
        if _searches(request):
            return await asyncio.to_thread(self.estimate, request)
        return self.estimate(request)

    async def _row(self, number: int, row: estimator_pb2.BatchEstimateRow) -> estimator_pb2.BatchEstimateResult:
        """Answer one row of a batch."""
        try:
            validate(row.request, path=f"rows[{number}].request")
            return estimator_pb2.BatchEstimateResult(key=row.key, estimate=await self._estimate(row.request))
        except DomainError as error:
            return estimator_pb2.BatchEstimateResult(key=row.key, error=to_status(error))

    def _state(self) -> State:
        """Return the present state; a new one once the learner's calibration has changed."""
        if self._learner is not None and self._learner.calibration is not self._last.calibration:
            self._last = State.of(self._last.knowledge, self._learner.calibration)
        return self._last

    def _learning(self) -> "Learner":
        if self._learner is None:
            text = "this server stores no observations; start it with --state-dir"
            raise FailedPrecondition("CALIBRATION_OFF", text)
        return self._learner

    def _page(
        self,
        request: catalog_pb2.ListModelsRequest | catalog_pb2.ListAcceleratorsRequest,
        what: str,
        entries: Sequence[Entry],
        *,
        names: Callable[[Entry], tuple[str, ...]],
    ) -> tuple[Sequence[Entry], str]:
        prefix = request.prefix.lower()
        found = [entry for entry in entries if any(name.lower().startswith(prefix) for name in names(entry))]
        return self._cut(f"{what}/{prefix}", found, request)

    def _cut(self, scope: str, found: Sequence[Entry], request: ListRequest) -> tuple[Sequence[Entry], str]:
        """Cut one page from a list; the second value is the token of the next page, empty after the last."""
        start = int(self._tokens.read(scope, request.page_token) or 0)
        end = start + page_size(request.page_size)
        return found[start:end], self._tokens.issue(scope, str(end)) if end < len(found) else ""


def _searches(request: estimate_pb2.EstimateRunRequest) -> Sequence[estimate_pb2.EstimateSearch.ValueType]:
    """Searches that a request asks for: of the FULL view all."""
    return ALL_SEARCHES if request.view == estimate_pb2.ESTIMATE_VIEW_FULL else request.searches


def _found(search: estimate_pb2.EstimateSearch.ValueType, answer: Answer, state: State) -> estimate_pb2.Estimate:
    """Make a search, and write what it finds alone."""
    parsed, knowledge, calibration = answer.parsed, state.knowledge, state.calibration
    match search:
        case estimate_pb2.ESTIMATE_SEARCH_NEAREST_RUNS:
            return nearest_runs_message(measured_runs.nearest_runs(measured_runs.case_of(parsed.run)))
        case estimate_pb2.ESTIMATE_SEARCH_REMEDIES:
            return remedies_message(remedies.search(parsed, knowledge, answer.correction))
        case estimate_pb2.ESTIMATE_SEARCH_LARGEST:
            return largest_message(largest.search(parsed, answer.correction))
        case estimate_pb2.ESTIMATE_SEARCH_SMALLEST_HARDWARE:
            return smallest_hardware_message(hardware.smallest(parsed, knowledge, calibration))
        case _:
            return offers_message(hardware.offers(answer, knowledge, calibration))


def _check_keys(keys: Iterable[str]) -> None:
    """Raise InvalidArgument where two rows of a batch have the same key."""
    seen: set[str] = set()
    for number, key in enumerate(keys):
        if key in seen:
            raise invalid_field(f"rows[{number}].key", f"{key!r} is also the key of an earlier row; keys must differ")
        seen.add(key)


def _check_pins(pinned: evidence_pb2.Revision, present: evidence_pb2.Revision) -> None:
    """Raise FailedPrecondition for a pinned part that this server does not have; the rule pack is the recommender's."""
    for name in ("engine", "catalog", "price_book", "calibration"):
        wanted, have = getattr(pinned, name), getattr(present, name)
        for pin, found in ((wanted.id, have.id), (wanted.sha256, have.sha256)):
            if pin and pin != found:
                text = f"{name} {pin} is not available; this server has {found or 'none'}"
                raise FailedPrecondition("REVISION_UNAVAILABLE", f"pinned.{name}: {text}", metadata={"component": name})


def _model_names(entry: ModelEntry) -> tuple[str, ...]:
    return entry.name, entry.hub_id, entry.family, *entry.aliases
