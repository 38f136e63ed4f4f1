# SPDX-License-Identifier: Apache-2.0
"""Devices of this machine: GPUs, found through NVML, and the CPU in slots of a fixed number of threads."""

import re
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetree_api.trainer.v1 import job_pb2
from finetree_api.types.v1 import hardware_pb2
from finetree_runtime.errors import FailedPrecondition, InvalidArgument
from finetree_runtime.runspec.conflicts import threads_problem

from finetree_trainer.scheduling.machine import cores
from finetree_trainer.scheduling.machine.meter import usable_memory
from finetree_trainer.scheduling.machine.nvml import Gpu, Gpus, NvmlGpus

CPU = "cpu"
PREPARING = -1
"""Index of a node's slot for PREPARE jobs, on its CPU beside the slots for training: they are short, and whoever checks
a file does not wait for hours behind a run."""

_NAMES: tuple[tuple[str, str], ...] = (
    (r"GH200", "gh200-96gb"),
    (r"GB300", "gb300"),
    (r"B300", "b300"),
    (r"GB200", "gb200"),
    (r"B200", "b200"),
    (r"H200.*NVL", "h200-nvl"),
    (r"H200", "h200"),
    (r"H100.*NVL", "h100-nvl"),
    (r"H100.*PCIe", "h100-pcie"),
    (r"H100", "h100"),
    (r"A100.*SXM.*40GB", "a100-40gb"),
    (r"A100.*SXM", "a100-80gb"),
    (r"A100.*PCIE.*40GB", "a100-40gb-pcie"),
    (r"A100", "a100-80gb-pcie"),
    (r"V100.*PCIE.*32GB", "v100-32gb-pcie"),
    (r"V100.*PCIE", "v100-16gb-pcie"),
    (r"V100.*32GB", "v100-32gb"),
    (r"V100", "v100-16gb"),
    (r"RTX PRO 6000.*Max-Q", "rtx-pro-6000-max-q"),
    (r"RTX PRO 6000", "rtx-pro-6000"),
)
"""NVML's names of cards, as patterns, with the catalog's, where the two differ by more than spelling."""

_MEMORIES = {
    "rtx-2060": (6, 12),
    "rtx-3050": (8, 6),
    "rtx-3050-laptop": (4, 6),
    "rtx-3060": (12, 8),
    "rtx-3080": (10, 12),
    "rtx-3080-laptop": (8, 16),
    "rtx-4060-ti": (8, 16),
    "rtx-5060-ti": (8, 16),
}
"""Memory in GB of cards that are sold with two sizes under one NVML name: the catalog's plain name means the first
size, and the name with a suffix the second."""


