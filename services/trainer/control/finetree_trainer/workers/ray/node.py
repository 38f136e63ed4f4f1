# SPDX-License-Identifier: Apache-2.0
"""What runs on a node of the cluster, in processes of Ray: a look at the node, and the actor of one worker.

No secret comes this way: a worker's is in a file of its folder, which only this user can read and the actor removes.
"""

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetree_data.exchange.leader_file import leads
from finetree_runtime.server.identity import distribution_version

from finetree_trainer.scheduling.devices import cpu_name
from finetree_trainer.scheduling.machine.meter import usable_memory
from finetree_trainer.scheduling.machine.nvml import NvmlGpus
from finetree_trainer.settings import NAME
from finetree_trainer.workers.launch.launcher import TOKEN_VARIABLE
from finetree_trainer.workers.process import Process, worker_environment

SECRET, PLACE = "secret", "node.json"
"""Files of a worker's folder: its secret until it is started, and the machine that it runs on."""


@dataclass(frozen=True, slots=True)
class Installation:
    """What a node must have: the trainer's data folder with its mark, the same release, and the worker's program.

    `mark` is the file of the data folder that holds `name`.
    """

    name: str
    mark: str
    version: str
    command: Sequence[str]

    def problem(self) -> str:
        """Say what of it this machine lacks; empty where it has everything."""
        try:
            found = Path(self.mark).read_text(encoding="ascii")
        except (OSError, ValueError):
            found = ""
        if found != self.name:
            return "the trainer's data folder is not mounted there at the same path"
        version = distribution_version(NAME)
        if version != self.version:
            return f"it has release {version} of the suite, the trainer {self.version}"
        program = self.command[0]
        if program == sys.executable and self.command[1:2] == ["-m"]:
            there = importlib.util.find_spec(self.command[2]) is not None
        else:
            there = shutil.which(program) is not None
        return "" if there else "the worker's program is not installed there at the same path (--worker-command)"


def boot_id() -> str:
    """The name of this machine's run since its start; "" where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def look(installation: Mapping[str, Any]) -> dict[str, Any]:
    """Describe this node: its processor, memory and GPUs, and what it lacks."""
    gpus = [[gpu.name, gpu.total_bytes] for gpu in NvmlGpus().find()]
    problem = Installation(**installation).problem()
    return {"problem": problem, "cpu_name": cpu_name(), "memory": usable_memory(), "gpus": gpus}


class WorkerHost:
    """The actor of one worker: holds its resources, starts it, signals it, and is the witness of its end."""

    def __init__(self) -> None:
        self._process: Process | None = None

    async def start(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Start the worker; its process id, or what the node lacks, or that another replica leads."""
        if not leads(**order["lead"]):
            return {"problem": "another replica of the trainer leads"}
        if problem := Installation(**order["installation"]).problem():
            return {"problem": problem}
        folder = Path(order["folder"])
        secret = (folder / SECRET).read_text(encoding="ascii")
        (folder / SECRET).unlink()
        (folder / PLACE).write_text(json.dumps({"boot_id": boot_id()}), encoding="ascii")
        # The node's own variables, those by which Ray gives GPUs to this actor among them.
        variables = worker_environment(os.environ, threads=order["threads"], **order["variables"])
        tether = [sys.executable, "-IS", str(Path(__file__).with_name("tether.py")), str(os.getpid())]
        command = [*tether, *order["command"]]
        self._process = Process.start(command, variables | {TOKEN_VARIABLE: secret}, folder)
        return {"problem": "", "pid": self._process.pid}

    async def wait(self) -> dict[str, Any]:
        """Wait until nothing of the worker lives, and say how it ended."""
        if self._process is None:
            return {"exit": "it was not started", "overran": False}
        await self._process.dead.wait()
        return {"exit": self._process.exit, "overran": self._process.overran}

    async def signal(self, *, kill: bool, lead: Mapping[str, str]) -> None:
        """Ask the worker to end, or kill it with all that it has started; nothing for a replica that leads no more."""
        if self._process is not None and leads(**lead):
            if kill:
                self._process.kill()
            else:
                self._process.terminate()
