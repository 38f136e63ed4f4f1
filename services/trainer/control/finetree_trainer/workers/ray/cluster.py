# SPDX-License-Identifier: Apache-2.0
"""The trainer's end of a Ray cluster: a driver process that is started again when it ends, and the workers it watches.

While there is no driver nothing is known of the cluster: workers that run go on, since they are attached to the trainer
itself; their deaths are seen by their locks or their leases, and nothing new is started.
"""

import asyncio
import json
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from finetree_runtime.config.settings import SettingsError
from finetree_runtime.server.identity import distribution_version
from finetree_runtime.server.logging import get_logger
from finetree_runtime.server.tls import is_local

from finetree_trainer.layout import Layout
from finetree_trainer.outages import Pauses
from finetree_trainer.scheduling.autoscaling.node_types import Plannable
from finetree_trainer.scheduling.autoscaling.requests import NodeRequests
from finetree_trainer.scheduling.autoscaling.shortage import Starts
from finetree_trainer.scheduling.devices import CPU, PREPARING, Device, Slot
from finetree_trainer.scheduling.queue import JobQueue
from finetree_trainer.settings import NAME, Settings
from finetree_trainer.store.jobs import JobRow
from finetree_trainer.workers.confinement import WorkerConfinement
from finetree_trainer.workers.launch.launcher import AUTHORITY_VARIABLE, Order
from finetree_trainer.workers.launch.local import worker_command
from finetree_trainer.workers.process import Liveness
from finetree_trainer.workers.ray.leading import Leading
from finetree_trainer.workers.ray.node import SECRET
from finetree_trainer.workers.ray.node_types import read_node_types
from finetree_trainer.workers.ray.nodes import ClusterMemory, ClusterNodes
from finetree_trainer.workers.ray.process import RayProcess, is_dead

START_SECONDS = 180.0
"""Longest time until the driver is connected and has looked at every node."""
END_SECONDS = 5.0
"""Time that the driver gets to withdraw what it has asked for, and to end."""
LINE_BYTES = 16 * 1024**2
"""Longest message of the driver: the nodes of a cluster."""


