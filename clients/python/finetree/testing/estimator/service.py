# SPDX-License-Identifier: Apache-2.0
"""The fake estimator: invented numbers that agree with each other."""

from __future__ import annotations

from finetree_api.estimator.v1 import calibration_pb2, catalog_pb2, check_plan_pb2, estimate_pb2, estimator_pb2
from finetree_api.trainer.v1 import base_model_pb2
from finetree_api.types.v1 import evidence_pb2, method_pb2, run_spec_pb2

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
from finetree.testing.estimator.estimates import DOES_NOT_FIT, estimate_of, in_view
from finetree.testing.estimator.policy import judge
from finetree.testing.handlers import Handlers, to_status
from finetree.testing.requests import Answers, body_hash, invalid, page
from finetree.testing.validation import violations_of

MAX_BATCH_ROWS = 1000


class FakeEstimator:
    """Answers of the estimator; observations are kept, and change the calibration's revision but no number.

    Attributes:
        observations: by job and attempt.
    """

    def __init__(self, handlers: Handlers, answers: Answers) -> None:
        self.observations: dict[tuple[str, int], calibration_pb2.Observation] = {}
        self._answers = answers
        handlers.unary(rpcs.ESTIMATE_RUN, self._estimate_run)
        handlers.unary(rpcs.BATCH_ESTIMATE_RUNS, self.batch)
        handlers.unary(rpcs.LIST_MODELS, self.models)
        handlers.unary(rpcs.LIST_ACCELERATORS, self.accelerators)
        handlers.unary(rpcs.LIST_PRICES, self.prices)
        handlers.unary(rpcs.CHECK_PLAN, self.check)
        handlers.unary(rpcs.REPORT_OBSERVATION, self.report)
        handlers.unary(rpcs.GET_CALIBRATION, self.calibration)
        handlers.unary(rpcs.RESET_CALIBRATION, self.reset)
        handlers.unary(rpcs.ESTIMATOR_INFO, self._info)

    def revision(self) -> evidence_pb2.Revision:
        """What answers come from; the calibration's id counts the observations."""
        revision = evidence_pb2.Revision()
        revision.CopyFrom(REVISION)
        if self.observations:
            revision.calibration.id = f"calibration-{len(self.observations)}"
        return revision

    def estimate(self, request: estimate_pb2.EstimateRunRequest, where: str = "") -> estimate_pb2.Estimate:
        """Estimate a run, or the first of its fallbacks that fits; `where` is the field of the request, for errors.

        Raises:
            FinetreeError: what EstimateRun documents.
        """
        prefix = f"{where}." if where else ""
        require_pinned(request.pinned, self.revision(), f"{prefix}pinned")
        answer = self._try(request, request.spec, f"{prefix}spec")
        for taken, fallback in enumerate(request.fallbacks, 1):
            if answer.fit.verdict != DOES_NOT_FIT:
                break
            place = f"{prefix}fallbacks[{taken - 1}]"
            if broken := tuple(violations_of(fallback, place)):
                raise InvalidArgument(str(broken[0]), reason="INVALID_REQUEST", violations=broken)
            answer = self._try(request, fallback, place)
            answer.fallbacks_taken = taken
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

    def report(self, request: calibration_pb2.ReportObservationRequest) -> calibration_pb2.ReportObservationResponse:
        """Keep an observation once."""
        observation = request.observation
        body = "", request.request_id, "ReportObservation", body_hash(request, "request_id")
        known = self._answers.find(*body)
        self.estimate(observation.run, "observation.run")
        key = observation.job, observation.attempt
        accepted = key not in self.observations or known is not None
        self.observations.setdefault(key, observation)
        self._answers.keep(*body, key)
        return calibration_pb2.ReportObservationResponse(accepted=accepted, calibration=self.revision().calibration)

    def calibration(self, request: calibration_pb2.GetCalibrationRequest) -> calibration_pb2.GetCalibrationResponse:
        """Show the observations as points, newest first, and a factor that they do not change."""
        points = [_point(kept, self.estimate(kept.run)) for kept in reversed(self.observations.values())]
        points = [point for point in points if request.device in ("", point.device)]
        shown, token = page(points, request, key=lambda point: f"{point.job}/{point.attempt}")
        factor = evidence_pb2.Interval(low=0.9, expected=1.1, high=1.3, coverage=0.9)
        devices = sorted({point.device for point in points})
        entries = [
            calibration_pb2.CalibrationEntry(
                device=device,
                step_time_factor=factor,
                observations=sum(point.device == device for point in points),
            )
            for device in devices
        ]
        return calibration_pb2.GetCalibrationResponse(
            entries=entries, points=shown, next_page_token=token, calibration=self.revision().calibration
        )

    def reset(self, request: calibration_pb2.ResetCalibrationRequest) -> calibration_pb2.ResetCalibrationResponse:
        """Delete the observations of a device, or all."""
        key = "", request.request_id, "ResetCalibration", body_hash(request, "request_id")
        known = self._answers.find(*key)
        if known is None:
            gone = [name for name, kept in self.observations.items() if request.device in ("", _device(kept))]
            for name in gone:
                del self.observations[name]
            known = len(gone)
            self._answers.keep(*key, known)
        return calibration_pb2.ResetCalibrationResponse(removed=known, calibration=self.revision().calibration)

    def _info(self, _: estimator_pb2.GetServerInfoRequest) -> estimator_pb2.GetServerInfoResponse:
        info = server("estimator", max_batch_rows=MAX_BATCH_ROWS)
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


def _device(observation: calibration_pb2.Observation) -> str:
    return observation.run.spec.hardware.accelerator or "cpu"


def _point(kept: calibration_pb2.Observation, estimate: estimate_pb2.Estimate) -> calibration_pb2.CalibrationPoint:
    method = estimate.resolved_spec.WhichOneof("method") or "lora"
    return calibration_pb2.CalibrationPoint(
        job=kept.job,
        attempt=kept.attempt,
        device=_device(kept),
        method=method_pb2.Method.Value(f"METHOD_{method.upper()}"),
        predicted_step_seconds=estimate.time.step_seconds.expected,
        measured_step_seconds=kept.step_seconds,
        predicted_device_bytes=estimate.memory.device_bytes.expected,
        measured_device_bytes=kept.device_bytes,
        end_time=kept.end_time if kept.HasField("end_time") else None,
    )
