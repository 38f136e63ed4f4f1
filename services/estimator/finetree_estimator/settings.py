# SPDX-License-Identifier: Apache-2.0
"""Settings of the estimator, from flags, environment variables and a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetree_runtime.config.settings import ServiceSettings, listen_address, setting
from finetree_runtime.server.oneshot import OnceFormat

NAME = "finetree-estimator"
"""Name of the service, and of the distribution whose version it has."""
ENV_PREFIX = "FINETREE_ESTIMATOR"
"""Prefix of environment variables."""

OnceMethod = Literal["EstimateRun", "BatchEstimateRuns", "CheckPlan", "ListModels", "ListAccelerators", "ListPrices"]
"""Rpcs that --once answers: those that only read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(ServiceSettings):
    """Settings of the estimator."""

    address: str = listen_address(50052)
    max_request_bytes: int = setting(1024 * 1024, "Largest request message; a batch may have 1,000 rows.")
    price_book: Path | None = setting(None, "CSV file of prices, in place of the built-in price book.")
    price_book_extends: bool = setting(default=False, text="Add the prices of --price-book to the built-in ones.")
    model_root: Path | None = setting(
        None, "Folder that spec.model.path is relative to; config.json files in it may be read."
    )
    state_dir: Path | None = setting(
        None, "Folder that keeps observed runs and the calibration from them. Without it, none is kept."
    )
    once: bool = setting(default=False, text="Answer the requests on stdin on stdout and exit; opens no socket.")
    once_method: OnceMethod = setting("EstimateRun", "With --once: the rpc to call.")
    once_format: OnceFormat = setting(
        "json", "With --once: one request in proto JSON, one a line, or binary messages in gRPC's framing."
    )
