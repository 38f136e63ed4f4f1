# SPDX-License-Identifier: Apache-2.0
"""Parts of the trainer that are built from few others: what jobs run on, what they read, and what plans them."""

from collections.abc import Sequence
from dataclasses import dataclass

from finetree_trainer.datasets.datasets import Datasets, Limits
from finetree_trainer.estimator import Estimator
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.jobs.evaluation.planner import EvaluationPlanner
from finetree_trainer.jobs.export.planner import ExportPlanner
from finetree_trainer.jobs.inputs import Inputs
from finetree_trainer.jobs.planner import Planner
from finetree_trainer.jobs.serving.plan import ServingPlanner
from finetree_trainer.layout import Layout
from finetree_trainer.limits.quotas import Quotas
from finetree_trainer.models.locate import Models
from finetree_trainer.models.weights import WeightsLocator
from finetree_trainer.objects.copies import Copies
from finetree_trainer.scheduling import devices
from finetree_trainer.scheduling.devices import Device
from finetree_trainer.scheduling.host import Host
from finetree_trainer.scheduling.machine.meter import MachineMeter
from finetree_trainer.scheduling.machine.nvml import NvmlGpus
from finetree_trainer.scheduling.memory import MemoryLedger
from finetree_trainer.scheduling.queue import JobQueue
from finetree_trainer.settings import Settings
from finetree_trainer.store.database import Store
from finetree_trainer.workers.confinement import WorkerConfinement
from finetree_trainer.workers.ray.cluster import RayCluster


@dataclass(frozen=True, kw_only=True, eq=False)
class Hardware:
    """What jobs run on: the devices of this machine, or those of a Ray cluster."""

    devices: Sequence[Device]
    plannable: Sequence[Device]
    """Devices that a job may be planned for: of a cluster, those of nodes that may come, too."""
    node_name: str
    """Name of this machine; empty for a cluster."""
    memory: MemoryLedger
    host: Host
    cluster: RayCluster | None = None

    @classmethod
    async def find(
        cls, settings: Settings, store: Store, log: EventLog, layout: Layout, *, confinement: WorkerConfinement
    ) -> "Hardware":
        """Find the devices; of a cluster, connect to it. Raises SettingsError."""
        gpus = NvmlGpus()
        node = devices.discover(settings.cpu_slots, settings.cpu_threads, gpus)
        if settings.launcher == "ray":
            cluster = RayCluster(settings, layout, confinement, clock=log.clock)
            await cluster.open()
            host = Host(store, node, cluster.memory, devices=cluster.nodes, measured_while_idle=False)
            host.node_types = cluster.node_requests.describe
            return cls(
                devices=cluster.nodes,
                plannable=cluster.plannable,
                node_name="",
                memory=cluster.memory,
                host=host,
                cluster=cluster,
            )
        meter = MachineMeter(gpus, devices.gpus_of(node))
        memory = MemoryLedger(meter, node.devices, reserve=settings.memory_reserve_bytes)
        host = Host(store, node, memory, measured_while_idle=settings.prewarm)
        await host.load()
        return cls(devices=node.devices, plannable=node.devices, node_name=node.name, memory=memory, host=host)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sources:
    """What jobs read: base models, datasets and trained weights."""

    models: Models
    datasets: Datasets
    weights: WeightsLocator

    @classmethod
    def build(
        cls, settings: Settings, store: Store, log: EventLog, layout: Layout, *, copies: Copies, quotas: Quotas
    ) -> "Sources":
        """Build what finds each of them."""
        models = Models(layout.models, settings.model_roots)
        limits = Limits(settings.max_upload_bytes, settings.disk_reserve_bytes)
        return cls(
            models=models,
            datasets=Datasets(store, log.clock, layout, copies=copies, limits=limits, quotas=quotas),
            weights=WeightsLocator(store, layout, models, copies),
        )


def planner_of(
    settings: Settings,
    store: Store,
    layout: Layout,
    *,
    sources: Sources,
    hardware: Hardware,
    queue: JobQueue,
    estimator: Estimator,
) -> Planner:
    """Build what plans jobs, with a planner for each kind of task that has one of its own."""
    models, weights, plannable, rates = sources.models, sources.weights, hardware.plannable, hardware.host.rates
    inputs = Inputs(models, sources.datasets, layout=layout, data_roots=settings.data_roots, estimator=estimator)
    return Planner(
        inputs,
        weights,
        devices=plannable,
        estimator=estimator,
        rates=rates,
        capacity=hardware.memory.capacity,
        evaluations=EvaluationPlanner(inputs, weights, store, devices=plannable, rates=rates),
        serving=ServingPlanner(
            inputs, weights, plannable, rates=rates, has_free_slot=queue.has_free_slot, free=hardware.memory.to_give
        ),
        exports=ExportPlanner(inputs, weights, models, folder=layout.root, reserve_bytes=settings.disk_reserve_bytes),
    )