@dataclass(frozen=True, order=True, slots=True)
class Slot:
    """A place for one job on a device, written "node/device/index"."""

    node: str
    device: str
    index: int

    def __str__(self) -> str:
        return f"{self.node}/{self.device}/{self.index}"

    @classmethod
    def parse(cls, text: str) -> "Slot":
        """Read what `str` wrote."""
        node, device, index = text.rsplit("/", 2)
        return cls(node, device, int(index))


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU or the CPU of a node.

    `threads` is the number of threads of a job on it, `uuid` a GPU's name for CUDA. `processors` are those of each CPU
    slot that its workers are bound to; empty where they are bound to none.
    """

    node: str
    id: str
    hardware: hardware_pb2.Hardware
    display_name: str
    total_bytes: int
    slot_count: int = 1
    threads: int = 0
    uuid: str = ""
    processors: tuple[tuple[int, ...], ...] = ()

    @property
    def place(self) -> tuple[str, str]:
        """Its node and id."""
        return self.node, self.id

    @property
    def kind(self) -> str:
        """Name of the accelerator, or "cpu"."""
        return self.hardware.accelerator or self.hardware.unknown_accelerator.name or CPU

    def slots(self) -> list[Slot]:
        """Its slots; each runs one job."""
        return [Slot(self.node, self.id, index) for index in range(self.slot_count)]

    def processors_of(self, slot: Slot) -> tuple[int, ...]:
        """Ids of the processors that a worker in a slot is bound to; none where it is bound to none."""
        return self.processors[slot.index] if 0 <= slot.index < len(self.processors) else ()


@dataclass(frozen=True, slots=True)
class Node:
    """A machine and its devices, GPUs first, the CPU last."""

    name: str
    devices: tuple[Device, ...]

    @property
    def cpu(self) -> Device:
        """Its processors as a device, which every machine has."""
        return self.devices[-1]


def discover(cpu_slots: int, cpu_threads: int, gpus: Gpus | None = None) -> Node:
    """Find this machine's devices."""
    node = socket.gethostname() or "localhost"
    found = (gpus or NvmlGpus()).find()
    # A GPU's worker reads and tokenizes rows beside those of the other GPUs.
    threads = max(1, cores.usable_cores() // max(1, len(found)))
    return Node(node, (*(_gpu(node, gpu, threads) for gpu in found), _cpu(node, max(1, cpu_slots), cpu_threads)))


def gpus_of(node: Node) -> list[Gpu]:
    """The GPUs of a node, as they were found."""
    return [
        Gpu(device.id, device.uuid, device.display_name, device.total_bytes)
        for device in node.devices
        if device.id != CPU
    ]


def placements(slots: Iterable[Slot]) -> list[job_pb2.Placement]:
    """The devices of slots, as one placement for each node."""
    by_node: dict[str, list[str]] = {}
    for slot in slots:
        by_node.setdefault(slot.node, []).append(slot.device)
    return [job_pb2.Placement(node=node, device_ids=ids) for node, ids in by_node.items()]


def matching(
    devices: Sequence[Device], wanted: hardware_pb2.Hardware, field_path: str = "job.train.spec.hardware"
) -> list[Device]:
    """Find the devices that a job can run on; those like the first one when it asks for none.

    `field_path` is where a request asks for them, for errors. All devices of a job are on one node; on the CPU several
    are processes that share the threads of one slot. Raises FailedPrecondition NO_SUCH_DEVICE where there are none of
    the kind, or no node has as many, and InvalidArgument THREADS_TOO_FEW where no slot of a CPU has a thread for each
    process.
    """
    match wanted.WhichOneof("device"):
        case None if not devices:
            found, what = [], "device"
        case None:
            found, what = [device for device in devices if device.kind == devices[0].kind], "device"
        case "cpu":
            found, what = [device for device in devices if device.id == CPU], "CPU"
        case "accelerator":
            name = wanted.accelerator.lower()
            found = [device for device in devices if device.hardware.accelerator == name]
            what = f"accelerator {wanted.accelerator[:80]!r}"
        case _:
            marketed_gb = wanted.unknown_accelerator.marketed_memory_gb
            found, what = _by_memory(devices, marketed_gb), f"accelerator with {marketed_gb:g} GB"
    if found and found[0].id == CPU:
        _require_threads(max(found, key=lambda cpu: cpu.threads), wanted.count, f"{field_path}.count")
        return [cpu for cpu in found if threads_problem(wanted.count, cpu.threads) is None]
    on_node = Counter(device.node for device in found)
    if not found or max(on_node.values()) < wanted.count:
        count = f"{wanted.count} devices of the kind: " if found else ""
        raise _missing(devices, f"{count}{what}", field_path)
    return [device for device in found if on_node[device.node] >= wanted.count]


def resolve_hardware(devices: Sequence[Device], wanted: hardware_pb2.Hardware, field_path: str) -> Device:
    """Find a device of the kind that a job needs, and fill in `wanted` with what is known of it.

    `field_path` is where a request names it. Raises as `matching` does.
    """
    device = matching(devices, wanted, field_path)[0]
    if wanted.WhichOneof("device") is None:
        wanted.MergeFrom(device.hardware)
    if wanted.WhichOneof("device") == "cpu":
        cpu, here = wanted.cpu, device.hardware.cpu
        if not cpu.HasField("cores"):
            cpu.cores = here.cores
        if not cpu.HasField("memory_bytes"):
            cpu.memory_bytes = here.memory_bytes
        cpu.model_name = cpu.model_name or here.model_name
    return device


def accelerator_name(name: str, total_bytes: int) -> str:
    """Translate NVML's name of a card into the catalog's."""
    for pattern, known in _NAMES:
        if re.search(pattern, name, re.IGNORECASE):
            return known
    short = re.sub(r"\b(NVIDIA|GeForce|Tesla|Quadro|Generation|GPU)\b", " ", name, flags=re.IGNORECASE)
    slug = re.sub(r"[^a-z0-9]+", "-", short.lower()).strip("-")
    plain, other = _MEMORIES.get(slug, (0, 0))
    # A card reports a little less than its marketed size, and the two sizes differ by a fifth at least.
    gib = total_bytes / 1024**3
    return f"{slug}-{other}gb" if abs(gib - other) < abs(gib - plain) else slug


def _by_memory(devices: Sequence[Device], marketed_gb: float) -> list[Device]:
    # A card reports a little less than its marketed size or, counted in GB, up to 7 % more.
    return [d for d in devices if d.id != CPU and 0.85 <= d.total_bytes / (marketed_gb * 1e9) <= 1.1]


def _missing(devices: Sequence[Device], what: str, field: str) -> FailedPrecondition:
    have = ", ".join(device.kind for device in devices) or "none"
    by_node: dict[str, list[str]] = {}
    for device in devices:
        by_node.setdefault(device.node, []).append(device.kind)
    text = f"this server has no {what}; it has {have}"
    if len(by_node) > 1:
        name, kinds = max(by_node.items(), key=lambda item: len(item[1]))
        text = f"this server has no {what} on one node; the largest, {name}, has {', '.join(kinds)}"
    return FailedPrecondition(
        "NO_SUCH_DEVICE", f"{field}: {text}.", metadata={"devices": have}, violations=[(field, text, "NO_SUCH_DEVICE")]
    )


def _require_threads(cpu: Device, processes: int, field: str) -> None:
    if (problem := threads_problem(processes, cpu.threads)) is not None:
        text = f"{problem.message}, or give slots more threads (--cpu-threads)"
        violations = [(field, text, problem.reason)]
        raise InvalidArgument(problem.reason, f"{field}: {text}.", violations=violations)


def _cpu(node: str, slots: int, threads: int) -> Device:
    memory, name = usable_memory(), cpu_name()
    threads = threads or max(1, cores.usable_cores() // slots)
    # What a job has, not the machine: estimates are of the cores of one slot.
    hardware = hardware_pb2.Hardware(
        cpu=hardware_pb2.CpuDevice(cores=threads, memory_bytes=memory, model_name=name), count=1
    )
    bound = tuple(tuple(share) for share in cores.shares(slots, threads))
    return Device(node, CPU, hardware, name, memory, slots, threads, processors=bound)


def _gpu(node: str, gpu: Gpu, threads: int) -> Device:
    hardware = hardware_pb2.Hardware(accelerator=accelerator_name(gpu.name, gpu.total_bytes), count=1)
    if gpu.instance:
        # A part of a card is none of the catalog's: its memory is what is known of it.
        unknown = hardware_pb2.UnknownAccelerator(marketed_memory_gb=round(gpu.total_bytes / 1e9, 1), name=gpu.name)
        hardware = hardware_pb2.Hardware(unknown_accelerator=unknown, count=1)
    return Device(node, gpu.id, hardware, gpu.name, gpu.total_bytes, threads=threads, uuid=gpu.uuid)


def cpu_name() -> str:
    """The processor's name, as /proc/cpuinfo gives it."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip()[:256] if found else "CPU"
