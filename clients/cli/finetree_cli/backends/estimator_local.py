# SPDX-License-Identifier: Apache-2.0
"""The estimator without a server."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetree_cli.backends.local_process import LocalPrograms
from finetree_cli.options.model_folder import root_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from finetree import FinetreeError
    from finetree_api.estimator.v1 import estimator_pb2

PAGE_SIZE = 1000
"""Largest page that the contract allows."""


class LocalEngine(LocalPrograms):
    """An estimator of one's own."""

    def __init__(self, *, price_book: Path | None = None, model: Path | None = None) -> None:
        """`model` is a folder that runs may name by its name, as `model.path`."""
        flags = [] if price_book is None else ["--price-book", str(price_book)]
        super().__init__("estimator", flags, root_of(model))

    def estimate(self, request: "estimator_pb2.EstimateRunRequest") -> "estimator_pb2.Estimate":
        """EstimateRun. Raises FinetreeError as a client does."""
        from finetree_api.estimator.v1 import estimator_pb2 as pb

        return self.ask("EstimateRun", request, pb.EstimateRunResponse()).estimate

    def estimate_batch(
        self, rows: "Mapping[str, estimator_pb2.EstimateRunRequest]"
    ) -> "dict[str, estimator_pb2.Estimate | FinetreeError]":
        """BatchEstimateRuns; a row that fails holds the exception that a client's would."""
        from finetree import error_of_status
        from finetree_api.estimator.v1 import estimator_pb2 as pb

        request = pb.BatchEstimateRunsRequest(
            rows=[pb.BatchEstimateRow(key=key, request=each) for key, each in rows.items()]
        )
        answer = self.ask("BatchEstimateRuns", request, pb.BatchEstimateRunsResponse())
        return {
            row.key: error_of_status(row.error) if row.WhichOneof("result") == "error" else row.estimate
            for row in answer.results
        }

    def check_plan(
        self, run: "estimator_pb2.EstimateRunRequest", policy: "estimator_pb2.PlanPolicy"
    ) -> "estimator_pb2.CheckPlanResponse":
        """CheckPlan. Raises FinetreeError as a client does."""
        from finetree_api.estimator.v1 import estimator_pb2 as pb

        return self.ask("CheckPlan", pb.CheckPlanRequest(run=run, policy=policy), pb.CheckPlanResponse())

    def list_models(self, prefix: str = "") -> "Iterator[estimator_pb2.Model]":
        """ListModels, all pages."""
        from finetree_api.estimator.v1 import estimator_pb2 as pb

        for page in self._pages("ListModels", pb.ListModelsRequest(prefix=prefix), pb.ListModelsResponse):
            yield from page.models

    def list_accelerators(self, prefix: str = "") -> "Iterator[estimator_pb2.Accelerator]":
        """ListAccelerators, all pages."""
        from finetree_api.estimator.v1 import estimator_pb2 as pb

        request = pb.ListAcceleratorsRequest(prefix=prefix)
        for page in self._pages("ListAccelerators", request, pb.ListAcceleratorsResponse):
            yield from page.accelerators

    def list_prices(
        self, accelerator: str = "", *, provider: str = "", term: str | int = 0
    ) -> "Iterator[estimator_pb2.Price]":
        """ListPrices, all pages."""
        from finetree_api.estimator.v1 import estimator_pb2 as pb

        number = pb.PriceTerm.Value(f"PRICE_TERM_{term.upper()}") if isinstance(term, str) else term
        request = pb.ListPricesRequest(accelerator=accelerator, provider=provider)
        request.term = number  # type: ignore[assignment]  # an open enum takes any number
        for page in self._pages("ListPrices", request, pb.ListPricesResponse):
            yield from page.prices

    def _pages(self, method: str, request: Any, answer: type[Any]) -> Iterator[Any]:
        request.page_size = PAGE_SIZE
        while True:
            page = self.ask(method, request, answer())
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token
