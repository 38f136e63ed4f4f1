# SPDX-License-Identifier: Apache-2.0
"""The finetree SDK: the one client of the recommender, the estimator and the trainer.

    client = finetree.Client()
    data = client.upload_dataset([{"prompt": "Two and two?", "completion": "Four."}])
    answer = client.recommend(model="smollm2-135m-instruct", gpu="rtx-4090", dataset=data)
    job = client.train(answer)
    for event in job.events():
        print(event.message)

Importing it loads neither grpc nor protobuf: names are looked up when they are first used.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from finetree._version import __version__

# gRPC writes notices about forks and GOAWAYs to stderr, which is the caller's. It reads this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

if TYPE_CHECKING:
    from finetree._async.client import AsyncClient
    from finetree._async.events import AsyncEventStream
    from finetree._async.job import AsyncJob
    from finetree._async.pages import AsyncPages
    from finetree._async.trainer.serving import AsyncGeneration, AsyncServing
    from finetree._shared.hub.model_hub import PushedArtifact
    from finetree._shared.listing import Page
    from finetree._shared.served.canaries import ServedCanary, ServedSample, ServingReport, ServingVerdict
    from finetree._shared.status import error_of_status
    from finetree._shared.trainer.links import ArtifactLink
    from finetree._shared.trainer.serving import AnswerPiece
    from finetree._sync.client import Client
    from finetree._sync.events import EventStream
    from finetree._sync.job import Job
    from finetree._sync.pages import Pages
    from finetree._sync.trainer.serving import Generation, Serving
    from finetree.config.options import TLS
    from finetree.display.text import to_html, to_text
    from finetree.durations import parse_duration, to_duration
    from finetree.errors import (
        Aborted,
        AlreadyExists,
        Cancelled,
        ClientClosed,
        DeadlineExceeded,
        FailedPrecondition,
        FinetreeError,
        FinetreeTimeout,
        ForkedClientError,
        Internal,
        InvalidArgument,
        InvalidSpec,
        JobFailed,
        NotFound,
        OutOfRange,
        PermissionDenied,
        PlanDrift,
        ResourceExhausted,
        Unauthenticated,
        Unavailable,
        Unimplemented,
        Violation,
    )
    from finetree.json import to_json
    from finetree.metadata import call_metadata
    from finetree.money import format_money, parse_money, to_money
    from finetree.spec import plan_of, spec_from_dict

_HOMES = {
    "finetree._async.client": ("AsyncClient",),
    "finetree._async.events": ("AsyncEventStream",),
    "finetree._async.job": ("AsyncJob",),
    "finetree._async.pages": ("AsyncPages",),
    "finetree._async.trainer.serving": ("AsyncGeneration", "AsyncServing"),
    "finetree._shared.hub.model_hub": ("PushedArtifact",),
    "finetree._shared.listing": ("Page",),
    "finetree._shared.served.canaries": ("ServedCanary", "ServedSample", "ServingReport", "ServingVerdict"),
    "finetree._shared.trainer.links": ("ArtifactLink",),
    "finetree._shared.trainer.serving": ("AnswerPiece",),
    "finetree.metadata": ("call_metadata",),
    "finetree.config.options": ("TLS",),
    "finetree._shared.status": ("error_of_status",),
    "finetree._sync.client": ("Client",),
    "finetree._sync.events": ("EventStream",),
    "finetree._sync.job": ("Job",),
    "finetree._sync.pages": ("Pages",),
    "finetree._sync.trainer.serving": ("Generation", "Serving"),
    "finetree.display.text": ("to_html", "to_text"),
    "finetree.durations": ("parse_duration", "to_duration"),
    "finetree.errors": (
        "Aborted",
        "AlreadyExists",
        "Cancelled",
        "ClientClosed",
        "DeadlineExceeded",
        "FailedPrecondition",
        "FinetreeError",
        "FinetreeTimeout",
        "ForkedClientError",
        "Internal",
        "InvalidArgument",
        "InvalidSpec",
        "JobFailed",
        "NotFound",
        "OutOfRange",
        "PermissionDenied",
        "PlanDrift",
        "ResourceExhausted",
        "Unauthenticated",
        "Unavailable",
        "Unimplemented",
        "Violation",
    ),
    "finetree.json": ("to_json",),
    "finetree.money": ("format_money", "parse_money", "to_money"),
    "finetree.spec": ("plan_of", "spec_from_dict"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "TLS",
    "Aborted",
    "AlreadyExists",
    "AnswerPiece",
    "ArtifactLink",
    "AsyncClient",
    "AsyncEventStream",
    "AsyncGeneration",
    "AsyncJob",
    "AsyncPages",
    "AsyncServing",
    "Cancelled",
    "Client",
    "ClientClosed",
    "DeadlineExceeded",
    "EventStream",
    "FailedPrecondition",
    "FinetreeError",
    "FinetreeTimeout",
    "ForkedClientError",
    "Generation",
    "Internal",
    "InvalidArgument",
    "InvalidSpec",
    "Job",
    "JobFailed",
    "NotFound",
    "OutOfRange",
    "Page",
    "Pages",
    "PermissionDenied",
    "PlanDrift",
    "PushedArtifact",
    "ResourceExhausted",
    "ServedCanary",
    "ServedSample",
    "Serving",
    "ServingReport",
    "ServingVerdict",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Violation",
    "__version__",
    "call_metadata",
    "error_of_status",
    "format_money",
    "parse_duration",
    "parse_money",
    "plan_of",
    "spec_from_dict",
    "to_duration",
    "to_html",
    "to_json",
    "to_money",
    "to_text",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'finetree' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def load_ipython_extension(shell: Any) -> None:
    """Show answers as cards in an IPython shell; importing finetree in a notebook has done it already."""
    from finetree.display.notebook import register

    register(shell)


if "IPython" in sys.modules:
    load_ipython_extension(sys.modules["IPython"].get_ipython())


def __dir__() -> list[str]:
    return sorted(__all__)
