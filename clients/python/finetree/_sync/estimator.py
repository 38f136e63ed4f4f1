# SPDX-License-Identifier: Apache-2.0
"""Calls of the estimator: what a run will take, whether that is allowed, and what runs measured."""

from __future__ import annotations

from collections.abc import Sequence

from finetree_api.estimator.v1 import calibration_pb2, catalog_pb2, check_plan_pb2, estimate_pb2

from finetree._shared import requests, rpcs
from finetree._shared.requests import (
    BatchLike,
    EstimateLike,
    ObservationLike,
    OverrideLike,
    PolicyLike,
    ProfileLike,
    RatesLike,
    RevisionLike,
    View,
)
from finetree._sync.pages import Pages
from finetree._sync.transport import Transport
from finetree.errors import FinetreeError


class EstimatorCalls:
    """What the estimator answers."""

    _transport: Transport

    def estimate(
        self,
        spec: EstimateLike,
        *,
        dataset_profile: ProfileLike | None = None,
        evaluation_profile: ProfileLike | None = None,
        matrix_rates: RatesLike | None = None,
        view: View = "BASIC",
        pinned: RevisionLike | None = None,
        timeout: float | None = None,
        request_id: str = "",
    ) -> estimate_pb2.Estimate:
        """Estimate memory, time and cost of a run, as intervals.

        Args:
            spec: a RunSpec, its proto JSON as a dict, or a whole EstimateRunRequest (which leaves the rest unused).
            dataset_profile: what is known of the training data.
            evaluation_profile: what is known of the held-out data.
            matrix_rates: measured rates of the CPU that trains, as `capacity` gives them.
            view: "BASIC", "FULL" for what a search finds (remedies, the nearest evidence), or "SUMMARY".
            pinned: revisions that must be used.
            timeout: seconds; None means the client's timeout, else 10.
            request_id: id for the logs; empty means a new one.

        Raises:
            InvalidArgument: a field is wrong; `violations` names it.
            NotFound: MODEL_NOT_FOUND, ACCELERATOR_NOT_FOUND, PRICE_NOT_FOUND.
            FailedPrecondition: REVISION_UNAVAILABLE.
        """
        request = requests.estimate(
            spec,
            dataset_profile=dataset_profile,
            evaluation_profile=evaluation_profile,
            matrix_rates=matrix_rates,
            view=view,
            pinned=pinned,
        )
        return self._transport.unary(rpcs.ESTIMATE_RUN, request, timeout=timeout, request_id=request_id).estimate

    def estimate_batch(
        self, rows: BatchLike, *, timeout: float | None = None, request_id: str = ""
    ) -> dict[str, estimate_pb2.Estimate | FinetreeError]:
        """Estimate many runs in one call. A row that fails holds its exception and affects no other.

        Args:
            rows: specs by a key of the caller's, at most 1000, or a whole BatchEstimateRunsRequest.
            timeout: seconds; None means the client's timeout, else 30.
            request_id: id for the logs; empty means a new one.

        Raises:
            InvalidArgument: the batch itself is wrong (too many rows, an empty key).
        """
        request = requests.batch_estimate(rows)
        response = self._transport.unary(rpcs.BATCH_ESTIMATE_RUNS, request, timeout=timeout, request_id=request_id)
        return requests.batch_results(response)

    def check_plan(
        self,
        spec: EstimateLike,
        policy: PolicyLike,
        *,
        overrides: Sequence[OverrideLike] = (),
        evaluation_date: str = "",
        base_run: EstimateLike | None = None,
        dataset_profile: ProfileLike | None = None,
        evaluation_profile: ProfileLike | None = None,
        matrix_rates: RatesLike | None = None,
        pinned: RevisionLike | None = None,
        timeout: float | None = None,
        request_id: str = "",
    ) -> check_plan_pb2.CheckPlanResponse:
        """Check a run against limits: one check for each limit, and what would pass.

        Args:
            spec: a RunSpec, its proto JSON as a dict, or a whole EstimateRunRequest (which leaves the rest unused).
            policy: bounds by metric, such as {"cost": "50 USD", "duration_seconds": 3600, "method": ["lora"]}; a
                PlanPolicy; or its proto JSON as a dict.
            overrides: overridable limits that whoever runs the plan asks to lift.
            evaluation_date: day for which the policy's waivers are judged, such as "2026-12-31"; required with waivers.
            base_run: the run before the change, for limits on the increase.
            dataset_profile: what is known of the training data.
            evaluation_profile: what is known of the held-out data.
            matrix_rates: measured rates of the CPU that trains, as `capacity` gives them.
            pinned: revisions that must be used.
            timeout: seconds; None means the client's timeout, else 10.
            request_id: id for the logs; empty means a new one.

        Raises:
            InvalidArgument: a field is wrong, CURRENCY_MISMATCH.
            NotFound: MODEL_NOT_FOUND, ACCELERATOR_NOT_FOUND, PRICE_NOT_FOUND.
            FailedPrecondition: REVISION_UNAVAILABLE.
        """
        run = requests.estimate(
            spec,
            dataset_profile=dataset_profile,
            evaluation_profile=evaluation_profile,
            matrix_rates=matrix_rates,
            pinned=pinned,
        )
        request = requests.check_plan(
            run, policy, overrides=overrides, evaluation_date=evaluation_date, base_run=base_run
        )
        return self._transport.unary(rpcs.CHECK_PLAN, request, timeout=timeout, request_id=request_id)

    def list_models(
        self,
        prefix: str = "",
        *,
        page_size: int = 0,
        limit: int | None = None,
        page_token: str = "",
        timeout: float | None = None,
    ) -> Pages[catalog_pb2.Model]:
        """List the models of the catalog in the order of their names.

        Args:
            prefix: only names, hub ids and families that begin with it.
            page_size: largest page; 0 means the server's choice.
            limit: items in all; None means every one.
            page_token: `next_page_token` of a page of this list, to continue behind it; empty means the beginning.
            timeout: seconds for each page; None means the client's timeout, else 10.
        """
        return Pages(
            self._transport, requests.list_models(prefix, page_size), timeout, limit=limit, page_token=page_token
        )

    def list_accelerators(
        self,
        prefix: str = "",
        *,
        page_size: int = 0,
        limit: int | None = None,
        page_token: str = "",
        timeout: float | None = None,
    ) -> Pages[catalog_pb2.Accelerator]:
        """List the accelerators of the catalog in the order of their names.

        Args:
            prefix: only names that begin with it.
            page_size: largest page; 0 means the server's choice.
            limit: items in all; None means every one.
            page_token: `next_page_token` of a page of this list, to continue behind it; empty means the beginning.
            timeout: seconds for each page; None means the client's timeout, else 10.
        """
        return Pages(
            self._transport, requests.list_accelerators(prefix, page_size), timeout, limit=limit, page_token=page_token
        )

    def list_prices(
        self,
        accelerator: str = "",
        *,
        provider: str = "",
        term: str | int = 0,
        page_size: int = 0,
        limit: int | None = None,
        page_token: str = "",
        timeout: float | None = None,
    ) -> Pages[catalog_pb2.Price]:
        """List the quotes of the price book by accelerator, then by price.

        Args:
            accelerator: only of this accelerator.
            provider: only of this provider.
            term: only "on_demand", "spot" or "reserved"; 0 means any.
            page_size: largest page; 0 means the server's choice.
            limit: items in all; None means every one.
            page_token: `next_page_token` of a page of this list, to continue behind it; empty means the beginning.
            timeout: seconds for each page; None means the client's timeout, else 10.
        """
        listing = requests.list_prices(accelerator, provider=provider, term=term, page_size=page_size)
        return Pages(self._transport, listing, timeout, limit=limit, page_token=page_token)

    def report_observation(
        self, observation: ObservationLike, *, timeout: float | None = None, request_id: str = ""
    ) -> calibration_pb2.ReportObservationResponse:
        """Report what a run measured. The same job and attempt count once.

        Args:
            observation: an Observation, or its proto JSON as a dict.
            timeout: seconds; None means the client's timeout, else 10.
            request_id: idempotency key; empty means a new one, made once per call.

        Raises:
            InvalidArgument: a field is wrong, OBSERVATION_IMPLAUSIBLE.
            NotFound: MODEL_NOT_FOUND, ACCELERATOR_NOT_FOUND.
            FailedPrecondition: CALIBRATION_OFF.
            AlreadyExists: REQUEST_ID_REUSED.
        """
        request = requests.report_observation(observation, request_id)
        return self._transport.unary(rpcs.REPORT_OBSERVATION, request, timeout=timeout, request_id=request.request_id)

    def get_calibration(
        self, device: str = "", *, points: int = 50, timeout: float | None = None
    ) -> calibration_pb2.GetCalibrationResponse:
        """Get what the estimator has learned from observed runs, with the newest points.

        Args:
            device: only of this device; empty means all.
            points: how many of the newest points, at most 1000.
            timeout: seconds; None means the client's timeout, else 10.
        """
        request = calibration_pb2.GetCalibrationRequest(device=device, page_size=points)
        return self._transport.unary(rpcs.GET_CALIBRATION, request, timeout=timeout)

    def reset_calibration(self, device: str = "", *, timeout: float | None = None, request_id: str = "") -> int:
        """Delete what was learned, and return the number of observations that were deleted.

        Args:
            device: only of this device; empty means all.
            timeout: seconds; None means the client's timeout, else 10.
            request_id: idempotency key; empty means a new one, made once per call.

        Raises:
            FailedPrecondition: CALIBRATION_OFF.
        """
        request = requests.reset_calibration(device, request_id)
        return self._transport.unary(
            rpcs.RESET_CALIBRATION, request, timeout=timeout, request_id=request.request_id
        ).removed
