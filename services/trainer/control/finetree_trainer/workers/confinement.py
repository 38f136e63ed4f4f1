# SPDX-License-Identifier: Apache-2.0
"""How workers are confined: what this system allows, and what each worker may touch."""

import asyncio
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from finetree_api.trainer.v1 import capacity_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.confinement import measures
from finetree_data.confinement.measures import Measure, State
from finetree_data.confinement.policy import VARIABLE, Policy
from finetree_runtime.config.settings import SettingsError
from finetree_runtime.server.logging import get_logger

from finetree_trainer.disk import private_folder
from finetree_trainer.layout import Layout
from finetree_trainer.settings import Settings
from finetree_trainer.workers.process import TEMPORARY, worker_environment

PROBE_SECONDS = 30.0
_NAMES = (
    *measures.CORE,
    *(measures.SCOPE, measures.UNIX_SOCKETS, measures.NETWORK_NAMESPACE),
)
_STATES = {
    State.HOLDS: capacity_pb2.CONFINEMENT_STATE_HOLDS,
    State.PARTIAL: capacity_pb2.CONFINEMENT_STATE_PARTIAL,
    State.UNAVAILABLE: capacity_pb2.CONFINEMENT_STATE_UNAVAILABLE,
    State.OFF: capacity_pb2.CONFINEMENT_STATE_OFF,
}


class WorkerConfinement:
    """What this service's workers may touch; `probe` finds out what of that the system enforces."""

    def __init__(self, settings: Settings, layout: Layout) -> None:
        self._settings, self._layout = settings, layout
        # A confined process can write into folders that are there when it starts.
        for folder in (layout.jobs, layout.tokens, layout.models):
            private_folder(folder)
        self.enabled = settings.confinement != "off"
        """Whether workers are confined, as far as the system allows."""
        self.measures: Sequence[Measure] = ()
        """What became of each measure; empty until `probe` has ended."""

    async def probe(self) -> None:
        """Find out what this system allows, by a process that tries it.

        Raises SettingsError CONFINEMENT_UNAVAILABLE where the settings require more than it allows.
        """
        if not self.enabled:
            self.measures = [Measure(name, State.OFF, "--confinement off") for name in _NAMES]
            get_logger().warning("workers_not_confined", reason="--confinement off")
            return
        # A process that may not enter a namespace as a whole is broken, and says nothing of the other measures.
        tried = await _try(namespace=True) or await _try(namespace=False) or _untried()
        self.measures = [*tried, _own_user()]
        lacking = measures.missing(self.measures)
        if lacking and self._settings.confinement == "required":
            reasons = "; ".join(f"{measure.name}: {measure.why}" for measure in lacking)
            raise SettingsError(
                "CONFINEMENT_UNAVAILABLE",
                f"confinement: required, and this system does not allow {reasons}; see docs/threat-model.md",
            )
        log = get_logger().warning if lacking else get_logger().info
        log("workers_confined", holds=[m.name for m in self.measures if m.state is State.HOLDS], lacks=self._lacks())

    def _lacks(self) -> dict[str, str]:
        return {measure.name: measure.why for measure in self.measures if measure.state is not State.HOLDS}

    def needs_network(self, task: worker_pb2.Task | None) -> bool:
        """Return whether a task needs a worker that was started for it: others have no network, as whole processes."""
        return self.enabled and task is not None and task.HasField("hub")

    def needs_loopback(self, task: worker_pb2.Task | None) -> bool:
        """Return whether a task's processes talk to each other, which an idle worker could not: ranks on devices."""
        return self.enabled and task is not None and task.train.spec.hardware.count > 1

    def environment(self, folder: Path, *, network: bool, threads: int, loopback: bool = False) -> dict[str, str]:
        """Return the environment of a worker with this folder, by which it is confined, too.

        `network`: whether its task may connect to other machines. `threads`: as of `worker_environment`. `loopback`:
        whether its processes may talk to each other.
        """
        if not self.enabled:
            return worker_environment(os.environ, threads=threads)
        settings, layout = self._settings, self._layout
        roots = [*settings.model_roots, *settings.data_roots, str(layout.datasets)]
        namespace = any(m.name == measures.NETWORK_NAMESPACE and m.state is State.HOLDS for m in self.measures)
        temporary = folder.resolve() / TEMPORARY
        policy = Policy(
            read=tuple(str(Path(root).resolve()) for root in roots),
            write=tuple(str(part.resolve()) for part in (layout.jobs, layout.tokens, layout.models)),
            temporary=str(temporary),
            sockets=(str(layout.worker_socket.parent),),
            network=network,
            loopback=loopback,
            namespace=namespace and not network,
            required=settings.confinement == "required",
            max_file_bytes=max(0, shutil.disk_usage(layout.root).total - settings.disk_reserve_bytes),
        )
        own = {"TMPDIR": str(temporary), "CUDA_CACHE_PATH": str(temporary)}
        return worker_environment(os.environ, threads=threads, **{VARIABLE: policy.to_text()}, **own)

    def describe(self) -> list[capacity_pb2.ConfinementMeasure]:
        """Describe each measure as GetCapacity shows it."""
        return [
            capacity_pb2.ConfinementMeasure(name=measure.name, state=_STATES[measure.state], why=measure.why)
            for measure in self.measures
        ]


async def _try(*, namespace: bool) -> Sequence[Measure]:
    """Return what holds for a process that takes all measures; empty where it does not say."""
    variables = worker_environment(os.environ, threads=1, **{VARIABLE: Policy(namespace=namespace).to_text()})
    command = (sys.executable, "-m", "finetree_data.confinement")
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        child = await asyncio.create_subprocess_exec(*command, stdin=null, stdout=pipe, stderr=null, env=variables)
    except OSError:
        return ()
    try:
        output, _ = await asyncio.wait_for(child.communicate(), PROBE_SECONDS)
        return measures.from_text(output.decode())
    except (TimeoutError, ValueError, TypeError):
        return ()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


def _own_user() -> Measure:
    text = "workers run as the user of the service" + (", root without its capabilities" if os.geteuid() == 0 else "")
    return Measure(measures.USER, State.UNAVAILABLE, text)


def _untried() -> list[Measure]:
    return [Measure(name, State.UNAVAILABLE, "the process that tries it failed") for name in _NAMES]
