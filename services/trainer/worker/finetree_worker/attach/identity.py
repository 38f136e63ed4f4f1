# SPDX-License-Identifier: Apache-2.0
"""Identity of a worker towards its service, and the times that both have agreed on."""

import os
import signal
from dataclasses import dataclass, replace
from typing import NoReturn

from finetree_api.trainer.v1 import job_pb2
from finetree_api.worker.v1 import worker_pb2

PROTOCOL_VERSION = 1
"""Version of the Attach protocol."""
EXIT_REFUSED = 77
"""Exit status (EX_NOPERM of sysexits.h) of a worker that was fenced off and does not lead its process group."""


class RefusedError(Exception):
    """The service refused this worker: another attempt has taken over, or its token or protocol is wrong."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Identity in the Hello; kind, job and attempt are empty while it waits for a task."""

    kind: job_pb2.TaskKind.ValueType
    token: str
    build: str
    boot_id: str
    node: str
    job: str = ""
    attempt: int = 0
    resting: worker_pb2.Resting | None = None
    """What it holds, where it waits for a task after another one."""

    def hello(self) -> worker_pb2.Hello:
        """Return the first message of a stream."""
        return worker_pb2.Hello(
            protocol_version=PROTOCOL_VERSION,
            task_kind=self.kind,
            job=self.job,
            attempt=self.attempt,
            token=self.token,
            build=self.build,
            boot_id=self.boot_id,
            node=self.node,
            pid=os.getpid(),
            resting=self.resting,
        )

    def with_task(self, task: worker_pb2.Task) -> "Identity":
        """Return the identity with the attempt of a task."""
        kind = job_pb2.TaskKind.Value(f"TASK_KIND_{(task.WhichOneof('task') or 'unspecified').upper()}")
        token = task.token or self.token
        return replace(self, kind=kind, job=task.job, attempt=task.attempt, token=token, resting=None)


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of the stream in seconds; heartbeat and grace hold until the first Welcome states the service's own."""

    heartbeat: float = 20.0
    orphan_grace: float = 900.0
    idle_grace: float = 60.0
    resting_grace: float = 2.0
    """How long a worker that holds a base lives on without a stream: its memory is worth more elsewhere."""
    batch_delay: float = 0.05
    first_backoff: float = 0.1
    longest_backoff: float = 5.0

    def lease(self, *, has_task: bool) -> float:
        """Return how many seconds a worker lives on without contact; without a task it has nothing to save."""
        return self.orphan_grace if has_task else min(self.idle_grace, self.orphan_grace)

    def agreed(self, welcome: worker_pb2.Welcome) -> "Timing":
        """Return the times with those of the service's Welcome; 0 leaves a value as it is."""
        return replace(
            self,
            heartbeat=welcome.heartbeat_interval.ToNanoseconds() / 1e9 or self.heartbeat,
            orphan_grace=welcome.orphan_grace.ToNanoseconds() / 1e9 or self.orphan_grace,
        )


def end_group() -> NoReturn:
    """Kill this process and its children at once: whatever they would still write belongs to another attempt."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(EXIT_REFUSED)
