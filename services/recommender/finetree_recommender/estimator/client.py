# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC109 - the timeout becomes the call's deadline
"""Estimator through the SDK: one batch for a recommendation, and its catalog once."""

import asyncio
from collections.abc import AsyncIterable, Awaitable, Mapping
from typing import Protocol, TypeVar

import finetree
from finetree_api.estimator.v1 import catalog_pb2, estimate_pb2
from finetree_api.types.v1 import estimate_summary_pb2, evidence_pb2
from finetree_runtime.runspec import device_names, model_names

from finetree_recommender.estimator.values import (
    Accelerator,
    Catalog,
    Estimate,
    EstimatorUnavailableError,
    Evidence,
    FitState,
    Key,
    Model,
    Refused,
    has_uneven_keys,
)
from finetree_recommender.method import Method

PAGE_SIZE = 1000
"""Largest page that the contract allows."""

T = TypeVar("T")
_FITS = {
    estimate_summary_pb2.FIT_VERDICT_FITS: FitState.FITS,
    estimate_summary_pb2.FIT_VERDICT_TIGHT: FitState.TIGHT,
    estimate_summary_pb2.FIT_VERDICT_DOES_NOT_FIT: FitState.DOES_NOT_FIT,
}


class Client(Protocol):
    """Client of the estimator: the SDK's, or a subprocess. Every method raises FinetreeError."""

    async def estimate_batch(
        self, rows: Mapping[str, estimate_pb2.EstimateRunRequest], /, *, timeout: float | None = None
    ) -> dict[str, estimate_pb2.Estimate | finetree.FinetreeError]:
        """Estimates by key (BatchEstimateRuns); a row that fails holds its exception."""
        ...

    def list_accelerators(
        self, *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterable[catalog_pb2.Accelerator]:
        """The accelerators of the catalog, page after page (ListAccelerators)."""
        ...

    def list_models(self, *, page_size: int = 0, timeout: float | None = None) -> AsyncIterable[catalog_pb2.Model]:
        """The models of the catalog, page after page (ListModels)."""
        ...


class EstimatorClient:
    """Estimator client; every failure is "unavailable", since a recommendation does not fail because of it.

    Args:
        client: The SDK's client, whose estimator address is used, or a program.
        seconds: Longest time of one question.
    """

    def __init__(self, client: Client, seconds: float) -> None:
        self._client = client
        self._seconds = seconds
        self._catalog: Catalog | None = None
        self._catalog_revision = ""

    async def catalog(self) -> Catalog:
        """Fetch accelerators and models, again only when the estimator's catalog has changed."""
        if self._catalog is None:
            self._catalog = await _answered(self._fetch_catalog())
            self._catalog_revision = ""
        return self._catalog

    async def evidence(self, rows: Mapping[Method, estimate_pb2.EstimateRunRequest]) -> Evidence:
        """Estimate all methods' recipes, each adapted until it fits."""
        answers = await self._batch(rows)
        if answers.keys() != rows.keys():
            raise EstimatorUnavailableError("the estimator left rows out")
        found = {(method, fallbacks_taken(answers[method])): converted(answers[method]) for method in rows}
        estimates = [answer for answer in answers.values() if isinstance(answer, estimate_pb2.Estimate)]
        revision = estimates[0].revision if estimates else evidence_pb2.Revision()
        self._notice(revision)
        parameters = estimates[0].total_parameters if estimates else 0
        return Evidence(found, revision, parameters or None, {m: len(row.fallbacks) for m, row in rows.items()})

    async def estimates(self, rows: Mapping[Key, estimate_pb2.EstimateRunRequest]) -> dict[Key, estimate_pb2.Estimate]:
        """Estimate, and return the replies; a row that is refused is left out."""
        answers = await self._batch(rows)
        return {key: answer for key, answer in answers.items() if isinstance(answer, estimate_pb2.Estimate)}

    async def _batch(
        self, rows: Mapping[Key, estimate_pb2.EstimateRunRequest]
    ) -> dict[Key, estimate_pb2.Estimate | finetree.FinetreeError]:
        keys = {str(number): key for number, key in enumerate(rows)}
        requests = {number: rows[key] for number, key in keys.items()}
        answers = await _answered(self._client.estimate_batch(requests, timeout=self._seconds))
        return {key: answers[number] for number, key in keys.items() if number in answers}

    def _notice(self, revision: evidence_pb2.Revision) -> None:
        """Forget the catalog when the estimator has another one."""
        current = revision.catalog.sha256
        if self._catalog_revision and current != self._catalog_revision:
            self._catalog = None
        self._catalog_revision = current

    async def _fetch_catalog(self) -> Catalog:
        # Each page is a call with its own deadline.
        async with asyncio.timeout(self._seconds):
            cards = [card async for card in self._client.list_accelerators(page_size=PAGE_SIZE, timeout=self._seconds)]
            listed = [item async for item in self._client.list_models(page_size=PAGE_SIZE, timeout=self._seconds)]
        found = [(card, _accelerator(card)) for card in cards]
        names = {card.name.casefold(): entry for card, entry in found}
        spelled = device_names.by_name((_names(card), entry) for card, entry in found)
        models = model_names.by_name(((item.name, item.hub_id, *item.aliases), _model(item)) for item in listed)
        # An accelerator's own name takes precedence over aliases of others.
        return Catalog({**spelled, **names}, models)


async def _answered(answer: Awaitable[T]) -> T:
    """Wait for an answer. Raises EstimatorUnavailableError."""
    try:
        return await answer
    except (finetree.FinetreeError, TimeoutError) as error:
        raise EstimatorUnavailableError(type(error).__name__) from error


def fallbacks_taken(answer: estimate_pb2.Estimate | finetree.FinetreeError) -> int:
    """Number of adaptations in the recipe that was estimated."""
    return answer.fallbacks_taken if isinstance(answer, estimate_pb2.Estimate) else 0


def _names(card: catalog_pb2.Accelerator) -> device_names.Named:
    return device_names.Named((card.name, card.display_name, *card.aliases), card.marketed_memory_gb)


def _accelerator(card: catalog_pb2.Accelerator) -> Accelerator:
    return Accelerator(
        marketed_gb=card.marketed_memory_gb,
        native_bf16=card.native_bf16,
        name=card.name,
        display_name=card.display_name,
        capability=float(card.compute_capability) if card.compute_capability else None,
        unsupported=card.unsupported,
    )


def _model(item: catalog_pb2.Model) -> Model:
    names = (item.name, item.hub_id, *item.aliases)
    shape = item.shape
    return Model(
        item.parameters,
        shape.max_position_embeddings,
        shape.experts,
        names,
        shape.family,
        uneven_keys=has_uneven_keys(shape),
    )


def converted(answer: estimate_pb2.Estimate | finetree.FinetreeError) -> Estimate | Refused:
    """Convert an answer of the estimator."""
    if isinstance(answer, finetree.FinetreeError):
        violations = tuple((item.field, item.description) for item in answer.violations)
        return Refused(answer.reason, answer.message, violations)
    memory, time, cost = answer.memory, answer.time, answer.cost
    return Estimate(
        fit=_FITS.get(answer.fit.verdict, FitState.UNKNOWN),
        device_bytes=memory.device_bytes,
        usable_bytes=memory.usable_device_bytes,
        total_seconds=time.total_seconds if time.HasField("total_seconds") else None,
        cost=cost.total if cost.HasField("total") else None,
        optimizer_steps=answer.optimizer_steps,
        trainable=answer.trainable_parameters,
    )
