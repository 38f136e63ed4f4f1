# SPDX-License-Identifier: Apache-2.0
"""How workers are confined: what this system allows, and what each worker may touch."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetree_api.trainer.v1 import capacity_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.confinement import measures
from finetree_data.confinement.measures import Measure, State
from finetree_data.confinement.policy import VARIABLE, Policy
from finetree_runtime.config.settings import SettingsError
from finetree_runtime.server.logging import get_logger

from finetree_trainer.layout import Layout
from finetree_trainer.settings import Settings
from finetree_trainer.worker_user import WorkerUser, own_folder, passage
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
        self._settings, self.layout = settings, layout
        # A confined process can write into folders that are there when it starts.
        passage(layout.jobs.resolve(), layout.user)
        for folder in (layout.tokens, layout.models):
            own_folder(folder.resolve(), layout.user)
        self.enabled = settings.confinement != "off"
        """Whether workers are confined, as far as the system allows."""
        self.measures: Sequence[Measure] = ()
        """What became of each measure; empty until `probe` has ended."""

    async def probe(self) -> None:
        """Find out what this system allows, by a process that tries it.

        Raises SettingsError: CONFINEMENT_UNAVAILABLE where the settings require more than it allows,
        WORKER_USER_UNUSABLE where a worker cannot become its user, or that user cannot use the folders of the settings.
        """
        if not self.enabled:
            self.measures = [Measure(name, State.OFF, "--confinement off") for name in _NAMES]
            get_logger().warning("workers_not_confined", reason="--confinement off")
            if self.layout.user is not None:
                self._require_user(self.layout.user, await _try(self._trial(namespace=False)))
                self.measures = [*self.measures, Measure(measures.USER, State.HOLDS)]
            return
        # A process that may not enter a namespace as a whole is broken, and says nothing of the other measures.
        tried = await _try(self._trial(namespace=True)) or await _try(self._trial(namespace=False))
        if self.layout.user is not None:
            self._require_user(self.layout.user, tried)
        found = tried.measures if tried is not None else _untried()
        self.measures = found if self.layout.user is not None else [*found, _own_user()]
        lacking = measures.missing(self.measures)
        if lacking and self._settings.confinement == "required":
            reasons = "; ".join(f"{measure.name}: {measure.why}" for measure in lacking)
            raise SettingsError(
                "CONFINEMENT_UNAVAILABLE",
                f"confinement: required, and this system does not allow {reasons}; see docs/threat-model.md",
            )
        log = get_logger().warning if lacking else get_logger().info
        log("workers_confined", holds=[m.name for m in self.measures if m.state is State.HOLDS], lacks=self._lacks())

    def _trial(self, *, namespace: bool) -> Policy:
        """Build the policy of the process that tries what this system allows."""
        user = self.layout.user
        if user is None:
            return Policy(namespace=namespace)
        return Policy(
            read=tuple(_absolute(root) for root in (*self._settings.model_roots, *self._settings.data_roots)),
            write=tuple(str(folder.resolve()) for folder in (self.layout.models, self.layout.tokens)),
            namespace=namespace,
            user=user.uid,
            group=user.gid,
            user_alone=not self.enabled,
        )

    def _require_user(self, user: WorkerUser, tried: "_Tried | None") -> None:
        """Raise SettingsError WORKER_USER_UNUSABLE unless a process became this user, and can use what workers use."""
        if tried is None:
            raise _unusable("a process could not become this user; the trainer's log has the reason")
        closed, settings = set(tried.closed), self._settings
        for name, roots in (("model_roots", settings.model_roots), ("data_roots", settings.data_roots)):
            for root in (root for root in roots if _absolute(root) in closed):
                raise _unusable(
                    f"user {user.name} cannot read {root} of {name}; let it read the folder, and pass through those "
                    "above it"
                )
        if any(str(folder.resolve()) in closed for folder in (self.layout.models, self.layout.tokens)):
            raise _unusable(
                f"user {user.name} cannot reach data_dir; let everybody pass through the folders above it (mode 711), "
                "or use another folder"
            )
        if closed:
            raise _unusable(
                f"user {user.name} cannot read the Python that this service runs in, or its packages; install the "
                "suite where every user can read it"
            )

    def _lacks(self) -> dict[str, str]:
        return {measure.name: measure.why for measure in self.measures if measure.state is not State.HOLDS}

    def needs_network(self, task: worker_pb2.Task | None) -> bool:
        """Return whether a task needs a worker that was started for it: others have no network, as whole processes."""
        return self.enabled and task is not None and task.HasField("hub")

    def needs_loopback(self, task: worker_pb2.Task | None) -> bool:
        """Return whether a task's processes talk to each other, which an idle worker could not: ranks on devices."""
        return self.enabled and task is not None and task.train.spec.hardware.count > 1

    def reach(self, task: worker_pb2.Task | None) -> dict[str, bool]:
        """Return what a worker for a task may connect to; a worker keeps what it was started with."""
        return {"network": self.needs_network(task), "loopback": self.needs_loopback(task)}

    def environment(self, folder: Path, *, network: bool, threads: int, loopback: bool = False) -> dict[str, str]:
        """Return the environment of a worker with this folder, by which it is confined, too.

        `network`: whether its task may connect to other machines. `threads`: as of `worker_environment`. `loopback`:
        whether its processes may talk to each other.
        """
        own = self.own_variables(folder, network=network, loopback=loopback)
        return worker_environment(os.environ, threads=threads, **own)

    def own_variables(self, folder: Path, *, network: bool, loopback: bool) -> dict[str, str]:
        """Return what of that environment is this worker's own, on whatever machine it runs."""
        settings, layout, user = self._settings, self.layout, self.layout.user
        if not self.enabled and user is None:
            return {}
        roots = [*settings.model_roots, *settings.data_roots, str(layout.datasets)]
        if settings.replica_address and settings.launcher == "ray":
            roots.append(str(layout.leader.parent))
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
            user=user.uid if user is not None else 0,
            group=user.gid if user is not None else 0,
            user_alone=not self.enabled,
            max_file_bytes=max(0, shutil.disk_usage(layout.root).total - settings.disk_reserve_bytes),
        )
        own = {"TMPDIR": str(temporary), "CUDA_CACHE_PATH": str(temporary)}
        if user is not None:
            # Libraries keep caches at home, and that of the service is closed to this user.
            own |= {"HOME": str(temporary), "USER": user.name, "LOGNAME": user.name}
        return {VARIABLE: policy.to_text()} | own

    def describe(self) -> list[capacity_pb2.ConfinementMeasure]:
        """Describe each measure as GetCapacity shows it."""
        return [
            capacity_pb2.ConfinementMeasure(name=measure.name, state=_STATES[measure.state], why=measure.why)
            for measure in self.measures
        ]


