# SPDX-License-Identifier: Apache-2.0
"""Settings of the recommender, from flags, environment variables and a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetree_runtime.config.settings import Duration, ServiceSettings, listen_address, setting
from finetree_runtime.server.oneshot import OnceFormat

NAME = "finetree-recommender"
"""Name of the service, and of the distribution whose version it has."""
ENV_PREFIX = "FINETREE_RECOMMENDER"
"""Prefix of environment variables."""

OnceMethod = Literal[
    "Recommend",
    "RenderDecisionTree",
    "RenderFrontier",
    "ListMethods",
    "GetMethod",
    "ListRulePacks",
    "GetRulePack",
    "CheckServing",
]
"""Rpcs that --once answers: those that only read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(ServiceSettings):
    """Settings of the recommender."""

    address: str = listen_address(50051)
    estimator_address: str = setting("127.0.0.1:50052", "Where the estimator listens: HOST:PORT or unix:PATH.")
    service_token_file: Path | None = setting(
        None, "File with the token that calls to the estimator carry; read again when it is refused."
    )
    estimator_time: Duration = setting(2.0, "Longest wait for the estimator; then the rules alone answer.")
    rule_pack_dir: Path | None = setting(None, "Folder of own rule packs (*.yaml); read again when a file changes.")
    rule_pack_check: Path | None = setting(None, "Load and check this rule pack, say what it is, and end; no server.")
    once: bool = setting(
        default=False,
        text="Answer what stdin holds on stdout, without a server or a socket; the estimator is a program.",
    )
    once_method: OnceMethod = setting("Recommend", "With --once: the rpc to answer.")
    once_format: OnceFormat = setting(
        "json", "With --once: one request in proto JSON, one a line, or binary messages in gRPC's framing."
    )
