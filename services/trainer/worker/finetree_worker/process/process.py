# SPDX-License-Identifier: Apache-2.0
"""The worker's process: its arguments, its signals, and the wait for a task."""

import argparse
import logging
import os
import platform
import queue
import signal
import sys
import threading
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import metadata

from finetree_api.trainer.v1 import job_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.confinement.confine import Confinement

from finetree_worker.attach.commands import Commands, Stop
from finetree_worker.attach.identity import Identity, end_group
from finetree_worker.attach.stream import ServiceStream
from finetree_worker.process import log_capture, runner
from finetree_worker.process.confinement import confine_to_task

TOKEN_VARIABLE = "FINETREE_WORKER_TOKEN"  # noqa: S105 - the name of the variable, not a token
AUTHORITY_VARIABLE = "FINETREE_WORKER_AUTHORITY"
"""PEM certificates of who vouches for the trainer's own. No file: a confined worker could not read it later."""
EXIT_IO = 74
"""Exit status (EX_IOERR of sysexits.h) of a worker whose outcome could not be written to its disk."""
_KINDS = {
    "train": job_pb2.TASK_KIND_TRAIN,
    "prepare": job_pb2.TASK_KIND_PREPARE,
    "export": job_pb2.TASK_KIND_EXPORT,
    "serve": job_pb2.TASK_KIND_SERVE,
    "evaluate": job_pb2.TASK_KIND_EVALUATE,
}

_log = logging.getLogger(__name__)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; the token is not on it, since everyone on a machine may read those."""
    parser = argparse.ArgumentParser(
        prog="python -m finetree_worker",
        description="Work on one task of a finetree trainer; started by the trainer, not by hand.",
        epilog=f"The token is read from the environment variable {TOKEN_VARIABLE}, PEM authorities of the trainer's "
        f"certificate from {AUTHORITY_VARIABLE}; without them it is spoken to in plain text.",
    )
    parser.add_argument(
        "--socket", required=True, help="address of the trainer: unix:/path, host:port, or leader-file:/path"
    )
    parser.add_argument("--job", default="", help="job that this worker was started for")
    parser.add_argument("--attempt", type=int, default=0, help="attempt of the job")
    parser.add_argument("--kind", choices=sorted(_KINDS), default="train", help="what the job does")
    parser.add_argument("--idle", action="store_true", help="load the libraries and wait for a task")
    parser.add_argument("--measure", action="store_true", help="while idle, measure the machine's matrix rate")
    parser.add_argument("--grace", type=float, default=30.0, help="seconds after SIGTERM for a checkpoint")
    parser.add_argument("--node", default=platform.node(), help="name of the machine, for people")
    options = parser.parse_args(arguments)
    if options.idle == bool(options.job):
        parser.error("give either --idle, or --job and --attempt")
    return options


def identity(options: argparse.Namespace) -> Identity:
    """Return this process's identity; removes the token from the environment, so that no child inherits it."""
    return Identity(
        kind=job_pb2.TASK_KIND_UNSPECIFIED if options.idle else _KINDS[options.kind],
        token=os.environ.pop(TOKEN_VARIABLE, ""),
        build=metadata.version("finetree-worker"),
        boot_id=uuid.uuid4().hex,
        node=options.node,
        job=options.job,
        attempt=options.attempt,
    )


class Process:
    """One worker process, from its start to its exit status."""

    def __init__(self, options: argparse.Namespace, core: runner.Core, confinement: Confinement | None = None) -> None:
        self._options, self._core, self._confinement = options, core, confinement
        self._identity = identity(options)
        self._authority = os.environ.pop(AUTHORITY_VARIABLE, "").encode()
        self._busy = False
        self._log = log_capture.capture()
        self._commands = Commands()
        self._tasks: queue.SimpleQueue[worker_pb2.Task | None] = queue.SimpleQueue()
        self._stream = self._new_stream(self._identity)

    def _new_stream(self, identity: Identity) -> ServiceStream:
        return ServiceStream(
            self._options.socket,
            identity,
            self._commands,
            on_task=self._on_task,
            on_refused=self._on_refused,
            authority=self._authority,
        )

    def run(self) -> int:
        """Attach, wait for a task, run it; then wait for another one where that is allowed.

        Returns 0 when the last outcome is on the disk, or there was no task.
        """
        if os.getpgrp() != os.getpid():
            # A worker that is fenced off ends its process group, which must not be the group of its parent.
            os.setpgid(0, 0)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._stream.start()
        try:
            if self._options.idle:
                self._warm_up()
            while (task := self._next_task()) is not None:
                ended = self._work(task)
                if ended is None or not ended.written:
                    return EXIT_IO
                if not self._rest(task, ended):
                    return 0
            return 0
        finally:
            self._stream.close()

    def _next_task(self) -> worker_pb2.Task | None:
        while True:
            # A signal that comes just before the wait begins does not end it, hence waits that end by themselves.
            with suppress(queue.Empty):
                return self._tasks.get(timeout=0.5)

    def _work(self, task: worker_pb2.Task) -> runner.Ended | None:
        self._busy = True
        try:
            if self._confinement is not None:
                confine_to_task(self._confinement, task)
            return runner.work(
                task,
                self._core,
                stream=self._stream,
                commands=self._commands,
                log=self._log,
                confinement=self._confinement,
            )
        except OSError as error:
            sys.stderr.write(f"finetree-worker: cannot write to the folder of the task: {error.strerror}\n")
            return None

    def _rest(self, task: worker_pb2.Task, ended: runner.Ended) -> bool:
        """Make ready for another task on the same base, and tell the service; return whether that is possible."""
        if not task.may_rest or not self._options.idle or not ended.well or not self._stream.close():
            return False
        self._busy = False
        try:
            resting = self._core.rest(task)
        except Exception as error:  # noqa: BLE001 - the task is done; a process in doubt ends
            _log.warning("this worker takes no other task: %s", type(error).__name__)
            return False
        if resting is None:
            return False
        self._log.forget()
        # What belongs to a task is new, its commands, its queue and its stream: nothing of the last one reaches them.
        self._commands, self._tasks = Commands(), queue.SimpleQueue()
        self._stream = self._new_stream(replace(self._identity, resting=resting))
        self._stream.start()
        return True

    def _warm_up(self) -> None:
        self._core.warm_up()
        if self._options.measure:
            self._stream.send_profile(self._core.profile())

    def _on_signal(self, _number: int, _frame: object) -> None:
        if not self._busy:
            # Nothing is lost: there is no task, or it has not begun.
            sys.exit(0)
        self._commands.end(Stop.INTERRUPT, self._options.grace)

    def _on_task(self, task: worker_pb2.Task | None) -> None:
        self._tasks.put(task)
        if task is None:
            # The main thread may be importing; a signal reaches it there.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _on_refused(self, reason: str) -> None:
        _log.warning("the trainer refused this worker: %s", reason)
        sys.stderr.write(f"finetree-worker: the trainer refused this worker: {reason}\n")
        sys.stderr.flush()
        end_group()