@dataclass(frozen=True, slots=True)
class _Tried:
    """What a process found that took the measures of a policy; `closed`: folders that its user cannot use."""

    measures: Sequence[Measure]
    closed: Sequence[str] = ()


async def _try(policy: Policy) -> _Tried | None:
    """Return what holds for a process that takes all measures; None where it does not say."""
    variables = worker_environment(os.environ, threads=1, **{VARIABLE: policy.to_text()})
    command = (sys.executable, "-m", "finetree_data.confinement")
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        # Not in the service's working directory, which Python would take for one of its own folders.
        child = await asyncio.create_subprocess_exec(
            *command, stdin=null, stdout=pipe, stderr=pipe, env=variables, cwd="/"
        )
    except OSError:
        return None
    try:
        output, errors = await asyncio.wait_for(child.communicate(), PROBE_SECONDS)
        report, _, closed = output.decode().partition("\n")
        if child.returncode:
            get_logger().info("confinement_not_taken", namespace=policy.namespace, why=errors.decode()[-300:].strip())
            return None
        return _Tried(measures.from_text(report), json.loads(closed or "[]"))
    except (TimeoutError, ValueError, TypeError):
        return None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


def _absolute(root: str) -> str:
    return str(Path(root).resolve())


def _own_user() -> Measure:
    text = "workers run as the user of the service"
    if os.geteuid() == 0:
        text += ", root without its capabilities; --worker-user names another one"
    return Measure(measures.USER, State.UNAVAILABLE, text)


def _unusable(text: str) -> SettingsError:
    return SettingsError("WORKER_USER_UNUSABLE", f"worker_user: {text}")


def _untried() -> list[Measure]:
    return [Measure(name, State.UNAVAILABLE, "the process that tries it failed") for name in _NAMES]
