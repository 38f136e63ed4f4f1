# SPDX-License-Identifier: Apache-2.0
"""The rest of the fake suite's estimator: limits, prices, and what it has learned."""

from __future__ import annotations

from collections.abc import Callable

from finetree_api.estimator.v1 import calibration_pb2, catalog_pb2, check_plan_pb2, estimate_pb2
from finetree_api.types.v1 import check_pb2, evidence_pb2

from finetree._shared import methods
from finetree.errors import InvalidArgument
from finetree.testing.wire import Wire

PRICES = tuple(
    catalog_pb2.Price(
        price_id=f"fake/rtx-4090/{term}",
        accelerator="rtx-4090",
        provider="fake",
        term=catalog_pb2.PriceTerm.Value(f"PRICE_TERM_{term.upper()}"),
        hourly_price=hourly,
        currency_code="USD",
    )
    for term, hourly in (("spot", 0.25), ("on_demand", 0.5))
)


class FakePlans:
    """Checks against the fake estimate, two prices, and observations that are kept and change nothing."""

    def __init__(
        self, wire: Wire, estimate: Callable[[estimate_pb2.EstimateRunRequest], estimate_pb2.Estimate]
    ) -> None:
        self._estimate = estimate
        self.observations: dict[tuple[str, int], calibration_pb2.Observation] = {}
        wire.unary(methods.CHECK_PLAN, self.check)
        wire.unary(methods.LIST_PRICES, self.prices)
        wire.unary(methods.REPORT_OBSERVATION, self.report)
        wire.unary(methods.GET_CALIBRATION, self.calibration)
        wire.unary(methods.RESET_CALIBRATION, self.reset)

    def check(self, request: check_plan_pb2.CheckPlanRequest) -> check_plan_pb2.CheckPlanResponse:
        """One check for each of the limits on cost, time and memory."""
        estimate, policy = self._estimate(request.run), request.policy
        measured = {
            "max_cost": estimate.cost.amount,
            "max_seconds": estimate.time.total_seconds,
            "max_device_bytes": estimate.memory.device_bytes,
        }
        limits = {field.name: value for field, value in policy.ListFields()}
        checks = [_check(name, interval, limits[name]) for name, interval in measured.items() if name in limits]
        if not checks:
            raise InvalidArgument("policy: names no limit", reason="POLICY_EMPTY")
        verdicts = {check.verdict for check in checks}
        order = (check_pb2.CHECK_VERDICT_FAIL, check_pb2.CHECK_VERDICT_UNDECIDED, check_pb2.CHECK_VERDICT_PASS)
        worst = next(verdict for verdict in order if verdict in verdicts)
        return check_plan_pb2.CheckPlanResponse(verdict=worst, checks=checks, estimate=estimate)

    def prices(self, request: catalog_pb2.ListPricesRequest) -> catalog_pb2.ListPricesResponse:
        """Two quotes for the one accelerator, in pages."""
        found = [
            price
            for price in PRICES
            if request.accelerator in ("", price.accelerator)
            and request.provider in ("", price.provider)
            and request.term in (catalog_pb2.PRICE_TERM_UNSPECIFIED, price.term)
        ]
        start = int(request.page_token or 0)
        end = start + (request.page_size or 50)
        token = str(end) if end < len(found) else ""
        return catalog_pb2.ListPricesResponse(prices=found[start:end], next_page_token=token)

    def report(self, request: calibration_pb2.ReportObservationRequest) -> calibration_pb2.ReportObservationResponse:
        """Keep an observation once."""
        key = (request.observation.job, request.observation.attempt)
        accepted = key not in self.observations
        self.observations.setdefault(key, request.observation)
        return calibration_pb2.ReportObservationResponse(accepted=accepted)

    def calibration(self, request: calibration_pb2.GetCalibrationRequest) -> calibration_pb2.GetCalibrationResponse:
        """The observations as points, newest first, and a factor that they do not change."""
        points = [
            calibration_pb2.CalibrationPoint(
                job=job,
                attempt=attempt,
                device="rtx-4090",
                method="lora",
                predicted_step_seconds=1.0,
                measured_step_seconds=kept.step_seconds,
            )
            for (job, attempt), kept in reversed(self.observations.items())
        ]
        factor = evidence_pb2.Interval(low=0.9, expected=1.1, high=1.3, coverage=0.9)
        entry = calibration_pb2.CalibrationEntry(device="rtx-4090", step_time_factor=factor, observations=len(points))
        revision = evidence_pb2.RevisionComponent(id=f"calibration-{len(points)}", date="2026-01-01")
        return calibration_pb2.GetCalibrationResponse(
            entries=[entry] if points else [], points=points[: request.page_size or 50], calibration=revision
        )

    def reset(self, _: calibration_pb2.ResetCalibrationRequest) -> calibration_pb2.ResetCalibrationResponse:
        """Forget all observations."""
        removed = len(self.observations)
        self.observations.clear()
        return calibration_pb2.ResetCalibrationResponse(removed=removed)


def _check(name: str, measured: evidence_pb2.Interval, limit: float) -> check_pb2.Check:
    verdict = check_pb2.CHECK_VERDICT_UNDECIDED
    if measured.high <= limit:
        verdict = check_pb2.CHECK_VERDICT_PASS
    elif measured.low > limit:
        verdict = check_pb2.CHECK_VERDICT_FAIL
    return check_pb2.Check(
        rule_id=f"policy.{name}",
        severity=check_pb2.SEVERITY_ERROR,
        verdict=verdict,
        measured=measured,
        limit=limit,
        field_path="hardware",
        help=f"{measured.expected:g} expected, limit {limit:g}",
    )
