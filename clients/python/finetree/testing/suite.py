# SPDX-License-Identifier: Apache-2.0
"""The fake suite as one server on a loopback port."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc

from finetree._shared import rpcs
from finetree.durations import parse_duration
from finetree.errors import FinetreeError
from finetree.testing.clock import Clock, Ids
from finetree.testing.estimator import FakeEstimator
from finetree.testing.faults import Faults, error_of
from finetree.testing.handlers import Handlers
from finetree.testing.recommender import FakeRecommender
from finetree.testing.requests import Answers
from finetree.testing.trainer import FakeBaseModels, FakeDatasets, FakeTrainer, Replay

if TYPE_CHECKING:
    from finetree import AsyncClient, Client

THREADS = 64
GRACE = 1.0
RPCS = frozenset(rpc.path.rpartition("/")[2] for rpc in vars(rpcs).values() if isinstance(rpc, rpcs.Rpc))
"""Names of the rpcs."""


class Suite:
    """Recommender, estimator and trainer on one address. What they hold survives `restart`.

    It keeps what the contract promises of requests, errors, idempotency, pages, uploads, states, events, cursors,
    cancelling, artifacts, policies and observations: the services' contract tests run on it too. Ids and times are the
    same in every run. What it cannot promise it refuses with UNIMPLEMENTED and the reason NOT_IN_FAKE_SUITE, or leaves
    out:

    * which method is right, how much memory, time and money a run takes: numbers are invented, with a remark that says
      so, and agree with each other; the verdict is LoRA where it fits, or `suite.recommender.answer`;
    * remedies, smaller hardware and largest sizes of a run that does not fit; measured runs near by; counts of experts;
      model licences;
    * rows that are not JSON lines of messages, of prompt and completion, or of text: other files, other columns, tool
      calls, and readings that name columns or skip rows. What a reader finds in rows is `suite.datasets.findings`;
    * waiting for a device: every job but a suspended one runs at once; attempts that recover; checkpoints,
      runs that start from trained weights, and the lineage of jobs;
    * files of a replayed job's artifacts, and spellings of names: models and cards go by their exact names;
    * what one observation changes in the next estimate, and whether one is far from what would be predicted.

    Attributes:
        clock: its time, which `advance` moves.
        faults: calls to fail, delay or hold, and the calls that arrived.
        recommender: its recommender.
        estimator: its estimator, with the observations that were reported.
        trainer: its jobs, and failures of their streams on request.
        datasets: its datasets.
        base_models: its base models.
        replayed: name of the job that `replay` holds, "" without one.
        address: "127.0.0.1:port".
    """

    def __init__(
        self,
        *,
        port: int = 0,
        credentials: grpc.ServerCredentials | None = None,
        clock: Clock | None = None,
        accelerators: tuple[str, ...] = ("rtx-4090",),
        replay: str | Path | Replay | None = None,
    ) -> None:
        """Start a suite.

        Args:
            port: where it listens; 0: a free port.
            credentials: of a server with TLS.
            clock: its time; None: one that stands still.
            accelerators: cards of its machine beside the processor, by their names in the catalog.
            replay: a recorded log, whose job is there under its own name, and which jobs that are created follow.
                With a file the whole log is there and the clock stands at its end; with `Replay(…, at_once=False)` it
                stands at its beginning, and events come as the clock moves.
        """
        course = Replay.of(replay) if isinstance(replay, str | Path) else replay
        start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=course.starts if course is not None else 0)
        self.clock = clock or (Clock() if course is None else Clock(start))
        self.faults = Faults()
        self.replayed = ""
        answers, ids = Answers(), Ids(self.clock)
        self._handlers = Handlers(self.faults, self.clock)
        self.estimator = FakeEstimator(self._handlers, self.clock, answers)
        self.recommender = FakeRecommender(self._handlers, self.estimator)
        self.datasets = FakeDatasets(self._handlers, self.clock, ids=ids, answers=answers)
        self.base_models = FakeBaseModels(self._handlers, self.clock, answers)
        self.trainer = FakeTrainer(
            self._handlers,
            self.clock,
            ids=ids,
            answers=answers,
            datasets=self.datasets,
            base_models=self.base_models,
            estimator=self.estimator,
            accelerators=accelerators,
        )
        self._handlers.refuse_rest(rpc for rpc in vars(rpcs).values() if isinstance(rpc, rpcs.Rpc))
        if course is not None:
            self._replay(course)
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

    def fail_next(
        self,
        rpc: str,
        error: str | FinetreeError = "UNAVAILABLE",
        *,
        reason: str = "",
        times: int = 1,
        retry_after: float | None = None,
    ) -> None:
        """Let the next calls of an rpc fail before they do anything.

        Args:
            rpc: name, such as "CreateJob".
            error: a status code, such as "RESOURCE_EXHAUSTED", or an error of the SDK.
            reason: ErrorReason, such as "QUEUE_FULL".
            times: how many calls.
            retry_after: seconds that the error asks to wait.

        Raises:
            ValueError: there is no such rpc or code.
        """
        _require_rpc(rpc)
        failure = error if isinstance(error, FinetreeError) else error_of(error, reason, retry_after=retry_after)
        self.faults.fail_next(rpc, failure, times=times)

    def delay_next(self, rpc: str, duration: str, *, times: int = 1) -> None:
        """Let the next calls of an rpc be answered when the suite's clock has moved on by a duration, such as "5s".

        Raises:
            ValueError: there is no such rpc, or the text is no duration.
        """
        _require_rpc(rpc)
        self.faults.delay_next(rpc, parse_duration(duration).ToMicroseconds(), times=times)

    def disconnect_after(self, *seqs: int) -> None:
        """Break a stream of events once, right after each of these numbers."""
        self.trainer.disconnect_after(*seqs)

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
        """Stop listening, as a service that goes away; streams end with UNAVAILABLE. `start` brings it back."""
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

    def _replay(self, course: Replay) -> None:
        self.trainer.script = course
        self.replayed = self.trainer.add(course.job(), course).message.name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _require_rpc(name: str) -> None:
    if name not in RPCS:
        raise ValueError(f"expected an rpc such as CreateJob or WatchJob, got {name!r}")
