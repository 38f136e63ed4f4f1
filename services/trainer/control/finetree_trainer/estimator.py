# SPDX-License-Identifier: Apache-2.0
"""The estimator as the trainer calls it, through the SDK: a job never fails because it is unavailable."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from finetree_api.estimator.v1 import calibration_pb2, estimate_pb2
from finetree_api.types.v1 import check_pb2, estimate_summary_pb2, hardware_pb2
from finetree_runtime.money import to_money
from google.type import money_pb2

if TYPE_CHECKING:
    from finetree import AsyncClient

ESTIMATE_SECONDS = 3.0
"""Longest wait for an answer. The estimator answers in milliseconds or not at all."""

_REFUSALS = frozenset({"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "UNIMPLEMENTED"})
"""Status codes of errors that a retry does not change."""


class EstimateUnavailableError(Exception):
    """The estimator cannot answer now; the message says why."""


class ReportRefusedError(Exception):
    """The estimator rejects an observation for good; the message says why."""


Rates = Callable[[], hardware_pb2.MatrixRates | None]
"""Returns the measured matrix rates of the CPU; None when they are not measured."""


class Estimator(Protocol):
    """Predicts memory, time and cost of a run, and is calibrated with what runs have measured."""

    async def estimate(self, request: estimate_pb2.EstimateRunRequest) -> estimate_pb2.Estimate:
        """Estimate a resolved run. Raises EstimateUnavailableError."""
        ...

    async def catalog(self) -> dict[str, str]:
        """Return the hub ids of the catalog's models by lower-case name. Raises EstimateUnavailableError."""
        ...

    async def report(self, observation: calibration_pb2.Observation, *, request_id: str) -> None:
        """Report a run's observation. Raises EstimateUnavailableError (try later), ReportRefusedError."""
        ...


class RemoteEstimator:
    """The estimator service at an address; connected to at the first call. `token` reads what its calls carry."""

    def __init__(self, address: str, token: Callable[[], str] | None = None) -> None:
        self._address, self._token = address, token
        self._client: AsyncClient | None = None

    async def estimate(self, request: estimate_pb2.EstimateRunRequest) -> estimate_pb2.Estimate:
        """Estimate a resolved run. Raises EstimateUnavailableError with the service's reason."""
        from finetree.errors import FinetreeError

        try:
            return await self._connected().estimate(request, timeout=ESTIMATE_SECONDS)
        except FinetreeError as error:
            raise EstimateUnavailableError(f"{error.reason or error.code}: {error.message}") from error

    async def catalog(self) -> dict[str, str]:
        """Return the hub ids of the catalog's models by lower-case name. Raises EstimateUnavailableError."""
        from finetree.errors import FinetreeError

        try:
            pages = self._connected().list_models(page_size=1000, timeout=ESTIMATE_SECONDS)
            return {model.name.lower(): model.hub_id async for model in pages}
        except FinetreeError as error:
            raise EstimateUnavailableError(f"{error.reason or error.code}: {error.message}") from error

    async def report(self, observation: calibration_pb2.Observation, *, request_id: str) -> None:
        """Report a run's observation. Raises EstimateUnavailableError (try later), ReportRefusedError."""
        from finetree.errors import FinetreeError

        try:
            await self._connected().report_observation(observation, request_id=request_id, timeout=ESTIMATE_SECONDS)
        except FinetreeError as error:
            text = f"{error.reason or error.code}: {error.message}"
            if error.code in _REFUSALS:
                raise ReportRefusedError(text) from error
            raise EstimateUnavailableError(text) from error

    def _connected(self) -> "AsyncClient":
        from finetree import AsyncClient

        if self._client is None:
            # No retries: a job must not wait for a service that it does not need.
            self._client = AsyncClient(estimator_address=self._address, profile="", token=self._token, retries=False)
        return self._client

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            await self._client.close()


def summary(estimate: estimate_pb2.Estimate) -> estimate_summary_pb2.EstimateSummary:
    """Select the part of an estimate that a job keeps."""
    return estimate_summary_pb2.EstimateSummary(
        device_bytes=estimate.memory.device_bytes,
        usable_device_bytes=estimate.memory.usable_device_bytes,
        fit=estimate.fit.verdict,
        total_seconds=estimate.time.total_seconds if estimate.time.HasField("total_seconds") else None,
        step_seconds=estimate.time.step_seconds if estimate.time.HasField("step_seconds") else None,
        cost=estimate.cost.total if estimate.cost.HasField("total") else None,
        optimizer_steps=estimate.optimizer_steps,
        revision=estimate.revision,
        host_bytes=estimate.memory.host_bytes if estimate.memory.HasField("host_bytes") else None,
    )


def hourly_price(estimate: estimate_summary_pb2.EstimateSummary) -> money_pb2.Money | None:
    """Price of an hour of all devices that an estimate implies; None when it has no cost."""
    seconds = estimate.total_seconds.expected
    if not estimate.HasField("cost") or seconds <= 0:
        return None
    return to_money(estimate.cost.amount.expected / seconds * 3600, estimate.cost.currency_code)


_FIT_VERDICTS = {
    estimate_summary_pb2.FIT_VERDICT_UNSPECIFIED: check_pb2.CHECK_VERDICT_UNDECIDED,
    estimate_summary_pb2.FIT_VERDICT_FITS: check_pb2.CHECK_VERDICT_PASS,
    estimate_summary_pb2.FIT_VERDICT_TIGHT: check_pb2.CHECK_VERDICT_WARN,
    estimate_summary_pb2.FIT_VERDICT_DOES_NOT_FIT: check_pb2.CHECK_VERDICT_FAIL,
}


def memory_check(estimate: estimate_pb2.Estimate) -> check_pb2.Check:
    """Build the check whether the run fits the device. It warns at most, since an estimate is not a measurement."""
    usable = estimate.memory.usable_device_bytes
    return check_pb2.Check(
        rule_id="memory.fits_device",
        severity=check_pb2.SEVERITY_WARNING,
        verdict=_FIT_VERDICTS.get(estimate.fit.verdict, check_pb2.CHECK_VERDICT_UNDECIDED),
        measured=estimate.memory.device_bytes,
        limit=float(usable) if usable else None,
        unit=check_pb2.CHECK_UNIT_BYTES,
        field_path="training.micro_batch_size",
        message=estimate.fit.summary,
    )
