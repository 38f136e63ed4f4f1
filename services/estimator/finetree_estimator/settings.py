# SPDX-License-Identifier: Apache-2.0
"""What the estimator can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetree_runtime.config.settings import ServiceSettings, listen_address, setting
from finetree_runtime.server.oneshot import OnceFormat

PREFIX = "FINETREE_ESTIMATOR"
"""Of the environment's variables."""
PORT = 50052
"""The estimator's port on loopback."""

OnceMethod = Literal["EstimateRun", "BatchEstimateRuns", "CheckPlan", "ListModels", "ListAccelerators", "ListPrices"]
"""Rpcs that are answered without a server: those that only read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(ServiceSettings):
    """Settings of the estimator."""

    address: str = listen_address(PORT)
    max_request_bytes: int = setting(1536 * 1024, "Largest request message; a batch may have 1,000 rows.")
    price_book: Path | None = setting(None, "CSV file of prices in place of the built-in price book.")
    price_book_extends: bool = setting(default=False, text="Add the price book's quotes to the built-in ones.")
    model_root: Path | None = setting(None, "Folder of models whose config.json may be read (spec.model.path).")
    state_dir: Path | None = setting(
        None, "Folder of what is learned from observed runs. Without one nothing is kept or learned."
    )
    once: bool = setting(default=False, text="Answer what stdin holds on stdout, without a server or a socket.")
    once_method: OnceMethod = setting("EstimateRun", "With --once: the rpc to answer.")
    once_format: OnceFormat = setting(
        "json", "With --once: one request in proto JSON, one a line, or binary messages in gRPC's framing."
    )
