# SPDX-License-Identifier: Apache-2.0
"""What a simulated fleet is made of and given to do: nodes, projects with weights and limits, jobs; from a seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from finetree_api.trainer.v1 import job_pb2

GIB = 1 << 30
GPUS_OF_A_NODE = 8
HOUR = 3600.0
WEIGHTS = {"a": 4.0, "b": 2.0, "c": 2.0, "d": 1.0, "e": 1.0, "f": 1.0, "g": 1.0, "h": 1.0}
"""Projects with the weights of their shares; each creates as many jobs as any other."""
LIMITED, LIMITED_SHARE = "h", 1 / 25
"""The project that may hold only so large a part of the devices, in place of its 1/13 by weight."""
PRIORITIES = (
    (job_pb2.JOB_PRIORITY_LOW, 0.2),
    (job_pb2.JOB_PRIORITY_NORMAL, 0.7),
    (job_pb2.JOB_PRIORITY_HIGH, 0.1),
)
MEDIAN_SECONDS, SIGMA = HOUR, 1.0
"""Lengths of jobs: log-normal, so that their mean is exp(1/2) hours, 1.65."""
NODE_MTBF = 1000 * HOUR
"""Mean time between two failures of one node of eight devices: one in 8,000 device hours."""
WHOLE_NODES = 0.1
"""Part of the jobs that needs eight devices, a whole node; the others need one."""
SIZES = tuple(gib * GIB for gib in (12, 20, 30, 40, 50, 60))
"""Memory that jobs need of each device: jobs of one size and number of devices wait for the same."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One simulation. Times in seconds, of the virtual clock."""

    devices: int
    jobs: int
    seed: int = 1
    arrivals: str = "backlog"
    """`backlog`: all jobs wait when the clock starts; `stream`: a Poisson process that the devices can just serve;
    `both`: half of them so, half of them so."""
    load: float = 0.95
    """Of a stream: device time that arrives, of the device time that there is."""
    node_mtbf: float = NODE_MTBF
    """Mean time between two failures of one node; 0: none fails."""
    repair: float = HOUR
    """Time until a node that failed is back."""
    start_seconds: float = 0.0
    """Time that a start holds up the next one, as a worker's start on a Ray cluster does."""
    full: bool = False
    """Whether all devices are held when the clock starts, as after a restart of the trainer; `jobs` wait beside."""
    rounds: int = 0
    """Stop after so many rounds after the first, while jobs wait; 0: run until every job has ended."""
    events_per_second: float = 1.0
    """Events of a running job: one a step of a second. They are counted and not written."""

    def __post_init__(self) -> None:
        """Raises ValueError, which names the field."""
        for name in ("devices", "jobs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: it is {getattr(self, name)}; there must be 1 at least")
        if self.full and self.arrivals != "backlog":
            raise ValueError("full: devices that are held when the clock starts go with a backlog alone")
        if self.arrivals not in ("backlog", "stream", "both"):
            raise ValueError(f"arrivals: {self.arrivals!r} is none of backlog, stream, both")


@dataclass(frozen=True, slots=True)
class Work:
    """One job: when it comes, and what it takes."""

    number: int
    arrives: float
    project: str
    priority: int
    count: int
    seconds: float
    size: int
    """Bytes of each device's memory that it is expected to need."""

    @property
    def uid(self) -> str:
        """Its uid: as those of the trainer, they grow with time."""
        digits = f"{self.number + 1:032x}"
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def nodes(plan: Plan) -> list[dict[str, Any]]:
    """Nodes as the Ray driver tells of them: eight H100 each, the last one what is left."""
    found = []
    for number, first in enumerate(range(0, plan.devices, GPUS_OF_A_NODE)):
        gpus = min(GPUS_OF_A_NODE, plan.devices - first)
        node = {"name": f"node-{number:05d}", "id": f"id-{number}", "cpus": 96, "gpus": gpus, "resources": {}}
        node |= {"problem": "", "memory": 1024 * GIB, "memory_found": 1024 * GIB, "cpu_name": "CPU"}
        found.append(node | {"gpus_found": [("NVIDIA H100 80GB HBM3", 80 * GIB)] * gpus})
    return found


def limits_file(plan: Plan) -> str:
    """The operator's limits: a weight for each project, and for one of them fewer devices than its share."""
    lines = [f"[projects.{name}]\nweight = {weight:g}\n" for name, weight in WEIGHTS.items()]
    return "".join(lines) + f"devices = {max(8, int(plan.devices * LIMITED_SHARE))}\n"  # LIMITED is the last one


def work(plan: Plan) -> Iterator[Work]:
    """The jobs in the order in which they come."""
    chance = random.Random(plan.seed)
    # A job takes so many device seconds on average.
    mean = (1 + (GPUS_OF_A_NODE - 1) * _whole(plan)) * MEDIAN_SECONDS * 2.718281828459045 ** (SIGMA**2 / 2)
    rate = plan.load * plan.devices / mean
    backlog = {"backlog": plan.jobs + plan.devices, "stream": 0, "both": plan.jobs // 2}[plan.arrivals]
    now = 0.0
    for number in range(plan.jobs + (plan.devices if plan.full else 0)):
        if number >= backlog:
            now += chance.expovariate(rate)
        priority = chance.choices([each for each, _ in PRIORITIES], [share for _, share in PRIORITIES])[0]
        count = GPUS_OF_A_NODE if chance.random() < _whole(plan) else 1
        seconds = chance.lognormvariate(0.0, SIGMA) * MEDIAN_SECONDS
        size = chance.choice(SIZES)
        yield Work(number, now, chance.choice([*WEIGHTS]), int(priority), count, seconds, size)


def _whole(plan: Plan) -> float:
    return WHOLE_NODES if plan.devices >= GPUS_OF_A_NODE else 0.0


def record(job: Work) -> job_pb2.Job:
    """The job as the service stores it: a LoRA run on H100s, with an estimate of its memory."""
    made = job_pb2.Job(name=f"projects/{job.project}/jobs/{job.uid}", uid=job.uid, created_by="fleet")
    made.train.spec.hardware.accelerator, made.train.spec.hardware.count = "h100", job.count
    made.train.spec.model.path, made.train.spec.dataset.path = "tiny", "rows.jsonl"
    made.train.spec.lora.rank = 16
    for interval, middle in ((made.estimate.device_bytes, job.size), (made.estimate.host_bytes, 8 * GIB)):
        interval.low, interval.expected, interval.high = 0.9 * middle, middle, 1.2 * middle
    return made
