# SPDX-License-Identifier: Apache-2.0
"""The rest of the fake suite's estimator: limits, prices, and what it has learned."""

from __future__ import annotations

from collections.abc import Callable

from finetree_api.estimator.v1 import estimator_pb2 as es
from finetree_api.types.v1 import evidence_pb2

from finetree._shared import methods
from finetree.errors import InvalidArgument
from finetree.testing.wire import Wire

PRICES = tuple(
    es.Price(
        price_id=f"fake/rtx-4090/{term}",
        accelerator="rtx-4090",
        provider="fake",
        term=es.PriceTerm.Value(f"PRICE_TERM_{term.upper()}"),
        hourly_price=hourly,
        currency_code="USD",
    )
    for term, hourly in (("spot", 0.25), ("on_demand", 0.5))
)


class FakePlans:
    """Checks against the fake estimate, two prices, and observations that are kept and change nothing."""

    def __init__(self, wire: Wire, estimate: Callable[[es.EstimateRunRequest], es.Estimate]) -> None:
        self._estimate = estimate
        self.observations: dict[tuple[str, int], es.Observation] = {}
        wire.unary(methods.CHECK_PLAN, self.check)
        wire.unary(methods.LIST_PRICES, self.prices)
        wire.unary(methods.REPORT_OBSERVATION, self.report)
        wire.unary(methods.GET_CALIBRATION, self.calibration)
        wire.unary(methods.RESET_CALIBRATION, self.reset)

    def check(self, request: es.CheckPlanRequest) -> es.CheckPlanResponse:
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
        order = (evidence_pb2.CHECK_VERDICT_FAIL, evidence_pb2.CHECK_VERDICT_UNDECIDED, evidence_pb2.CHECK_VERDICT_PASS)
        worst = next(verdict for verdict in order if verdict in verdicts)
        return es.CheckPlanResponse(verdict=worst, checks=checks, estimate=estimate)

    def prices(self, request: es.ListPricesRequest) -> es.ListPricesResponse:
        """Two quotes for the one accelerator, in pages."""
        found = [
            price
            for price in PRICES
            if request.accelerator in ("", price.accelerator)
            and request.provider in ("", price.provider)
            and request.term in (es.PRICE_TERM_UNSPECIFIED, price.term)
        ]
        start = int(request.page_token or 0)
        end = start + (request.page_size or 50)
        token = str(end) if end < len(found) else ""
        return es.ListPricesResponse(prices=found[start:end], next_page_token=token)

    def report(self, request: es.ReportObservationRequest) -> es.ReportObservationResponse:
        """Keep an observation once."""
        key = (request.observation.job, request.observation.attempt)
        accepted = key not in self.observations
        self.observations.setdefault(key, request.observation)
        return es.ReportObservationResponse(accepted=accepted)

    def calibration(self, request: es.GetCalibrationRequest) -> es.GetCalibrationResponse:
        """The observations as points, newest first, and a factor that they do not change."""
        points = [
            es.CalibrationPoint(
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
        entry = es.CalibrationEntry(device="rtx-4090", step_time_factor=factor, observations=len(points))
        revision = evidence_pb2.RevisionComponent(id=f"calibration-{len(points)}", date="2026-01-01")
        return es.GetCalibrationResponse(
            entries=[entry] if points else [], points=points[: request.page_size or 50], calibration=revision
        )

    def reset(self, _: es.ResetCalibrationRequest) -> es.ResetCalibrationResponse:
        """Forget all observations."""
        removed = len(self.observations)
        self.observations.clear()
        return es.ResetCalibrationResponse(removed=removed)


def _check(name: str, measured: evidence_pb2.Interval, limit: float) -> evidence_pb2.Check:
    verdict = evidence_pb2.CHECK_VERDICT_UNDECIDED
    if measured.high <= limit:
        verdict = evidence_pb2.CHECK_VERDICT_PASS
    elif measured.low > limit:
        verdict = evidence_pb2.CHECK_VERDICT_FAIL
    return evidence_pb2.Check(
        rule_id=f"policy.{name}",
        severity=evidence_pb2.SEVERITY_ERROR,
        verdict=verdict,
        measured=measured,
        limit=limit,
        field_path="hardware",
        help=f"{measured.expected:g} expected, limit {limit:g}",
    )