class RayCluster:
    """Starts workers on a cluster: a `Launcher`, with its devices and their memory."""

    keeps_idle = False

    def __init__(
        self, settings: Settings, layout: Layout, confinement: WorkerConfinement, *, clock: Callable[[], int]
    ) -> None:
        """Raises SettingsError SETTING_INVALID for a file of node types that cannot be read."""
        self._settings, self._layout, self._confinement = settings, layout, confinement
        self.nodes = ClusterNodes(settings)
        self.memory = ClusterMemory(self.nodes, reserve=settings.memory_reserve_bytes)
        self._on_nodes: Callable[[], None] = lambda: None
        self._processes: dict[str, RayProcess] = {}
        """Workers whose end no actor has told yet, those among them whose lease is over."""
        self._refused: set[str] = set()
        """Names of nodes on which the last worker was not started."""
        self._resources = custom_resources(settings.ray_resources)
        self.leading = Leading(layout.leader, settings.worker_address, alone=not settings.replica_address)
        self._leads = False
        """Whether this process has taken over the workers; before that it only looks at the nodes."""
        types = read_node_types(settings, self._resources)
        self.node_requests = NodeRequests(types, self.memory, clock, wait=settings.ray_node_wait)
        self.node_requests.present = lambda: self.nodes.present
        self.node_requests.request = self._request
        self._bundles: list[Mapping[str, float]] = []
        """What Ray's autoscaler was asked for: what each node has that there is to be."""
        self._driver: asyncio.subprocess.Process | None = None
        self._setup: dict[str, Any] = {}

    @property
    def plannable(self) -> Sequence[Device]:
        """Devices that jobs may be created for: those of nodes that there are, and of those that may come."""
        return Plannable(self.nodes, self.node_requests.devices)

    def serve(self, queue: JobQueue, starts: Callable[[], Starts]) -> None:
        """Tell a queue of nodes that come and go, and which to take last; its holders are those of the memory.

        `starts` says which jobs could start on nodes that are to come.
        """
        self.node_requests.starts = starts
        self._on_nodes, self.memory.held_on = queue.follow_devices, queue.slots.held_on
        queue.rank_slots = self._rank_slots
        if self.node_requests.types:
            queue.nodes = self.node_requests
            queue.follow_devices()

    async def open(self) -> None:
        """Connect, and learn the nodes.

        Raises SettingsError: RAY_MISSING, RAY_UNREACHABLE, RAY_VERSION_MISMATCH.
        """
        name = await asyncio.to_thread(_installation_name, self._layout.installation)
        self._setup = {
            "address": self._settings.ray_address,
            "namespace": f"finetree-{name}",
            "resources": self._resources,
            "lead": self.leading.mark,
            "installation": {
                "name": name,
                "mark": str(self._layout.installation.absolute()),
                "version": distribution_version(NAME),
                "command": list(worker_command(self._settings)),
            },
        }
        await self._connect()

    async def _connect(self) -> None:
        """Start a driver and wait until it is connected. Raises SettingsError; then there is none."""
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._start_driver()
        except TimeoutError:
            await self.close()
            text = f"the cluster at {self._settings.ray_address} did not answer within {START_SECONDS:g} s"
            raise SettingsError("RAY_UNREACHABLE", f"ray_address: {text}") from None
        except SettingsError:
            await self.close()
            raise

    async def _start_driver(self) -> None:
        pipe = asyncio.subprocess.PIPE
        command = (sys.executable, "-m", "finetree_trainer.workers.ray.driver")
        self._driver = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL, cwd="/", limit=LINE_BYTES
        )
        self._say(self._setup)
        while (message := await self._hear()) is not None:
            if message["event"] == "ready":
                return
            if message["event"] == "unusable":
                raise SettingsError(message["reason"], f"ray_address: {message['text']}")
            self._on_message(message)
        text = f"Ray could not connect to {self._settings.ray_address}; its own log has the reason"
        raise SettingsError("RAY_UNREACHABLE", f"ray_address: {text}")

    def lead(self) -> None:
        """Take over the workers that were found again, and end those of which nothing is known."""
        self._leads = True
        self._watch_again()

    async def run(self) -> None:
        """Hear the driver, and start another one when it has ended, until cancelled."""
        pauses = Pauses()
        while True:
            message = await self._hear()
            if message is not None:
                pauses.reset()
                self._on_message(message)
                continue
            get_logger().warning("ray_driver_ended")
            await self.close()
            for process in [each for each in self._processes.values() if each.pid == 0]:
                self._drop(process)
                process.on_refused("the connection to the cluster was lost meanwhile")
            await asyncio.sleep(pauses.following())
            with suppress(SettingsError):
                await self._connect()
                if self._leads:
                    self._watch_again()

    def _rank_slots(self, _row: JobRow) -> dict[Slot, int]:
        """Rank slots for a job: nodes that refused the last worker, or hold one whose lease is over, come last."""
        last = self._refused | {process.node for process in self._processes.values() if process.dead.is_set()}
        return {slot: 1 for device in self.nodes if device.node in last for slot in device.slots()}

    def _watch_again(self) -> None:
        """Tell a new driver of the workers that there are, and have it end those of which nothing is known."""
        self._processes = {worker: each for worker, each in self._processes.items() if not each.dead.is_set()}
        self.end_strays()
        if self.node_requests.types:
            # Also where that is nothing: what an earlier run has asked for stays until it is replaced.
            self._say({"do": "request", "bundles": self._bundles})
        for worker, process in self._processes.items():
            self._say({"do": "watch", "worker": worker})
            if process.signalled:
                self._signal(process)

    def end_strays(self) -> None:
        """End workers of which nothing is known: of a replica that led before, or whose lease was over."""
        self._say({"do": "keep", "workers": list(self._processes)})

    async def close(self) -> None:
        """End the driver, which asks for no node any more; workers go on."""
        if self._driver is not None:
            driver, self._driver = self._driver, None
            if driver.stdin is not None:
                driver.stdin.close()
            try:
                await asyncio.wait_for(driver.wait(), END_SECONDS)
            except TimeoutError:
                with suppress(ProcessLookupError):
                    driver.kill()
                await driver.wait()

    def _request(self, bundles: Sequence[Mapping[str, float]]) -> None:
        if self._bundles != bundles:
            self._bundles = list(bundles)
            self._say({"do": "request", "bundles": self._bundles})

    def _say(self, message: Mapping[str, Any]) -> None:
        if self._driver is not None and self._driver.stdin is not None:
            self._driver.stdin.write(json.dumps(message).encode() + b"\n")

    async def _hear(self) -> dict[str, Any] | None:
        if self._driver is None or self._driver.stdout is None:
            return None
        line = await self._driver.stdout.readline()
        if not line.endswith(b"\n"):
            return None
        message: dict[str, Any] = json.loads(line)
        return message

    def _on_message(self, message: dict[str, Any]) -> None:
        if message["event"] == "nodes":
            self.nodes.replace(message["nodes"])
            self._on_nodes()
            return
        process = self._processes.get(message["worker"])
        if process is None:
            return
        match message["event"]:
            case "placed":
                self._refused.discard(process.node)
                process.on_placed(message["pid"])
            case "refused":
                self._refused.add(process.node)
                self._drop(process)
                process.on_refused(message["text"])
            case "exited":
                self._drop(process)
                process.on_exited(message["exit"], overran=message["overran"])
            case "lost":
                process.on_lost()

    def _drop(self, process: RayProcess) -> None:
        self._processes.pop(process.folder.name, None)

    def start(self, folder: Path, order: Order) -> RayProcess:
        """Begin to start a worker on the node of its slots. Raises OSError; then nothing of it is left."""
        process = RayProcess(folder, 0, self._signal, node=order.slots[0].node)
        node = self.nodes.id_of(order.slots)
        if self._driver is None or not node:
            process.on_refused("the cluster does not answer" if self._driver is None else "its node has gone")
            return process
        own = self._confinement.own_variables(folder, network=True, loopback=order.reach.get("loopback", False))
        if self._settings.worker_ca is not None:
            own[AUTHORITY_VARIABLE] = self._settings.worker_ca.read_text(encoding="ascii")
        _write_secret(folder, order.token)
        devices = self.nodes.of(order.slots)
        processors = sum(device.threads for device in devices if device.id == CPU)
        trains = any(slot.index != PREPARING for slot in order.slots)
        self._processes[folder.name] = process
        self._say(
            {
                "do": "place",
                "worker": folder.name,
                "node": node,
                "num_cpus": processors if trains else 0,
                "num_gpus": sum(device.id != CPU for device in devices),
                "resources": self._resources,
                "order": {
                    "folder": str(folder.absolute()),
                    "command": [*worker_command(self._settings), *self._arguments(order.slots)],
                    "variables": own,
                    "threads": max(1, processors),
                },
            }
        )
        return process

    def _arguments(self, slots: Sequence[Slot]) -> list[str]:
        return ["--socket", self.leading.address, "--idle", "--node", slots[0].node]

    def find(self, folder: Path, pid: int) -> tuple[Liveness, RayProcess | None]:
        """Find the worker of a folder again, by its lock or its actor; one that is nowhere waits for its lease."""
        if is_dead(folder):
            return Liveness.DEAD, None
        process = RayProcess(folder, pid, self._signal)
        self._processes[folder.name] = process
        process.watch_lock()
        return Liveness.UNKNOWN, process

    def _signal(self, process: RayProcess) -> None:
        self._say({"do": "signal", "worker": process.folder.name, "kill": process.killed})


