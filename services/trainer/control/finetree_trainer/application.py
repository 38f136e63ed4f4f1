# SPDX-License-Identifier: Apache-2.0
"""Puts the trainer together: builds every part, and starts and stops them in order."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from finetree_api.trainer.v1 import trainer_pb2_grpc
from finetree_data.fail_points import fail_point
from finetree_runtime.config.service_token import service_token
from finetree_runtime.errors import DomainError
from finetree_runtime.meter import OFF, Meter
from finetree_runtime.paging import PageTokens
from finetree_runtime.server.identity import distribution_version
from finetree_runtime.server.limits.file import LimitsFile
from finetree_runtime.server.logging import get_logger
from finetree_runtime.server.service import Service
from grpc import aio

from finetree_trainer.api import worker_servicer
from finetree_trainer.api.names import Names
from finetree_trainer.api.servicer import SERVICE, TrainerServicer
from finetree_trainer.datasets.previews import Previews
from finetree_trainer.estimator import Estimator, RemoteEstimator
from finetree_trainer.joblog import states
from finetree_trainer.joblog.list import EventLister
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.joblog.metrics import MetricsReader
from finetree_trainer.joblog.project.watch import ProjectWatches
from finetree_trainer.joblog.wait import Waits
from finetree_trainer.joblog.watch import Watches
from finetree_trainer.jobs.artifacts import Artifacts
from finetree_trainer.jobs.attempt_logs import AttemptLogs
from finetree_trainer.jobs.compare.compare import Comparer
from finetree_trainer.jobs.jobs import Jobs
from finetree_trainer.jobs.lifecycle.moving import Moving
from finetree_trainer.jobs.lifecycle.pausing import Pausing
from finetree_trainer.jobs.lifecycle.preempting import Preempting
from finetree_trainer.jobs.lifecycle.time_limits import TimeLimits
from finetree_trainer.jobs.observations import ObservationReporter
from finetree_trainer.jobs.retention import users
from finetree_trainer.jobs.retention.checkpoints import CheckpointKeeping
from finetree_trainer.jobs.retention.deletion import Deletions
from finetree_trainer.jobs.retention.policy import KINDS, read_policy
from finetree_trainer.jobs.retention.sweep import RetentionSweep
from finetree_trainer.jobs.retention.usage import StorageReport
from finetree_trainer.jobs.serving.generations import Generations
from finetree_trainer.jobs.serving.leases import Leases
from finetree_trainer.jobs.sweeps.controller import SweepController
from finetree_trainer.jobs.sweeps.sweeps import Sweeps
from finetree_trainer.layout import Layout, claim
from finetree_trainer.limits.quotas import Quotas, usual_limits
from finetree_trainer.limits.report import LimitReport, server_limits
from finetree_trainer.models.base_models import BaseModels
from finetree_trainer.models.checkpoints import Checkpoints
from finetree_trainer.objects.links import Links
from finetree_trainer.objects.opening import open_copies
from finetree_trainer.objects.storage import ObjectStorage
from finetree_trainer.outages import keep_running
from finetree_trainer.parts import Hardware, Sources, planner_of
from finetree_trainer.replicas.member import Member
from finetree_trainer.replicas.servicer import ReplicaServicer
from finetree_trainer.scheduling.fit import Holder
from finetree_trainer.scheduling.order.recall import recall_use
from finetree_trainer.scheduling.queue import JobQueue
from finetree_trainer.scheduling.starting import StartLimits
from finetree_trainer.scheduling.watch import MachineWatch
from finetree_trainer.settings import NAME, Settings
from finetree_trainer.store import jobs as job_store
from finetree_trainer.store.backends.availability import Availability
from finetree_trainer.store.backends.opening import open_store
from finetree_trainer.telemetry import service_metrics
from finetree_trainer.telemetry.job_metrics import JobMetrics
from finetree_trainer.telemetry.place_metrics import PlaceMetrics
from finetree_trainer.telemetry.span_export import SpanExport
from finetree_trainer.worker_user import WorkerUser
from finetree_trainer.workers.confinement import WorkerConfinement
from finetree_trainer.workers.handover import hand_over
from finetree_trainer.workers.launch.local import LocalLauncher
from finetree_trainer.workers.ray.cluster import require
from finetree_trainer.workers.supervisor import Supervisor
from finetree_trainer.workers.task import TaskBuilder

LAST_SPANS_SECONDS = 1.5
"""Time that the last spans of jobs get when the service stops; the next run of it sends what is left."""

PREWARM_AFTER_SECONDS = 0.5
"""Time from the start of the service to its first idle worker, whose imports would slow the start down."""


def service(settings: Settings, estimator: Estimator | None = None) -> Service:
    """Build the trainer as a service that can be run; tests give an estimator of their own."""
    built = Service(NAME, distribution_version(NAME), settings)
    application = Application(settings, built, estimator)
    built.on_start = application.start
    built.on_ready = application.run
    built.on_drain = application.drain
    built.on_stop = application.stop
    built.stop_seconds += settings.stop_grace
    return built


class Application:
    """Every part of a running trainer."""

    def __init__(self, settings: Settings, service_: Service, estimator: Estimator | None) -> None:
        self._settings, self._service, self._estimator = settings, service_, estimator
        self._layout = Layout(settings.data_dir, WorkerUser.find(settings.worker_user))
        self._policy = read_policy(settings)
        self._quotas = Quotas(LimitsFile(settings.limits_file, usual_limits(settings)))
        service_.limits = self._quotas.file
        self._member = Member(settings, self._layout) if settings.replica_address else None
        self._lock = -1
        self._attach: aio.Server | None = None
        self._built = False
        self._running: dict[str, asyncio.Task[None]] = {}
        self._metrics: JobMetrics | None = None
        self._spans: SpanExport | None = None

    async def start(self) -> None:
        """Open the store, take over what an earlier run left, and listen for workers."""
        settings = self._settings
        require(settings)
        self._lock = claim(self._layout, shared=self._member is not None)
        hand_over(self._layout)
        confinement = WorkerConfinement(settings, self._layout)
        self._confined = asyncio.create_task(confinement.probe())
        if settings.confinement == "required" or self._layout.user is not None:
            await self._confined
        if self._member is not None:
            self._store = await self._member.open()
        elif settings.database_url:  # a server may let a start wait
            self._store = await asyncio.to_thread(open_store, self._layout, settings.database_url)
        else:
            self._store = open_store(self._layout, settings.database_url)
        self._log = EventLog(self._store)
        self._copies = await open_copies(settings, self._store, self._layout)
        self._hardware = await Hardware.find(settings, self._store, self._log, self._layout, confinement=confinement)
        self._cluster = self._hardware.cluster
        estimator = self._estimator = self._estimator or RemoteEstimator(
            settings.estimator_address, service_token(settings.service_token_file)
        )
        own = self._build(estimator, confinement)
        self._reporter = ObservationReporter(self._log, estimator, self._hardware.host.rates)
        servicer: TrainerServicer | ReplicaServicer = own
        if self._member is not None:
            servicer = await self._member.join(self._log, own, self._lead_later, self._service.meter)
        self._built = True
        self._service.add(trainer_pb2_grpc.add_TrainerServiceServicer_to_server, servicer, SERVICE)
        if self._service.meter is not OFF:
            self._measure(self._service.meter)
        if self._store.leads:
            await self._take_over()

    async def _take_over(self) -> None:
        """Take over what an earlier run left, and listen for workers."""
        if self._member is not None:
            self._objects.take_over()
        await self._recover()
        workers = worker_servicer.WorkerServicer(
            self._supervisor, self._log, self._settings, on_profile=self._on_profile
        )
        self._attach = await worker_servicer.serve(workers, self._layout, self._settings)
        if self._cluster is not None:
            await asyncio.to_thread(self._cluster.leading.begin)
        if self._member is not None:
            self._member.lead()

    async def _lead_later(self) -> None:
        """Begin to lead as a replica that has followed."""
        if self._cluster is None:
            await self._hardware.host.load()
        await self._take_over()
        self._begin()

    def _build(self, estimator: Estimator, confinement: WorkerConfinement) -> TrainerServicer:
        """Build every part, each before those that use it; the servicer, which answers the rpcs, is the last."""
        self._log.listeners.append(self._quotas.on_change)
        sources = Sources.build(
            self._settings, self._store, self._log, self._layout, copies=self._copies, quotas=self._quotas
        )
        self._build_workers(sources, confinement)
        self._build_jobs(sources, estimator)
        return self._build_servicer(sources, confinement)

    def _build_workers(self, sources: Sources, confinement: WorkerConfinement) -> None:
        """Build what jobs wait in, what runs them, and what brings and keeps their files in the object store."""
        settings, log, layout, hardware = self._settings, self._log, self._layout, self._hardware
        tasks = TaskBuilder(
            log,
            sources.models,
            sources.datasets,
            weights=sources.weights,
            devices=hardware.devices,
            rates=hardware.host.rates,
            layout=layout,
            settings=settings,
        )
        queue = self._queue = JobQueue(log, hardware.devices, hardware.memory)
        launcher = self._cluster or LocalLauncher(settings, confinement, threads=tasks.slot_threads)
        self._supervisor = Supervisor(
            log, tasks, settings, confinement=confinement, launcher=launcher, on_released=queue.release
        )
        hardware.memory.workers = self._supervisor.heartbeats.processes
        self._objects = ObjectStorage(
            log,
            layout,
            self._copies,
            cache_bytes=settings.object_cache_bytes,
            in_use=partial(self._store.read, partial(users.in_use, layout=layout)),
            locate=lambda uid: tasks.build(uid, ()),
            wake=queue.wake,
        )
        sources.datasets.contents.on_ready = self._objects.uploads.wake
        starting = StartLimits(self._quotas, self._objects.data.blocked)
        queue.may_start, queue.use.weight = starting.may_start, self._quotas.weight
        if self._cluster is not None:
            self._cluster.serve(queue, starting.planned)

    def _build_jobs(self, sources: Sources, estimator: Estimator) -> None:
        """Build what clients do with jobs, and what is done with jobs by itself: limits, leases, retention, sweeps."""
        settings, log, layout, copies = self._settings, self._log, self._layout, self._copies
        queue, supervisor, quotas, hardware = self._queue, self._supervisor, self._quotas, self._hardware
        planner = planner_of(
            settings, self._store, layout, sources=sources, hardware=hardware, queue=queue, estimator=estimator
        )
        jobs = self._jobs = Jobs(log, planner, queue=queue, supervisor=supervisor, settings=settings, quotas=quotas)
        jobs.longest_kept = lambda project: self._policy.limit(project, KINDS["jobs"]).age
        self._watches = Watches(log, limit=settings.max_watchers, streams=quotas.open)
        self._time_limits = TimeLimits(log, jobs)
        self._pausing = Pausing(log, supervisor)
        self._preempting = Preempting(log, queue, supervisor, settings, preemptible=quotas.preemptible)
        self._leases = Leases(log, queue, supervisor)
        self._generations = Generations(
            log,
            self._leases,
            supervisor,
            weights=sources.weights,
            devices=hardware.devices,
            free=hardware.memory.free,
        )
        self._checkpoints = Checkpoints(log, layout, copies)
        self._deletions = Deletions(log, layout, jobs, copies)
        self._keeping = CheckpointKeeping(log, layout, self._checkpoints, copies)
        self._retention = RetentionSweep(
            log,
            layout,
            self._policy,
            deletions=self._deletions,
            checkpoints=self._keeping,
            datasets=sources.datasets,
            copies=copies,
        )
        self._sweeps = Sweeps(log, jobs)
        self._sweep_controller = SweepController(log, jobs, self._sweeps)

    def _build_servicer(self, sources: Sources, confinement: WorkerConfinement) -> TrainerServicer:
        settings, log, layout, copies = self._settings, self._log, self._layout, self._copies
        return TrainerServicer(
            names=Names(self._store),
            jobs=self._jobs,
            pausing=self._pausing,
            moving=Moving(log, self._queue),
            deletions=self._deletions,
            sweeps=self._sweeps,
            datasets=sources.datasets,
            watches=self._watches,
            waits=Waits(log, self._watches),
            project_watches=ProjectWatches(log, self._watches),
            lister=EventLister(log),
            metrics=MetricsReader(log),
            comparer=Comparer(log, self._jobs),
            logs=AttemptLogs(log, layout, self._watches),
            artifacts=Artifacts(log, layout, copies, Links(copies, settings.object_link_time)),
            checkpoints=self._checkpoints,
            keeping=self._keeping,
            storage=StorageReport(log, layout, self._policy, copies),
            previews=Previews(log, layout, copies),
            base_models=BaseModels(self._store, log.clock, sources.models),
            leases=self._leases,
            generations=self._generations,
            open_streams=self._quotas.open,
            limit_report=LimitReport(self._store, log.clock, self._quotas),
            resting=self._supervisor.resting,
            confinement=confinement,
            host=self._hardware.host,
            queue=self._queue,
            tokens=PageTokens(self._member.page_token_key if self._member else settings.page_token_key.reveal()),
            limits=server_limits(settings),
        )

    def _measure(self, meter: Meter) -> None:
        """Count what happens, for the page of the service."""
        self._metrics = JobMetrics(self._log, meter)
        PlaceMetrics(
            meter,
            self._hardware.devices,
            self._metrics.jobs,
            holders=self._queue.holders,
            budgets=lambda: self._hardware.memory.budgets(self._hardware.memory.read()),
            clock=self._log.clock,
        )
        service_metrics.show_store(meter, self._store, self._layout)
        service_metrics.show_watches(meter, self._watches)
        service_metrics.show_objects(meter, self._objects)
        service_metrics.show_loops(meter, lambda: self._running)
        service_metrics.show_unknown_workers(meter, self._supervisor.heartbeats.unknown)

    async def run(self) -> None:
        """Begin to start jobs, enforce limits and retention, report finished runs, and keep an idle worker.

        Only once the service is ready: a worker's imports and the look through old jobs would keep it waiting.
        """
        await self._confined
        self._run({"limits": partial(self._quotas.watch_file, self._queue.wake)})
        if self._settings.database_url:
            self._run({"database": Availability(self._store, self._service.set_ready).run})
        if self._member is not None:
            self._run({"replica": self._member.run})
        if self._cluster is not None:
            self._run({"cluster": self._cluster.run})
        if self._store.leads:
            self._begin()

    def _begin(self) -> None:
        self._queue.start = self._objects.data.checked(self._supervisor.start)
        if self._cluster is None:
            self._queue.rank_slots = self._supervisor.resting.rank_slots
        self._queue.make_room = self._supervisor.resting.dismiss_all
        asyncio.get_running_loop().call_later(PREWARM_AFTER_SECONDS, self._begin_prewarming)
        loops: dict[str, Callable[[], Awaitable[None]]] = {
            "queue": self._queue.run,
            "time_limits": self._time_limits.run,
            "leases": self._leases.run,
            "sweeps": self._sweep_controller.run,
            "retention": self._retention.run,
            "observation_reports": self._reporter.run,
            "heartbeats": self._supervisor.heartbeats.run,
            "machine": MachineWatch(self._log, self._queue, self._hardware.memory).run,
            **self._objects.loops(),
        }
        if self._cluster is not None:
            self._cluster.lead()
            if self._member is not None:
                leading, strays = self._cluster.leading, self._cluster.end_strays
                loops["leader_file"] = partial(leading.run, self._store.require_lead, strays)
        if self._service.tracing is not None:
            self._spans = SpanExport(self._log, self._service.tracing.records)
            loops["spans"] = self._spans.run
        self._run(loops)

    def _run(self, loops: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        for name, loop in loops.items():
            work = keep_running(loop, name=name, on_death=self._service.end_readiness)
            self._running[name] = asyncio.create_task(work)

    async def drain(self) -> None:
        """Send the watchers their last cursor, and end what is generated, so that their calls end."""
        self._watches.drain()
        self._generations.drain()

    async def stop(self) -> None:
        """Stop the service's own parts; workers with a task go on without it, unless `stop_grace` is set."""
        if not self._built:  # it was refused before there was anything to stop
            if self._lock >= 0:
                os.close(self._lock)
            return
        for task in self._running.values():
            task.cancel()
        if self._member is not None:
            await self._member.leave()
        self._objects.stop()
        await self._supervisor.stop()
        if self._spans is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._spans.send(), LAST_SPANS_SECONDS)
        if self._attach is not None:
            await self._attach.stop(0.5)
        if self._cluster is not None:
            await self._cluster.close()
        if isinstance(self._estimator, RemoteEstimator):
            await self._estimator.close()
        await asyncio.to_thread(self._store.close)
        os.close(self._lock)

    async def _recover(self) -> None:
        """Take over the jobs and attempts that an earlier run of the service left."""
        found = await self._store.read(lambda connection: job_store.in_states(connection, states.LIVE))
        rows = [row for row in found if not row.damaged]
        for damaged in (row.uid for row in found if row.damaged):
            get_logger().error("job_record_damaged", job=damaged)
        by_uid = {row.uid: row for row in rows}
        # Before adoption closes attempts of the dead: of those changes the parts are told, and these rows are older.
        for part in (self._quotas, self._queue, self._time_limits, self._leases, self._preempting):
            part.recover(rows)
        if self._metrics is not None:
            self._metrics.jobs.recover(rows)
        fail_point("start.before_recovery")
        for worker in await self._supervisor.adopt(self._hardware.node_name):
            row = by_uid.get(worker.job)
            self._queue.hold(worker.slots, Holder(worker.job, row.name if row else "", row.task if row else 0))
        fail_point("start.after_adoption")
        await recall_use(self._log, self._queue.use, node=self._hardware.node_name)
        self._pausing.recover(rows)
        self._jobs.recover(rows)

    def _begin_prewarming(self) -> None:
        self._queue.prewarm = self._supervisor.prewarm
        self._queue.wake()

    async def _on_profile(self, profile: Any) -> None:
        self._supervisor.measure = False
        with suppress(DomainError):
            await self._hardware.host.record(profile)
