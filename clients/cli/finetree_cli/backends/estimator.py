# SPDX-License-Identifier: Apache-2.0
"""Whom estimates are asked of: a server, or an engine of one's own where none listens."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from finetree_cli.backends.discovery import Place, address_given, nobody_serves
from finetree_cli.errors import BadInput
from finetree_cli.options.model_folder import refuse_server

if TYPE_CHECKING:
    from finetree import FinetreeError
    from finetree_api.estimator.v1 import estimator_pb2

    from finetree_cli.options.command import Settings

ESTIMATOR = Place("estimator", ("FINETREE_ESTIMATOR_ADDRESS", "FINETREE_ADDRESS"), 50052)


class Engine(Protocol):
    """What answers: a client, or a local engine. Every method raises FinetreeError."""

    def estimate(self, request: "estimator_pb2.EstimateRunRequest", /) -> "estimator_pb2.Estimate":
        """EstimateRun."""
        ...

    def estimate_batch(
        self, rows: "Mapping[str, estimator_pb2.EstimateRunRequest]", /
    ) -> "dict[str, estimator_pb2.Estimate | FinetreeError]":
        """BatchEstimateRuns; a row that fails holds its exception."""
        ...

    def check_plan(
        self, run: "estimator_pb2.EstimateRunRequest", policy: "estimator_pb2.PlanPolicy", /
    ) -> "estimator_pb2.CheckPlanResponse":
        """CheckPlan."""
        ...

    def list_models(self, prefix: str = "", /) -> "Iterable[estimator_pb2.Model]":
        """ListModels, all pages."""
        ...

    def list_accelerators(self, prefix: str = "", /) -> "Iterable[estimator_pb2.Accelerator]":
        """ListAccelerators, all pages."""
        ...

    def list_prices(
        self, accelerator: str = "", /, *, provider: str = "", term: str | int = 0
    ) -> "Iterable[estimator_pb2.Price]":
        """ListPrices, all pages; `term` is the number of a PriceTerm, or its short name."""
        ...


@contextlib.contextmanager
def engine(
    settings: "Settings", method: str, *, local: bool, price_book: Path | None = None, model: Path | None = None
) -> Iterator[Engine]:
    """The engine for a command: a local one when told so, or when no address is given and nobody listens.

    `method` is the rpc that it will ask first: a local process gets ready meanwhile. `model` is a folder of this
    machine that is asked about.
    """
    if not local:
        refuse_server(model, address_given=address_given(ESTIMATOR, settings, settings.estimator))
    if not (local or model is not None or nobody_serves(ESTIMATOR, settings, settings.estimator)):
        if price_book is not None:
            raise BadInput("--price-book is for the local engine", remedy="a server has a price book of its own")
        with settings.client() as client:
            yield client
        return
    from finetree_cli.backends.estimator_local import LocalEngine

    with LocalEngine(price_book=price_book, model=model) as own:
        own.prepare(method)
        yield own
