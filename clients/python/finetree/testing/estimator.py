# SPDX-License-Identifier: Apache-2.0
"""The fake estimator: invented numbers that agree with each other."""

from __future__ import annotations

from finetree_api.estimator.v1 import calibration_pb2, catalog_pb2, check_plan_pb2, estimate_pb2, estimator_pb2
from finetree_api.types.v1 import check_pb2, estimate_summary_pb2, evidence_pb2, method_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from finetree._shared import rpcs
from finetree.errors import FinetreeError, InvalidArgument
from finetree.money import to_float, to_money
from finetree.testing.handlers import Handlers
from finetree.testing.values import (
    PARAMETERS,
    REVISION,
    USABLE_BYTES,
    device,
    interval,
    make_plan,
    money,
    page,
    parameters,
    server,
)

PRICES = tuple(
    catalog_pb2.Price(
        price_id=f"fake/rtx-4090/{term}",
        accelerator="rtx-4090",
        provider="fake",
        term=catalog_pb2.PriceTerm.Value(f"PRICE_TERM_{term.upper()}"),
        hourly_price=to_money(hourly, "USD"),
    )
    for term, hourly in (("spot", 0.25), ("on_demand", 0.5))
)


class FakeEstimator:
    """Answers of the estimator; observations are kept and change nothing.

    Attributes:
        observations: by job and attempt.
    """

    def __init__(self, handlers: Handlers) -> None:
        self.observations: dict[tuple[str, int], calibration_pb2.Observation] = {}
        handlers.unary(rpcs.ESTIMATE_RUN, self._estimate_run)
        handlers.unary(rpcs.BATCH_ESTIMATE_RUNS, self.batch)
        handlers.unary(rpcs.LIST_MODELS, self.models)
        handlers.unary(rpcs.LIST_ACCELERATORS, self.accelerators)
        handlers.unary(rpcs.LIST_PRICES, self.prices)
        handlers.unary(rpcs.CHECK_PLAN, self.check)
        handlers.unary(rpcs.REPORT_OBSERVATION, self.report)
        handlers.unary(rpcs.GET_CALIBRATION, self.calibration)
        handlers.unary(rpcs.RESET_CALIBRATION, self.reset)
        info = estimator_pb2.GetServerInfoResponse(server=server("estimator"), revision=REVISION)
        handlers.unary(rpcs.ESTIMATOR_INFO, lambda _: info)

    def estimate(self, request: estimate_pb2.EstimateRunRequest) -> estimate_pb2.Estimate:
        """Estimate two bytes a parameter, and everything else in proportion."""
        spec = request.spec
        peak = 2 * parameters(spec, "spec.model")
        usable = USABLE_BYTES[device(spec)]
        parts = {
            estimate_pb2.MEMORY_COMPONENT_KIND_BASE_WEIGHTS: peak * 3 // 4,
            estimate_pb2.MEMORY_COMPONENT_KIND_ACTIVATIONS: peak // 4,
        }
        fits = peak < usable
        return estimate_pb2.Estimate(
            resolved_spec=spec,
            memory=estimate_pb2.MemoryEstimate(
                components=[
                    estimate_pb2.MemoryComponent(kind=kind, bytes=interval(size)) for kind, size in parts.items()
                ],
                device_bytes=interval(sum(parts.values())),
                usable_device_bytes=usable,
            ),
            fit=estimate_pb2.Fit(
                verdict=(
                    estimate_summary_pb2.FIT_VERDICT_FITS if fits else estimate_summary_pb2.FIT_VERDICT_DOES_NOT_FIT
                ),
                headroom_bytes=usable - peak,
            ),
            time=estimate_pb2.TimeEstimate(total_seconds=interval(peak / 1e7)),
            cost=estimate_pb2.CostEstimate(total=money(peak / 1e9)),
            total_parameters=peak // 2,
            revision=REVISION,
            plan_digest=make_plan(
                spec, request.dataset_profile if request.HasField("dataset_profile") else None
            ).digest,
        )

    def batch(self, request: estimator_pb2.BatchEstimateRunsRequest) -> estimator_pb2.BatchEstimateRunsResponse:
        """Estimate row by row; a row that fails holds its status."""
        return estimator_pb2.BatchEstimateRunsResponse(results=[self._row(row) for row in request.rows])

    def models(self, request: catalog_pb2.ListModelsRequest) -> catalog_pb2.ListModelsResponse:
        """List the models, in pages."""
        names = sorted(name for name in PARAMETERS if name.startswith(request.prefix.lower()))
        chosen, token = page([catalog_pb2.Model(name=name, parameters=PARAMETERS[name]) for name in names], request)
        return catalog_pb2.ListModelsResponse(models=chosen, next_page_token=token)

    def accelerators(self, request: catalog_pb2.ListAcceleratorsRequest) -> catalog_pb2.ListAcceleratorsResponse:
        """List the one accelerator."""
        names = [name for name in USABLE_BYTES if name != "cpu" and name.startswith(request.prefix.lower())]
        return catalog_pb2.ListAcceleratorsResponse(
            accelerators=[catalog_pb2.Accelerator(name=name, usable_bytes=USABLE_BYTES[name]) for name in names]
        )

    def prices(self, request: catalog_pb2.ListPricesRequest) -> catalog_pb2.ListPricesResponse:
        """List two quotes for the one accelerator, in pages."""
        found = [
            price
            for price in PRICES
            if request.accelerator in ("", price.accelerator)
            and request.provider in ("", price.provider)
            and request.term in (catalog_pb2.PRICE_TERM_UNSPECIFIED, price.term)
        ]
        prices, token = page(found, request)
        return catalog_pb2.ListPricesResponse(prices=prices, next_page_token=token)

    def check(self, request: check_plan_pb2.CheckPlanRequest) -> check_plan_pb2.CheckPlanResponse:
        """Check the limits on cost, time and memory; waivers hold whatever the day, and so do overrides."""
        estimate = self.estimate(request.run)
        checks = [_check(limit, estimate) for limit in request.policy.limits]
        lifted = {waiver.rule_id for waiver in request.policy.waivers}
        lifted |= {override.rule_id for override in request.overrides}
        for check in checks:
            if check.rule_id in lifted and check.verdict != check_pb2.CHECK_VERDICT_PASS:
                check.verdict = check_pb2.CHECK_VERDICT_WAIVED
        verdicts = {check.verdict for check in checks}
        order = (
            check_pb2.CHECK_VERDICT_FAIL,
            check_pb2.CHECK_VERDICT_UNDECIDED,
            check_pb2.CHECK_VERDICT_WAIVED,
            check_pb2.CHECK_VERDICT_PASS,
        )
        worst = next(verdict for verdict in order if verdict in verdicts)
        return check_plan_pb2.CheckPlanResponse(verdict=worst, checks=checks, estimate=estimate)

    def report(self, request: calibration_pb2.ReportObservationRequest) -> calibration_pb2.ReportObservationResponse:
        """Keep an observation once."""
        key = (request.observation.job, request.observation.attempt)
        accepted = key not in self.observations
        self.observations.setdefault(key, request.observation)
        return calibration_pb2.ReportObservationResponse(accepted=accepted)

    def calibration(self, request: calibration_pb2.GetCalibrationRequest) -> calibration_pb2.GetCalibrationResponse:
        """Show the observations as points, newest first, and a factor that they do not change."""
        points = [
            calibration_pb2.CalibrationPoint(
                job=job,
                attempt=attempt,
                device="rtx-4090",
                method=method_pb2.METHOD_LORA,
                predicted_step_seconds=1.0,
                measured_step_seconds=kept.step_seconds,
            )
            for (job, attempt), kept in reversed(self.observations.items())
        ]
        shown, token = page(points, request)
        factor = evidence_pb2.Interval(low=0.9, expected=1.1, high=1.3, coverage=0.9)
        entry = calibration_pb2.CalibrationEntry(device="rtx-4090", step_time_factor=factor, observations=len(points))
        revision = evidence_pb2.RevisionComponent(id=f"calibration-{len(points)}", date="2026-01-01")
        return calibration_pb2.GetCalibrationResponse(
            entries=[entry] if points else [], points=shown, next_page_token=token, calibration=revision
        )

    def reset(self, _: calibration_pb2.ResetCalibrationRequest) -> calibration_pb2.ResetCalibrationResponse:
        """Delete all observations."""
        removed = len(self.observations)
        self.observations.clear()
        return calibration_pb2.ResetCalibrationResponse(removed=removed)

    def _estimate_run(self, request: estimate_pb2.EstimateRunRequest) -> estimator_pb2.EstimateRunResponse:
        return estimator_pb2.EstimateRunResponse(estimate=self.estimate(request))

    def _row(self, row: estimator_pb2.BatchEstimateRow) -> estimator_pb2.BatchEstimateResult:
        try:
            return estimator_pb2.BatchEstimateResult(key=row.key, estimate=self.estimate(row.request))
        except FinetreeError as error:
            status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=error.message)
            status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain="finetree"))
            return estimator_pb2.BatchEstimateResult(key=row.key, error=status)


