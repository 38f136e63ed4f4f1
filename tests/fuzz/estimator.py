# SPDX-License-Identifier: Apache-2.0
"""The estimator's own code, as the recommender and the trainer ask it, without the sockets between them."""

import contextlib
from collections.abc import Mapping
from typing import Any

from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.types.v1 import evidence_pb2
from finetree_estimator.catalog import accelerators, models, price_book
from finetree_estimator.servicer import EstimatorServicer
from finetree_estimator.shapes.parameters import count
from finetree_estimator.spec.resolve import Knowledge
from finetree_recommender.estimator.client import converted
from finetree_recommender.estimator.values import Accelerator, Catalog, Estimate, Evidence, Model, Refused
from finetree_recommender.method import Method
from finetree_runtime.errors import DomainError
from finetree_runtime.server.validation import validate

CARDS = accelerators.supported()
MODELS = models.models()


class Known:
    """The estimator's servicer, as the recommender and the trainer ask it."""

    def __init__(self) -> None:
        self.servicer = EstimatorServicer(Knowledge(price_book.packaged()))
        self.known = Catalog(
            {card.name.casefold(): Accelerator(card.marketed_gb, card.native_bf16) for card in CARDS},
            {
                name.casefold(): Model(count(model.shape).total, model.shape.max_positions)
                for model in MODELS
                for name in (model.name, model.hub_id)
            },
        )

    async def catalog(self) -> Any:
        return self.known

    async def evidence(self, rows: Mapping[Method, estimate_pb2.EstimateRunRequest]) -> Evidence:
        found: dict[tuple[Method, int], Estimate | Refused] = {}
        revision, parameters = evidence_pb2.Revision(), 0
        for method, request in rows.items():
            validate(request)
            try:
                answer = self.servicer.estimate(request)
            except DomainError as error:
                found[method, 0] = Refused(error.reason, str(error))
                continue
            found[method, answer.fallbacks_taken] = converted(answer)
            revision, parameters = answer.revision, answer.total_parameters
        return Evidence(found, revision, parameters or None)

    async def estimates(
        self, rows: Mapping[Method, estimate_pb2.EstimateRunRequest]
    ) -> dict[Method, estimate_pb2.Estimate]:
        found = {}
        for method, request in rows.items():
            validate(request)
            with contextlib.suppress(DomainError):
                found[method] = self.servicer.estimate(request)
        return found

    async def estimate(self, request: estimate_pb2.EstimateRunRequest) -> estimate_pb2.Estimate:
        return self.servicer.estimate(request)
