# SPDX-License-Identifier: Apache-2.0
"""The fake estimator: invented numbers that agree with each other."""

from __future__ import annotations

from finetree_api.estimator.v1 import calibration_pb2, catalog_pb2, check_plan_pb2, estimate_pb2, estimator_pb2
from finetree_api.trainer.v1 import base_model_pb2
from finetree_api.types.v1 import evidence_pb2, run_spec_pb2

from finetree._shared import rpcs
from finetree.errors import FinetreeError, InvalidArgument
from finetree.testing.catalog import (
    ACCELERATORS,
    MODELS,
    PRICES,
    REVISION,
    find_model,
    no_such,
    require_pinned,
    server,
)
from finetree.testing.clock import Clock
from finetree.testing.estimator.estimates import DOES_NOT_FIT, FITS, PREFERRED, estimate_of, in_view
from finetree.testing.estimator.observations import FakeObservations
from finetree.testing.estimator.policy import judge
from finetree.testing.handlers import Handlers, to_status
from finetree.testing.requests import Answers, invalid, page
from finetree.testing.validation import violations_of

MAX_BATCH_ROWS = 1000


class FakeEstimator:
    """Answers of the estimator; observations are kept, and change the calibration's revision but no number."""

    def __init__(self, handlers: Handlers, clock: Clock, answers: Answers) -> None:
        self._observations = FakeObservations(handlers, clock, answers=answers, estimate=self.estimate)
        handlers.unary(rpcs.ESTIMATE_RUN, self._estimate_run)
        handlers.unary(rpcs.BATCH_ESTIMATE_RUNS, self.batch)
        handlers.unary(rpcs.LIST_MODELS, self.models)
        handlers.unary(rpcs.LIST_ACCELERATORS, self.accelerators)
        handlers.unary(rpcs.LIST_PRICES, self.prices)
        handlers.unary(rpcs.CHECK_PLAN, self.check)
        handlers.unary(rpcs.ESTIMATOR_INFO, self._info)

    @property
    def observations(self) -> dict[tuple[str, int], calibration_pb2.Observation]:
        """What was reported, by job and attempt."""
        return self._observations.kept

    def revision(self) -> evidence_pb2.Revision:
        """What answers come from; the calibration's id counts the observations."""
        revision = evidence_pb2.Revision()
        revision.CopyFrom(REVISION)
        revision.calibration.CopyFrom(self._observations.revision())
        return revision

    def estimate(self, request: estimate_pb2.EstimateRunRequest, where: str = "") -> estimate_pb2.Estimate:
        """Estimate a run, or the first that fits with its fallbacks merged into it, one after the other.

        Args:
            request: the run.
            where: the field that holds the request, for errors.

        Raises:
            FinetreeError: what EstimateRun documents.
        """
        prefix = f"{where}." if where else ""
        require_pinned(request.pinned, self.revision(), f"{prefix}pinned")
        answer = self._try(request, request.spec, f"{prefix}spec")
        tried = {answer.fit.verdict: answer}
        spec = run_spec_pb2.RunSpec()
        spec.CopyFrom(request.spec)
        for taken, fallback in enumerate(request.fallbacks, 1):
            if answer.fit.verdict == FITS:
                break
            place = f"{prefix}fallbacks[{taken - 1}].spec"
            spec.MergeFrom(fallback)
            if broken := tuple(violations_of(spec, place)):
                raise InvalidArgument(str(broken[0]), reason="INVALID_REQUEST", violations=broken)
            answer = self._try(request, spec, place)
            answer.fallbacks_taken = taken
            if answer.fit.verdict == DOES_NOT_FIT or answer.fit.verdict not in tried:
                tried[answer.fit.verdict] = answer
        answer = next(tried[verdict] for verdict in PREFERRED if verdict in tried)
        return in_view(answer, request.view)

    def of_job(
        self, request: estimate_pb2.EstimateRunRequest, model: base_model_pb2.BaseModel | None
    ) -> estimate_pb2.Estimate:
        """Estimate a job on a base model, which may be one that the catalog does not have."""
        known = {each.hub_id.lower(): each for each in MODELS.values()}
        hub_id = model.hub_id.lower() if model is not None else ""
        answer = estimate_of(request, known.get(hub_id, MODELS["tiny"]), spec=request.spec, where="job.train.spec")
        answer.revision.CopyFrom(self.revision())
        return answer

    def _try(
        self, request: estimate_pb2.EstimateRunRequest, spec: run_spec_pb2.RunSpec, where: str
    ) -> estimate_pb2.Estimate:
        answer = estimate_of(request, find_model(spec.model, f"{where}.model"), spec=spec, where=where)
        answer.revision.CopyFrom(self.revision())
        return answer

    def batch(self, request: estimator_pb2.BatchEstimateRunsRequest) -> estimator_pb2.BatchEstimateRunsResponse:
        """Estimate row by row; a row that fails holds its status."""
        if not 0 < len(request.rows) <= MAX_BATCH_ROWS:
            raise invalid("rows", f"must be 1 to {MAX_BATCH_ROWS} rows, are {len(request.rows)}")
        keys: set[str] = set()
        for number, row in enumerate(request.rows):
            if row.key in keys:
                raise invalid(f"rows[{number}].key", f"{row.key!r} is the key of another row too")
            keys.add(row.key)
        results = [self._row(number, row) for number, row in enumerate(request.rows)]
        return estimator_pb2.BatchEstimateRunsResponse(results=results)

    def models(self, request: catalog_pb2.ListModelsRequest) -> catalog_pb2.ListModelsResponse:
        """List the models, in pages."""
        prefix = request.prefix.lower()
        found = [
            MODELS[name]
            for name in sorted(MODELS)
            if name.startswith(prefix) or MODELS[name].hub_id.lower().startswith(prefix)
        ]
        chosen, token = page(found, request, key=lambda model: model.name)
        return catalog_pb2.ListModelsResponse(models=chosen, next_page_token=token)

    def accelerators(self, request: catalog_pb2.ListAcceleratorsRequest) -> catalog_pb2.ListAcceleratorsResponse:
        """List the accelerators, in pages."""
        found = [ACCELERATORS[name] for name in sorted(ACCELERATORS) if name.startswith(request.prefix.lower())]
        chosen, token = page(found, request, key=lambda card: card.name)
        return catalog_pb2.ListAcceleratorsResponse(accelerators=chosen, next_page_token=token)

    def prices(self, request: catalog_pb2.ListPricesRequest) -> catalog_pb2.ListPricesResponse:
        """List quotes, in pages."""
        asked = request.accelerator.lower()
        if asked and asked not in ACCELERATORS:
            no_such("accelerator", asked, ACCELERATORS, reason="ACCELERATOR_NOT_FOUND", where="accelerator")
        found = [
            price
            for price in PRICES
            if asked in ("", price.accelerator)
            and request.provider.lower() in ("", price.provider)
            and request.term in (catalog_pb2.PRICE_TERM_UNSPECIFIED, price.term)
        ]
        prices, token = page(found, request, key=lambda price: price.price_id)
        return catalog_pb2.ListPricesResponse(prices=prices, next_page_token=token, price_book=REVISION.price_book)

    def check(self, request: check_plan_pb2.CheckPlanRequest) -> check_plan_pb2.CheckPlanResponse:
        """Hold a run against a policy."""
        if request.run.fallbacks:
            raise invalid("run.fallbacks", "a plan is one run; leave them out")
        estimate = self.estimate(_basic(request.run), "run")
        base = self.estimate(_basic(request.base_run), "base_run") if request.HasField("base_run") else None
        return judge(request, estimate, base)

    def _info(self, _: estimator_pb2.GetServerInfoRequest) -> estimator_pb2.GetServerInfoResponse:
        info = server("estimator", max_batch_rows=MAX_BATCH_ROWS)
        info.features.append("calibration")
        return estimator_pb2.GetServerInfoResponse(server=info, revision=self.revision())

    def _estimate_run(self, request: estimate_pb2.EstimateRunRequest) -> estimator_pb2.EstimateRunResponse:
        return estimator_pb2.EstimateRunResponse(estimate=self.estimate(request))

    def _row(self, number: int, row: estimator_pb2.BatchEstimateRow) -> estimator_pb2.BatchEstimateResult:
        where = f"rows[{number}].request"
        try:
            if broken := tuple(violations_of(row.request, where)):
                raise InvalidArgument(str(broken[0]), reason="INVALID_REQUEST", violations=broken)
            return estimator_pb2.BatchEstimateResult(key=row.key, estimate=self.estimate(row.request, where))
        except FinetreeError as error:
            return estimator_pb2.BatchEstimateResult(key=row.key, error=to_status(error))


def _basic(run: estimate_pb2.EstimateRunRequest) -> estimate_pb2.EstimateRunRequest:
    basic = estimate_pb2.EstimateRunRequest()
    basic.CopyFrom(run)
    basic.view = estimate_pb2.ESTIMATE_VIEW_BASIC
    return basic
