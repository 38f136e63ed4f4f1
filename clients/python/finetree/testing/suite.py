# SPDX-License-Identifier: Apache-2.0
"""The fake suite as one server on a loopback port."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc

from finetree.testing.base_models import FakeBaseModels
from finetree.testing.datasets import FakeDatasets
from finetree.testing.estimator import FakeEstimator
from finetree.testing.faults import Faults
from finetree.testing.handlers import Handlers
from finetree.testing.recommender import FakeRecommender
from finetree.testing.trainer import FakeTrainer

if TYPE_CHECKING:
    from finetree import AsyncClient, Client

THREADS = 64
GRACE = 1.0


class Suite:
    """Recommender, estimator and trainer on one address. What they hold survives `restart`.

    Attributes:
        faults: calls to fail or to hold, and the calls that arrived.
        recommender: its recommender.
        estimator: its estimator, with the observations that were reported.
        trainer: its jobs, and failures of their streams on request.
        datasets: its datasets.
        base_models: its base models.
        address: "127.0.0.1:port".
    """

    def __init__(self, *, port: int = 0, credentials: grpc.ServerCredentials | None = None) -> None:
        self.faults = Faults()
        self._handlers = Handlers(self.faults)
        self.recommender = FakeRecommender(self._handlers)
        self.estimator = FakeEstimator(self._handlers)
        self.datasets = FakeDatasets(self._handlers)
        self.base_models = FakeBaseModels(self._handlers)
        self.trainer = FakeTrainer(self._handlers, self.datasets)
        self._credentials = credentials
        self._port = port
        self._server: grpc.Server | None = None
        self._pool: ThreadPoolExecutor | None = None
        self.start()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self._port}"

    def client(self, **options: Any) -> Client:
        """Make a client of this suite."""
        from finetree import Client

        return Client(self.address, **options)

    def async_client(self, **options: Any) -> AsyncClient:
        """Make an asynchronous client of this suite."""
        from finetree import AsyncClient

        return AsyncClient(self.address, **options)

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="finetree-testing")
        # Clients ping every 30 s, as the services let them; gRPC's own default calls that too much.
        options = (("grpc.so_reuseport", 0), ("grpc.http2.min_recv_ping_interval_without_data_ms", 20_000))
        self._server = grpc.server(self._pool, [self._handlers], options=options)
        if self._credentials is None:
            self._port = self._server.add_insecure_port(self.address)
        else:
            self._port = self._server.add_secure_port(self.address, self._credentials)
        self.trainer.stopping(now=False)
        self._server.start()

    def stop(self, *, grace: float = GRACE) -> None:
        """Stop listening; streams end with UNAVAILABLE."""
        if self._server is None or self._pool is None:
            return
        self.trainer.stopping(now=True)
        self._server.stop(grace).wait()
        self._pool.shutdown(wait=True)
        self._server = self._pool = None

    def restart(self) -> None:
        """Stop and start again, as an upgrade does."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
