# SPDX-License-Identifier: Apache-2.0
"""`python -m finetree_estimator`: serve, or with --once answer the requests on stdin."""

import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from finetree_api.estimator.v1 import estimator_pb2, estimator_pb2_grpc
from finetree_runtime.config.settings import SettingsError, load_or_exit
from finetree_runtime.errors import DomainError
from finetree_runtime.server import oneshot
from finetree_runtime.server.entry.admission import CallLimits
from finetree_runtime.server.identity import distribution_version
from finetree_runtime.server.service import Service, run

from finetree_estimator.catalog import price_book
from finetree_estimator.catalog.price_book import PriceBook
from finetree_estimator.estimate import estimate
from finetree_estimator.evidence.calibration import EMPTY, Calibration
from finetree_estimator.servicer import NAME, EstimatorServicer
from finetree_estimator.settings import PREFIX, Settings
from finetree_estimator.spec.resolve import Knowledge

if TYPE_CHECKING:
    from finetree_estimator.evidence.learner import Learner

FULL_NAME = "finetree_api.estimator.v1.EstimatorService"


def main() -> int:
    """Serve until a signal, or answer the requests on stdin; return the exit code."""
    settings = load_or_exit(Settings, PREFIX)
    try:
        known = knowledge(settings)
        learner = _learner(settings, known)
        servicer = EstimatorServicer(
            known,
            calibration=_calibration(settings, known),
            learner=learner,
            page_token_key=settings.page_token_key.reveal(),
            max_request_bytes=settings.max_request_bytes,
            call_limits=CallLimits.of(settings).shown(),
        )
    except (SettingsError, DomainError) as error:
        print(f"{error.reason}: {error}", file=sys.stderr)  # noqa: T201 - no log exists yet
        return 2
    if settings.once:
        rpc = oneshot.Rpc.of(
            estimator_pb2.DESCRIPTOR.services_by_name["EstimatorService"],
            settings.once_method,
            servicer=servicer,
            max_request_bytes=settings.max_request_bytes,
        )
        return oneshot.run(rpc, settings.once_format, oneshot.Streams.standard())
    service = Service(NAME, distribution_version(NAME), settings)
    if learner is not None:
        service.on_stop = _closing(learner)
    service.add(estimator_pb2_grpc.add_EstimatorServiceServicer_to_server, servicer, FULL_NAME)
    return run(service)


def knowledge(settings: Settings) -> Knowledge:
    """Load the price book and check the model root. Raises SettingsError for one that cannot be used."""
    if settings.model_root is not None and not settings.model_root.is_dir():
        raise SettingsError("SETTING_INVALID", f"--model-root ({PREFIX}_MODEL_ROOT): no such folder")
    return Knowledge(_price_book(settings), settings.model_root)


def _calibration(settings: Settings, known: Knowledge) -> Calibration:
    """Read the stored calibration for --once; a server's learner reads it itself."""
    if settings.state_dir is None or not settings.once:
        return EMPTY
    from finetree_estimator.evidence import learner

    return learner.load(settings.state_dir, known, estimate)


def _price_book(settings: Settings) -> PriceBook:
    if settings.price_book is None and settings.price_book_extends:
        text = f"--price-book-extends ({PREFIX}_PRICE_BOOK_EXTENDS): needs --price-book, the file to add"
        raise SettingsError("SETTING_INVALID", text)
    if settings.price_book is None:
        return price_book.packaged()
    try:
        book = price_book.from_file(settings.price_book)
    except (OSError, ValueError) as error:
        text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise SettingsError("SETTING_INVALID", f"--price-book ({PREFIX}_PRICE_BOOK): {text}") from error
    if settings.price_book_extends:
        book = price_book.packaged().extended(book)
    return book


def _learner(settings: Settings, known: Knowledge) -> "Learner | None":
    """Open the store of observations for a server; None without --state-dir and with --once."""
    if settings.state_dir is None or settings.once:
        return None
    # Imported here, so that a process without a store does not load SQLite.
    from finetree_estimator.evidence.learner import Learner

    return Learner(settings.state_dir, known, estimate)


def _closing(learner: "Learner") -> Callable[[], Awaitable[None]]:
    async def close() -> None:
        learner.close()

    return close


if __name__ == "__main__":
    sys.exit(main())
