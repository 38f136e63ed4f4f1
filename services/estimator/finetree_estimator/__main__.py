# SPDX-License-Identifier: Apache-2.0
"""`python -m finetree_estimator`: serve, or with --once answer the requests on stdin."""

import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from finetree_api.estimator.v1 import estimator_pb2_grpc
from finetree_runtime.config.settings import SettingsError, load_or_exit, refuse_start
from finetree_runtime.errors import DomainError
from finetree_runtime.server import oneshot
from finetree_runtime.server.identity import distribution_version, limits_of
from finetree_runtime.server.service import Service, run

from finetree_estimator.catalog import price_book
from finetree_estimator.catalog.price_book import PriceBook
from finetree_estimator.estimate import estimate
from finetree_estimator.evidence.calibration import EMPTY, Calibration
from finetree_estimator.servicer import SERVICE, EstimatorServicer
from finetree_estimator.settings import ENV_PREFIX, NAME, Settings
from finetree_estimator.spec.resolve import Knowledge

if TYPE_CHECKING:
    from finetree_estimator.evidence.learner import Learner


def main() -> int:
    """Serve until a signal, or answer the requests on stdin; return the exit code."""
    settings = load_or_exit(Settings, ENV_PREFIX)
    try:
        if settings.once:
            return answer_once(settings)
        built = service(settings)
    except (SettingsError, DomainError) as error:
        return refuse_start(error)
    return run(built)


def service(settings: Settings) -> Service:
    """Build the estimator as a service that can be run.

    Raises:
        SettingsError: The price book, the model root or the store of observations cannot be used.
        DomainError: The store cannot be written, for example on a full disk.
    """
    known = knowledge(settings)
    learner = _learner(settings, known)
    servicer = EstimatorServicer(
        known, learner=learner, page_token_key=settings.page_token_key.reveal(), limits=limits_of(settings)
    )
    built = Service(NAME, distribution_version(NAME), settings)
    built.add(estimator_pb2_grpc.add_EstimatorServiceServicer_to_server, servicer, SERVICE)
    if learner is not None:
        built.on_stop = _closing(learner)
    return built


def answer_once(settings: Settings) -> int:
    """Answer the requests on stdin, without a socket; return the exit code.

    Raises:
        SettingsError: The price book, the model root or the store of observations cannot be used.
    """
    known = knowledge(settings)
    servicer = EstimatorServicer(
        known,
        calibration=_calibration(settings, known),
        page_token_key=settings.page_token_key.reveal(),
        limits=limits_of(settings),
    )
    rpc = oneshot.Rpc.of(SERVICE, settings.once_method, servicer=servicer, max_request_bytes=settings.max_request_bytes)
    return oneshot.run(rpc, settings.once_format, oneshot.Streams.standard())


def knowledge(settings: Settings) -> Knowledge:
    """Load the price book and check the model root. Raises SettingsError for one that cannot be used."""
    if settings.model_root is not None and not settings.model_root.is_dir():
        raise SettingsError("SETTING_INVALID", f"--model-root ({ENV_PREFIX}_MODEL_ROOT): no such folder")
    return Knowledge(_price_book(settings), settings.model_root)


def _calibration(settings: Settings, known: Knowledge) -> Calibration:
    """Read the stored calibration, without opening the store for writing as a server's learner does."""
    if settings.state_dir is None:
        return EMPTY
    from finetree_estimator.evidence import learner

    return learner.load(settings.state_dir, known, estimate)


def _price_book(settings: Settings) -> PriceBook:
    if settings.price_book is None and settings.price_book_extends:
        text = f"--price-book-extends ({ENV_PREFIX}_PRICE_BOOK_EXTENDS): needs --price-book, the file to add"
        raise SettingsError("SETTING_INVALID", text)
    if settings.price_book is None:
        return price_book.packaged()
    try:
        book = price_book.from_file(settings.price_book)
    except (OSError, ValueError) as error:
        text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise SettingsError("SETTING_INVALID", f"--price-book ({ENV_PREFIX}_PRICE_BOOK): {text}") from error
    if settings.price_book_extends:
        book = price_book.packaged().extended(book)
    return book


def _learner(settings: Settings, known: Knowledge) -> "Learner | None":
    """Open the store of observations; None without --state-dir."""
    if settings.state_dir is None:
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
