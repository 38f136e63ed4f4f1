# SPDX-License-Identifier: Apache-2.0
"""Puts the trainer together: one place that knows every part and the order in which they start and stop."""

import asyncio
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from finetree_api.trainer.v1 import job_pb2, trainer_pb2_grpc
from finetree_runtime.config.settings import SettingsError
from finetree_runtime.errors import DomainError
from finetree_runtime.paging import PageTokens
from finetree_runtime.server.identity import distribution_version
from finetree_runtime.server.logging import get_logger
from finetree_runtime.server.service import Service

from finetree_trainer.api import worker_servicer
from finetree_trainer.api.servicer import SERVICE, TrainerServicer
from finetree_trainer.datasets.datasets import Datasets, Limits
from finetree_trainer.datasets.previews import Previews
from finetree_trainer.estimator import Estimator, RemoteEstimator
from finetree_trainer.joblog import states
from finetree_trainer.joblog.list import EventLister
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.joblog.watch import Watches
from finetree_trainer.jobs.artifacts import Artifacts
from finetree_trainer.jobs.jobs import Jobs
from finetree_trainer.jobs.observations import Reports
from finetree_trainer.jobs.planner import Planner
from finetree_trainer.jobs.upkeep import Upkeep
from finetree_trainer.models.base_models import BaseModels
from finetree_trainer.models.locate import Models
from finetree_trainer.scheduling import devices
from finetree_trainer.scheduling.host import Host
from finetree_trainer.scheduling.queue import Scheduler, recover
from finetree_trainer.settings import Settings
from finetree_trainer.store import jobs as job_store
from finetree_trainer.store.database import Store, private_folder
from finetree_trainer.store.migrations import SchemaTooNewError
from finetree_trainer.workers.supervisor import Supervisor
from finetree_trainer.workers.task import Tasks

NAME = "finetree-trainer"

WARM_AFTER_SECONDS = 0.5
"""When the first waiting worker is started: once we serve (its imports would slow that down), or have failed to."""


def service(settings: Settings, estimator: Estimator | None = None) -> Service:
    """The trainer as a service that can be run. Tests give an estimator of their own."""
    built = Service(NAME, distribution_version(NAME), settings)
    application = Application(settings, built, estimator)
    built.on_start = application.start
    built.on_drain = application.drain
    built.on_stop = application.stop
    return built


