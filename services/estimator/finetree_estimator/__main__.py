# SPDX-License-Identifier: Apache-2.0
"""`python -m finetree_estimator`: serve, or with --once answer one request from stdin."""

import os
import sys

from finetree_api.estimator.v1 import estimator_pb2_grpc
from finetree_runtime.errors import DomainError
from finetree_runtime.identity import distribution_version
from finetree_runtime.server import Service, run
from finetree_runtime.settings import SettingsError, load_or_exit

from finetree_estimator import prices
from finetree_estimator.lookups import Knowledge
from finetree_estimator.once import answer_once
from finetree_estimator.servicer import NAME, EstimatorServicer
from finetree_estimator.settings import PREFIX, Settings

FULL_NAME = "finetree_api.estimator.v1.EstimatorService"


def main() -> int:
    """Serve until a signal, or answer once; the exit code."""
    settings = load_or_exit(Settings, PREFIX)
    try:
        servicer = EstimatorServicer(
            knowledge(settings),
            page_token_key=settings.page_token_key.reveal(),
            max_request_bytes=settings.max_request_bytes,
        )
    except (SettingsError, DomainError) as error:
        print(f"{error.reason}: {error}", file=sys.stderr)  # noqa: T201 - a program's last words
        return 2
    if settings.once:
        return answer_once(servicer, sys.stdin.buffer, sys.stdout, sys.stderr)
    service = Service(NAME, distribution_version(NAME), settings)
    service.add(estimator_pb2_grpc.add_EstimatorServiceServicer_to_server, servicer, FULL_NAME)
    return run(service)


def knowledge(settings: Settings) -> Knowledge:
    """What requests are read with. Raises SettingsError for a price book or model root that cannot be used."""
    if settings.model_root is not None and not settings.model_root.is_dir():
        raise SettingsError("SETTING_INVALID", f"--model-root ({PREFIX}_MODEL_ROOT): no such folder")
    if settings.price_book is None:
        return Knowledge(prices.packaged(), settings.model_root)
    try:
        return Knowledge(prices.from_file(settings.price_book), settings.model_root)
    except (OSError, ValueError) as error:
        text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise SettingsError("SETTING_INVALID", f"--price-book ({PREFIX}_PRICE_BOOK): {text}") from error


if __name__ == "__main__":
    sys.exit(main())
