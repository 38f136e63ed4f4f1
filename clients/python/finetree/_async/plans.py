# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC109 - the parameters are the synchronous client's; a timeout becomes the call's deadline
"""More calls of the estimator: limits, prices, and what it learns from runs."""

from __future__ import annotations

from finetree_api.estimator.v1 import calibration_pb2, catalog_pb2, check_plan_pb2

from finetree._async.pages import AsyncPages
from finetree._async.transport import AsyncTransport
from finetree._shared import methods
from finetree._shared.requests import (
    EstimateLike,
    ObservationLike,
    PolicyLike,
    ProfileLike,
    RevisionLike,
    check_request,
    observation_request,
    prices_request,
)


class AsyncPlans:
    """What a plan is held against, and what measured runs teach."""

    _transport: AsyncTransport

    async def check_plan(
        self,
        spec: EstimateLike,
        policy: PolicyLike,
        *,
        dataset_profile: ProfileLike | None = None,
        evaluation_profile: ProfileLike | None = None,
        pinned: RevisionLike | None = None,
        timeout: float | None = None,
        request_id: str = "",
    ) -> check_plan_pb2.CheckPlanResponse:
        """Hold a run against limits: one check for each limit, and what would pass.

        Args:
            spec: a RunSpec, its proto JSON as a dict, or a whole EstimateRunRequest (which leaves the rest unused).
            policy: a PlanPolicy, or its proto JSON as a dict; it names at least one limit.
            dataset_profile: what is known of the training data.
            evaluation_profile: what is known of the held-out data.
            pinned: revisions that must be used.
            timeout: seconds; None means the client's timeout, else 10.
            request_id: id for the logs; empty means a new one.

        Raises:
            InvalidArgument: a field is wrong, POLICY_EMPTY, CURRENCY_UNKNOWN.
            NotFound: MODEL_NOT_FOUND, ACCELERATOR_NOT_FOUND, PRICE_NOT_FOUND.
            FailedPrecondition: REVISION_UNAVAILABLE.
        """
        request = check_request(
            spec, policy, dataset_profile=dataset_profile, evaluation_profile=evaluation_profile, pinned=pinned
        )
        return await self._transport.unary(methods.CHECK_PLAN, request, timeout=timeout, request_id=request_id)

    def list_prices(
        self,
        accelerator: str = "",
        *,
        provider: str = "",
        term: str | int = 0,
        page_size: int = 0,
        timeout: float | None = None,
    ) -> AsyncPages[catalog_pb2.Price]:
        """Quotes of the price book by accelerator, then by price, fetched page by page.

        Args:
            accelerator: only of this accelerator.
            provider: only of this provider.
            term: only "on_demand", "spot" or "reserved"; 0 means any.
            page_size: largest page; 0 means the server's choice.
            timeout: seconds for each page; None means the client's timeout, else 10.
        """
        request = prices_request(accelerator, provider, term, page_size)

        async def fetch(token: str) -> tuple[list[catalog_pb2.Price], str]:
            request.page_token = token
            page = await self._transport.unary(methods.LIST_PRICES, request, timeout=timeout)
            return list(page.prices), page.next_page_token

        return AsyncPages(fetch)

    async def report_observation(
        self, observation: ObservationLike, *, timeout: float | None = None, request_id: str = ""
    ) -> calibration_pb2.ReportObservationResponse:
        """Tell the estimator what a run measured. The same job and attempt count once.

        Args:
            observation: an Observation, or its proto JSON as a dict.
            timeout: seconds; None means the client's timeout, else 10.
            request_id: makes a repetition harmless; empty means a new one.

        Raises:
            InvalidArgument: a field is wrong, OBSERVATION_IMPLAUSIBLE.
            NotFound: MODEL_NOT_FOUND, ACCELERATOR_NOT_FOUND.
            FailedPrecondition: CALIBRATION_OFF.
            AlreadyExists: REQUEST_ID_REUSED.
        """
        request = observation_request(observation, request_id)
        return await self._transport.unary(methods.REPORT_OBSERVATION, request, timeout=timeout, request_id=request_id)

    async def get_calibration(
        self, device: str = "", *, points: int = 50, timeout: float | None = None
    ) -> calibration_pb2.GetCalibrationResponse:
        """What the estimator has learned from observed runs, with the newest points that it rests on.

        Args:
            device: only of this device; empty means all.
            points: how many of the newest points, at most 1000.
            timeout: seconds; None means the client's timeout, else 10.
        """
        request = calibration_pb2.GetCalibrationRequest(device=device, page_size=points)
        return await self._transport.unary(methods.GET_CALIBRATION, request, timeout=timeout)

    async def reset_calibration(self, device: str = "", *, timeout: float | None = None) -> int:
        """Forget what was learned; returns the number of observations that were forgotten.

        Args:
            device: only of this device; empty means all.
            timeout: seconds; None means the client's timeout, else 10.

        Raises:
            FailedPrecondition: CALIBRATION_OFF.
        """
        request = calibration_pb2.ResetCalibrationRequest(device=device)
        return (await self._transport.unary(methods.RESET_CALIBRATION, request, timeout=timeout)).removed