def require(settings: Settings) -> None:
    """Check what `--launcher ray` needs beside a cluster.

    Raises SettingsError: SETTING_MISSING, SETTING_INVALID, TLS_INCOMPLETE, TLS_UNREADABLE, WORKER_USER_UNUSABLE,
            INSECURE_ADDRESS.
    """
    if settings.launcher != "ray":
        return
    for name, value in (("ray_address", settings.ray_address), ("worker_address", settings.worker_address)):
        if not value:
            raise SettingsError("SETTING_MISSING", f"{name}: --launcher ray needs HOST:PORT")
    read_node_types(settings, custom_resources(settings.ray_resources))
    if (settings.worker_ca is None) != (settings.tls_cert is None):
        raise SettingsError("TLS_INCOMPLETE", "worker_ca: it goes with --tls-cert and --tls-key, and they with it")
    if settings.worker_ca is not None and not settings.worker_ca.is_file():
        raise SettingsError("TLS_UNREADABLE", "worker_ca: it is no file that can be read")
    if settings.worker_user:
        text = "worker_user: on a cluster workers run as the user of Ray; leave it out"
        raise SettingsError("WORKER_USER_UNUSABLE", text)
    if is_local(settings.worker_address) or settings.insecure:
        return
    if settings.tls_cert is None or settings.tls_key is None or settings.worker_ca is None:
        text = (
            f"worker_address: {settings.worker_address} is not loopback: give --tls-cert, --tls-key and --worker-ca "
            "(finetree tls init), or --insecure where something else keeps others out"
        )
        raise SettingsError("INSECURE_ADDRESS", text)


def custom_resources(settings: Sequence[str]) -> dict[str, float]:
    """Read Ray's custom resources, NAME=NUMBER each. Raises SettingsError SETTING_INVALID."""
    found = {}
    for text in settings:
        name, _, number = text.partition("=")
        try:
            found[name] = float(number or 1)
        except ValueError:
            found[name] = 0.0
        if not name or found[name] <= 0:
            raise SettingsError("SETTING_INVALID", f"ray_resources: {text[:80]!r} is not NAME=NUMBER")
    return found


def _installation_name(file: Path) -> str:
    """Read the name of this installation; make one where there is none, and another replica makes none."""
    if not file.exists():
        name = secrets.token_hex(8)
        draft = file.with_name(f"{name}.draft")
        draft.write_text(name, encoding="ascii")
        with suppress(FileExistsError):
            file.hardlink_to(draft)
        draft.unlink()
    return file.read_text(encoding="ascii")


def _write_secret(folder: Path, secret: str) -> None:
    folder.mkdir(mode=0o700, parents=True)
    file = folder / SECRET
    file.touch(mode=0o600)
    file.write_text(secret, encoding="ascii")
