# SPDX-License-Identifier: Apache-2.0
"""The estimator as commands see it: a server, or the installed estimator in a child process."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from finetree_cli.backends.discovery import runs_locally
from finetree_cli.backends.local_process import LocalService
from finetree_cli.errors import BadInput
from finetree_cli.options.model_folder import model_root

if TYPE_CHECKING:
    from finetree import FinetreeError
    from finetree_api.estimator.v1 import catalog_pb2, check_plan_pb2, estimate_pb2
    from finetree_api.types.v1 import check_pb2

    from finetree_cli.options.command import Settings


CONCURRENT_CALLS = 8
"""Most calls of a server at the same time; they share one connection."""


class Estimator(Protocol):
    """The estimator's rpcs, as the SDK's Client has them. Every method raises FinetreeError."""

    def estimate(self, request: "estimate_pb2.EstimateRunRequest", /) -> "estimate_pb2.Estimate":
        """Call EstimateRun."""
        ...

    def estimate_batch(
        self, rows: "Mapping[str, estimate_pb2.EstimateRunRequest]", /
    ) -> "dict[str, estimate_pb2.Estimate | FinetreeError]":
        """Call BatchEstimateRuns; a row that fails has its exception."""
        ...

    def check_plan(
        self,
        run: "estimate_pb2.EstimateRunRequest",
        policy: "check_plan_pb2.PlanPolicy",
        /,
        *,
        overrides: "Sequence[check_pb2.Override]" = (),
        evaluation_date: str = "",
        base_run: "estimate_pb2.EstimateRunRequest | None" = None,
    ) -> "check_plan_pb2.CheckPlanResponse":
        """Call CheckPlan."""
        ...

    def list_models(self, prefix: str = "", /) -> "Iterable[catalog_pb2.Model]":
        """Call ListModels for all pages."""
        ...

    def list_accelerators(self, prefix: str = "", /) -> "Iterable[catalog_pb2.Accelerator]":
        """Call ListAccelerators for all pages."""
        ...

    def list_prices(
        self, accelerator: str = "", /, *, provider: str = "", term: str | int = 0
    ) -> "Iterable[catalog_pb2.Price]":
        """Call ListPrices for all pages; `term` is a number of PriceTerm or its short name."""
        ...


@contextlib.contextmanager
def open_estimator(
    settings: "Settings", rpc: str, *, local: bool = False, price_book: Path | None = None, model: Path | None = None
) -> Iterator[Estimator]:
    """Open the estimator for a command; `discovery.runs_locally` says which.

    Args:
        settings: addresses, and where messages go.
        rpc: the first rpc to be called; a child process starts at once and loads while the request is prepared.
        local: use no server.
        price_book: CSV file of prices for a child process.
        model: folder on this machine with the model's config.json.

    Raises:
        BadInput: A server was given a price book or a model folder.
        NotAvailable: The estimator is not installed.
    """
    if not runs_locally("estimator", settings, local=local, model=model):
        if price_book is not None:
            raise BadInput("--price-book needs --local", remedy="a server has a price book of its own")
        with settings.client() as client:
            yield client
        return
    with LocalEstimator(price_book=price_book, model=model) as estimator:
        estimator.start(rpc)
        yield estimator


def check_plans(
    estimator: Estimator, requests: "Iterable[check_plan_pb2.CheckPlanRequest]"
) -> "Iterator[check_plan_pb2.CheckPlanResponse | FinetreeError]":
    """Check many plans and yield the answers in order: in one child process, or by concurrent calls of a server.

    A request that is refused has its exception in place of an answer.
    """
    if isinstance(estimator, LocalEstimator):
        yield from estimator.check_plans(requests)
        return
    from concurrent.futures import ThreadPoolExecutor

    from finetree import FinetreeError

    def answer(request: "check_plan_pb2.CheckPlanRequest") -> "check_plan_pb2.CheckPlanResponse | FinetreeError":
        try:
            return estimator.check_plan(
                request.run,
                request.policy,
                overrides=request.overrides,
                evaluation_date=request.evaluation_date,
                base_run=request.base_run if request.HasField("base_run") else None,
            )
        except FinetreeError as error:
            return error

    # All of them before the first is yielded: a reader that stops early must not leave threads to be joined by whoever
    # collects the generator.
    with ThreadPoolExecutor(CONCURRENT_CALLS) as threads:
        answers = list(threads.map(answer, requests))
    yield from answers


class LocalEstimator(LocalService):
    """The installed estimator in child processes.

    Args:
        price_book: CSV file of prices in place of the built-in ones.
        model: folder that runs may name as `model.path`.
    """

    def __init__(self, *, price_book: Path | None = None, model: Path | None = None) -> None:
        flags = [] if price_book is None else ["--price-book", str(price_book)]
        super().__init__("estimator", flags, model_root(model))

    def estimate(self, request: "estimate_pb2.EstimateRunRequest") -> "estimate_pb2.Estimate":
        """Call EstimateRun."""
        from finetree_api.estimator.v1 import estimator_pb2 as pb

        return self.call("EstimateRun", request, pb.EstimateRunResponse()).estimate

    def estimate_batch(
        self, rows: "Mapping[str, estimate_pb2.EstimateRunRequest]"
    ) -> "dict[str, estimate_pb2.Estimate | FinetreeError]":
        """Call BatchEstimateRuns; a row that fails has its exception."""
        from finetree import error_of_status
        from finetree_api.estimator.v1 import estimator_pb2 as pb

        request = pb.BatchEstimateRunsRequest(
            rows=[pb.BatchEstimateRow(key=key, request=each) for key, each in rows.items()]
        )
        response = self.call("BatchEstimateRuns", request, pb.BatchEstimateRunsResponse())
        return {
            row.key: error_of_status(row.error) if row.WhichOneof("result") == "error" else row.estimate
            for row in response.results
        }

    def check_plan(
        self,
        run: "estimate_pb2.EstimateRunRequest",
        policy: "check_plan_pb2.PlanPolicy",
        *,
        overrides: "Sequence[check_pb2.Override]" = (),
        evaluation_date: str = "",
        base_run: "estimate_pb2.EstimateRunRequest | None" = None,
    ) -> "check_plan_pb2.CheckPlanResponse":
        """Call CheckPlan."""
        from finetree_api.estimator.v1 import check_plan_pb2 as pb

        request = pb.CheckPlanRequest(
            run=run, policy=policy, overrides=overrides, evaluation_date=evaluation_date, base_run=base_run
        )
        return self.call("CheckPlan", request, pb.CheckPlanResponse())

    def check_plans(
        self, requests: "Iterable[check_plan_pb2.CheckPlanRequest]"
    ) -> "Iterator[check_plan_pb2.CheckPlanResponse | FinetreeError]":
        """Call CheckPlan for each request in one process; a request that is refused has its exception."""
        from finetree_api.estimator.v1 import check_plan_pb2 as pb

        return self.call_each("CheckPlan", requests, pb.CheckPlanResponse)

    def list_models(self, prefix: str = "") -> "Iterator[catalog_pb2.Model]":
        """Call ListModels for all pages."""
        from finetree_api.estimator.v1 import catalog_pb2 as pb

        for page in self.pages("ListModels", pb.ListModelsRequest(prefix=prefix), pb.ListModelsResponse):
            yield from page.models

    def list_accelerators(self, prefix: str = "") -> "Iterator[catalog_pb2.Accelerator]":
        """Call ListAccelerators for all pages."""
        from finetree_api.estimator.v1 import catalog_pb2 as pb

        request = pb.ListAcceleratorsRequest(prefix=prefix)
        for page in self.pages("ListAccelerators", request, pb.ListAcceleratorsResponse):
            yield from page.accelerators

    def list_prices(
        self, accelerator: str = "", *, provider: str = "", term: str | int = 0
    ) -> "Iterator[catalog_pb2.Price]":
        """Call ListPrices for all pages."""
        from finetree_api.estimator.v1 import catalog_pb2 as pb

        number = pb.PriceTerm.Value(f"PRICE_TERM_{term.upper()}") if isinstance(term, str) else term
        request = pb.ListPricesRequest(accelerator=accelerator, provider=provider)
        request.term = number  # type: ignore[assignment]  # an open enum takes any number
        for page in self.pages("ListPrices", request, pb.ListPricesResponse):
            yield from page.prices