class Application:
    """Every part of a running trainer."""

    def __init__(self, settings: Settings, service_: Service, estimator: Estimator | None) -> None:
        self._settings, self._service, self._estimator = settings, service_, estimator
        self._lock = -1
        self._running: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Open the store, take over what an earlier run left, and listen for workers."""
        settings = self._settings
        self._claim_folder()
        self._store = _open_store(settings.data_dir)
        self._log = EventLog(self._store)
        found = devices.discover(settings.cpu_slots, settings.cpu_threads)
        self._host = Host(self._store, found, measured_while_idle=settings.prewarm)
        await self._host.load()
        estimator = self._estimator = self._estimator or RemoteEstimator(settings.estimator_address)
        servicer = self._build(found, estimator)
        self._service.add(trainer_pb2_grpc.add_TrainerServiceServicer_to_server, servicer, SERVICE)
        await self._take_over()
        workers = worker_servicer.WorkerServicer(self._supervisor, self._log, settings, self._profiled)
        self._attach = await worker_servicer.serve(workers, worker_servicer.socket_path(settings.data_dir))
        self._begin(self._scheduler, self._supervisor, self._upkeep, Reports(self._log, estimator))

    def _build(self, found: list[devices.Device], estimator: Estimator) -> TrainerServicer:
        """Make every part, each of those before it; the last one answers the rpcs."""
        settings, log = self._settings, self._log
        models = Models(settings.data_dir, settings.model_roots)
        limits = Limits(settings.max_upload_bytes, settings.max_project_bytes, settings.disk_reserve_bytes)
        datasets = Datasets(self._store, log.clock, settings.data_dir, limits)
        tasks = Tasks(log, models, datasets, found, settings)
        self._scheduler = Scheduler(log, found)
        socket = f"unix:{worker_servicer.socket_path(settings.data_dir)}"
        self._supervisor = Supervisor(log, tasks, settings, socket, self._scheduler.release)
        planner = Planner(
            models_=models,
            datasets=datasets,
            data_roots=settings.data_roots,
            devices_=found,
            estimator=estimator,
            rates=self._host.rates,
        )
        jobs = Jobs(log, planner, self._scheduler, self._supervisor, settings)
        self._watches = Watches(log, limit=settings.max_watchers, per_principal=settings.max_watchers_per_caller)
        self._upkeep = Upkeep(log, jobs, retention=settings.event_retention)
        return TrainerServicer(
            jobs=jobs,
            datasets=datasets,
            watches=self._watches,
            lister=EventLister(log),
            artifacts=Artifacts(log, tasks),
            previews=Previews(log, tasks),
            base_models=BaseModels(self._store, models),
            host=self._host,
            scheduler=self._scheduler,
            tokens=PageTokens(settings.page_token_key.reveal()),
            version=self._service.version,
            limits=_limits(settings),
        )

    def _begin(self, scheduler: Scheduler, supervisor: Supervisor, upkeep: Upkeep, reports: Reports) -> None:
        """From now on jobs are started, a worker is kept warm, old events are cut, and ended runs are reported."""
        scheduler.start = supervisor.start
        asyncio.get_running_loop().call_later(WARM_AFTER_SECONDS, self._prewarm_from_now)
        for work in (scheduler.run(), upkeep.run(), reports.run()):
            self._running.append(asyncio.create_task(_logged(work)))

    async def drain(self) -> None:
        """Send the watchers their last cursor, so that the calls end."""
        self._watches.drain()

    async def stop(self) -> None:
        """End what is ours: waiting workers and the store. Workers with a task work on."""
        for task in self._running:
            task.cancel()
        await self._supervisor.stop()
        await self._attach.stop(0.5)
        if isinstance(self._estimator, RemoteEstimator):
            await self._estimator.close()
        await asyncio.to_thread(self._store.close)
        os.close(self._lock)

    def _claim_folder(self) -> None:
        """Make sure that no other trainer uses the folder: two would give one job to two workers."""
        try:
            private_folder(self._settings.data_dir)
            self._lock = os.open(self._settings.data_dir / "service.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                "DATA_DIR_IN_USE", "data_dir: another trainer uses this folder; stop it first"
            ) from None
        except OSError as error:
            raise SettingsError("DATA_DIR_UNUSABLE", f"data_dir: it cannot be used: {error.strerror}") from None

    async def _take_over(self) -> None:
        """Jobs and attempts that an earlier run of the service left."""
        rows = await self._store.read(lambda connection: job_store.in_states(connection, states.LIVE))
        kinds = {row.uid: row.kind for row in rows}
        for attempt in await self._supervisor.adopt():
            self._scheduler.hold(attempt.slot, attempt.job_uid, kinds.get(attempt.job_uid, 0))
        recover(self._scheduler, rows)
        self._upkeep.recover(rows)
        for row in rows:
            if row.state == job_pb2.JOB_STATE_CANCELLING:
                self._supervisor.cancel(row.uid, row.attempt, save=False)

    def _prewarm_from_now(self) -> None:
        self._scheduler.prewarm = self._supervisor.prewarm
        self._scheduler.wake()

    async def _profiled(self, profile: Any) -> None:
        self._supervisor.measure = False
        with suppress(DomainError):
            await self._host.note(profile)


def _open_store(data_dir: Path) -> Store:
    """The trainer's database. Raises SettingsError when a newer trainer has written it."""
    try:
        return Store(data_dir / "trainer.db")
    except SchemaTooNewError as error:
        raise SettingsError("DATA_DIR_TOO_NEW", f"data_dir: {error}; start a newer trainer on it") from None


def _limits(settings: Settings) -> dict[str, int]:
    return {
        "max_upload_bytes": settings.max_upload_bytes,
        "max_project_bytes": settings.max_project_bytes,
        "max_request_bytes": settings.max_request_bytes,
        "max_watchers": settings.max_watchers,
        "max_watchers_per_caller": settings.max_watchers_per_caller,
        "max_queued_jobs": settings.max_queued,
        "event_retention_seconds": int(settings.event_retention),
        "orphan_grace_seconds": int(settings.orphan_grace),
    }


async def _logged(work: Any) -> None:
    try:
        await work
    except Exception as error:
        get_logger().error("background_task_failed", exc_info=error)
        raise