def _check(limit: check_plan_pb2.PolicyLimit, estimate: estimate_pb2.Estimate) -> check_pb2.Check:
    """Compare an estimate with a limit; only cost, duration, memory and fit are known."""
    metric = check_plan_pb2.PolicyMetric.Name(limit.metric).removeprefix("POLICY_METRIC_").lower()
    check = check_pb2.Check(
        rule_id=limit.rule_id or metric,
        severity=limit.severity or check_pb2.SEVERITY_ERROR,
        verdict=check_pb2.CHECK_VERDICT_UNDECIDED,
        field_path="hardware",
    )
    if limit.metric == check_plan_pb2.POLICY_METRIC_FIT:
        fits = estimate.fit.verdict == estimate_summary_pb2.FIT_VERDICT_FITS
        check.verdict = check_pb2.CHECK_VERDICT_PASS if fits else check_pb2.CHECK_VERDICT_FAIL
        check.message = "it fits" if fits else "it does not fit"
        return check
    measured = _measured(metric, estimate, check)
    if measured is None:
        check.message = f"the fake estimator does not know {metric}"
        return check
    check.currency_code = limit.max_money.currency_code
    if limit.HasField("max_money") and check.currency_code != estimate.cost.total.currency_code:
        raise InvalidArgument("policy: the cost is in another currency", reason="CURRENCY_MISMATCH")
    bound = to_float(limit.max_money) if limit.HasField("max_money") else limit.max
    if measured.high <= bound:
        check.verdict = check_pb2.CHECK_VERDICT_PASS
    elif measured.low > bound:
        check.verdict = check_pb2.CHECK_VERDICT_FAIL
    check.measured.CopyFrom(measured)
    check.limit = bound
    check.message = f"{measured.expected:g} expected, limit {bound:g}"
    return check


def _measured(metric: str, estimate: estimate_pb2.Estimate, check: check_pb2.Check) -> evidence_pb2.Interval | None:
    """Find the number of a metric, and set its unit."""
    known = {
        "cost": (estimate.cost.total.amount, check_pb2.CHECK_UNIT_MONEY),
        "duration_seconds": (estimate.time.total_seconds, check_pb2.CHECK_UNIT_SECONDS),
        "device_bytes": (estimate.memory.device_bytes, check_pb2.CHECK_UNIT_BYTES),
    }
    if metric not in known:
        return None
    measured, check.unit = known[metric]
    return measured
