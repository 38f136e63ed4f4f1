# SPDX-License-Identifier: Apache-2.0
"""What a worker and its service know of each other: who it is, how long either may be silent, and when it is out."""

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
    """The service wants nothing of this worker: another attempt has taken over, or its token or protocol is wrong."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who says Hello; kind, job and attempt are empty while it waits for a task."""

    kind: job_pb2.TaskKind.ValueType
    token: str
    build: str
    boot_id: str
    node: str
    job: str = ""
    attempt: int = 0

    def hello(self) -> worker_pb2.Hello:
        """The first message of a stream."""
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
        )

    def with_task(self, task: worker_pb2.Task) -> "Identity":
        """Return this process as the attempt that it works on from now on."""
        kind = job_pb2.TaskKind.Value(f"TASK_KIND_{(task.WhichOneof('task') or 'unspecified').upper()}")
        return replace(self, kind=kind, job=task.job, attempt=task.attempt, token=task.token or self.token)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. Heartbeat and grace hold until the first Welcome states the service's own."""

    heartbeat: float = 20.0
    orphan_grace: float = 900.0
    idle_grace: float = 60.0
    batch_delay: float = 0.05
    first_backoff: float = 0.1
    longest_backoff: float = 5.0

    def lease(self, *, has_task: bool) -> float:
        """How long a worker lives on without a word from the service: one without a task has nothing to save."""
        return self.orphan_grace if has_task else min(self.idle_grace, self.orphan_grace)

    def agreed(self, welcome: worker_pb2.Welcome) -> "Timing":
        """With what the service asks for; 0 leaves a value as it is."""
        return replace(
            self,
            heartbeat=welcome.heartbeat_interval.ToNanoseconds() / 1e9 or self.heartbeat,
            orphan_grace=welcome.orphan_grace.ToNanoseconds() / 1e9 or self.orphan_grace,
        )


def end_group() -> NoReturn:
    """End this process and all that it started, at once: whatever it would still write belongs to another attempt."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(EXIT_REFUSED)
