# SPDX-License-Identifier: Apache-2.0
"""Gives attempts to workers, and sees each of them to its end: by outcome, by command, by signal, by proof of death."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress

from finetree_api.trainer.v1 import job_pb2, worker_pb2
from finetree_runtime.errors import DomainError
from finetree_runtime.ids import uuid7
from finetree_runtime.server.logging import get_logger
from sqlalchemy import Connection

from finetree_trainer.joblog import ingest, states
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.joblog.transaction import Draft
from finetree_trainer.settings import Settings
from finetree_trainer.store import attempts
from finetree_trainer.store.database import private_folder
from finetree_trainer.workers.process import Liveness, Process, liveness, worker_environment
from finetree_trainer.workers.recovery import close_attempt
from finetree_trainer.workers.session import Session, Worker, new_token, token_hash
from finetree_trainer.workers.task import Tasks
from finetree_trainer.workers.termination import cancel_command, dismiss, expect_exit, remove_folder, sweep_folders

TOKEN_VARIABLE = "FINETREE_WORKER_TOKEN"  # noqa: S105 - the variable's name; nobody else can read the environment


class Supervisor:
    """All workers of this service. `released(slot)` is called when a slot's process is proven dead."""

    def __init__(
        self, log: EventLog, tasks: Tasks, settings: Settings, socket: str, released: Callable[[str], None]
    ) -> None:
        self._log, self._tasks, self._settings, self._socket = log, tasks, settings, socket
        self._released = released
        self._folder = private_folder(settings.data_dir / "workers")
        self._workers: dict[str, Worker] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.measure = True  # once in each run of the service, see Host.note

    # ------------------------------------------------------------------------------------------------- start

    async def adopt(self) -> list[attempts.AttemptRow]:
        """Take over the attempts that an earlier run of the service left open; they keep their slots."""
        rows = await self._log.store.read(attempts.open_attempts)
        for row in rows:
            folder = self._folder / row.worker
            state = liveness(folder)
            worker = Worker(row.worker, row.worker_token_hash, None, row.job_uid, row.attempt, row.slot)
            self._workers[worker.id] = worker
            if state is Liveness.ALIVE:
                worker.process = Process.adopt(folder, row.pid)
                self._spawn(self._see_out(worker))
            elif state is Liveness.DEAD:
                self._spawn(self._bury(worker, "it ended while the trainer was down"))
            else:
                self._spawn(self._wait_out(worker, row.last_heartbeat or row.started))
        self._spawn(asyncio.to_thread(sweep_folders, self._folder, {row.worker for row in rows}))
        return rows

    async def start(self, uid: str, slot: str, device: str, threads: int) -> bool:
        """Begin the next attempt of a waiting job on a slot; false when the job no longer waits."""
        worker = self._take_idle() or self._launch(measure=False)
        token = new_token()
        task = await self._tasks.build(uid, device, threads)

        def begin(draft: Draft, connection: Connection) -> int:
            if draft.row.state not in states.WAITING or draft.row.cancel_requested:
                return 0
            attempt = draft.begin_attempt()
            draft.move(job_pb2.JOB_STATE_PREPARING, "STARTING", f"Attempt {attempt} starts on {device}.")
            row = attempts.AttemptRow(
                job_uid=uid,
                attempt=attempt,
                token_hash=token_hash(token),
                worker=worker.id,
                worker_token_hash=worker.token_hash,
                pid=worker.process.pid if worker.process else 0,
                slot=slot,
                started=draft.now,
            )
            attempts.create(connection, row)
            return attempt

        attempt = (await self._log.change(uid, begin)).result
        if not attempt:
            return False
        worker.job, worker.attempt, worker.slot = uid, attempt, slot
        self._hand_over(worker, task, attempt, token)
        return True

    def _hand_over(self, worker: Worker, task: worker_pb2.Task, attempt: int, token: str) -> None:
        try:
            worker.task = self._tasks.place(task, attempt, token)
        except (DomainError, OSError) as error:
            get_logger().error("task_not_placed", job=worker.job, attempt=attempt, exc_info=error)
            self._end_for(worker, "its folder could not be made")
            return
        worker.send(worker_pb2.AttachResponse(task=worker.task))
        if worker.id not in self._workers:
            # It died between the choice and the transaction, when nobody knew yet that it had a job.
            self._spawn(self._bury(worker, "it ended before it had its task"))
        self._spawn(self._require_attach(worker))

    def _end_for(self, worker: Worker, why: str) -> None:
        if worker.process is not None:
            worker.process.reason = why
            worker.process.kill()

    def prewarm(self) -> None:
        """Have one worker wait with its libraries loaded."""
        if not self._stopping and self._settings.prewarm and not any(not w.job for w in self._workers.values()):
            self._launch(measure=self.measure)

    def _take_idle(self) -> Worker | None:
        for worker in self._workers.values():
            if not worker.job and worker.process is not None and not worker.process.dead.is_set():
                return worker
        return None

    def _launch(self, *, measure: bool) -> Worker:
        token = new_token()
        command = self._settings.worker_command or (sys.executable, "-m", "finetree_worker")
        arguments = ["--socket", self._socket, "--idle", *(["--measure"] if measure else [])]
        folder = self._folder / str(uuid7())
        environment = worker_environment(os.environ, **{TOKEN_VARIABLE: token})
        process = Process.start([*command, *arguments], environment, folder)
        worker = Worker(folder.name, token_hash(token), process)
        self._workers[worker.id] = worker
        self._spawn(self._see_out(worker))
        return worker

    # ------------------------------------------------------------------------------------------------ attach

    def idle_worker(self, token: str) -> Worker | None:
        """The worker that a waiting worker's secret belongs to."""
        hashed = token_hash(token)
        return next((worker for worker in self._workers.values() if worker.token_hash == hashed), None)

    def worker_of(self, uid: str, attempt: int) -> Worker | None:
        """The worker of an attempt."""
        return next((w for w in self._workers.values() if w.job == uid and w.attempt == attempt), None)

    async def task_for(self, worker: Worker) -> worker_pb2.Task | None:
        """The task that a waiting worker was given, also when the service that gave it is gone; None for none."""
        if worker.job and worker.task is None:
            token = new_token()
            device, _, _ = worker.slot.rpartition("/")
            task = await self._tasks.build(worker.job, device, self._tasks.threads(device))
            worker.task = self._tasks.place(task, worker.attempt, token)
            uid, attempt, hashed = worker.job, worker.attempt, token_hash(token)
            await self._log.store.write(lambda connection: attempts.renew_token(connection, uid, attempt, hashed))
        return worker.task

    def joined(self, worker: Worker, session: Session) -> None:
        """A worker's stream is there: it gets what has been waiting for it."""
        worker.join(session)
        if worker.task is not None:
            # It may have been given between the Welcome and now; a worker that has it takes it once.
            session.send(worker_pb2.AttachResponse(task=worker.task))
        if worker.ending is not None and worker.job:
            session.send(cancel_command(save=worker.save_on_cancel, seconds=self._settings.cancel_grace))

    async def take(self, uid: str, attempt: int, batch: worker_pb2.WorkerEventBatch) -> int:
        """Log a worker's events; the number of the newest one that is in the log. Raises FencedError, EventGapError."""

        def decide(draft: Draft, connection: Connection) -> int:
            return ingest.take(draft, connection, attempt, batch.events)

        change = await self._log.change(uid, decide, attempt=attempt)
        if change.row.state in states.TERMINAL:
            worker = self.worker_of(uid, attempt)
            if worker is not None:
                worker.done = True
                if worker.ending is None:
                    worker.ending = self._spawn(expect_exit(worker, self._settings.exit_grace))
        return change.result

    # --------------------------------------------------------------------------------------------------- end

    def cancel(self, uid: str, attempt: int, *, save: bool) -> None:
        """Command the worker of an attempt to end, and end it by force where it does not."""
        worker = self.worker_of(uid, attempt)
        if worker is None:
            return
        grace = self._settings.checkpoint_grace if save else self._settings.cancel_grace
        if worker.ending is not None:
            if save or not worker.save_on_cancel:
                return
            # From "save, then stop" to "stop now".
            worker.ending.cancel()
        worker.save_on_cancel = save
        worker.send(cancel_command(save=save, seconds=grace))
        worker.ending = self._spawn(expect_exit(worker, grace))

    async def stop(self) -> None:
        """The service ends: workers that wait or are done are dismissed, working ones work on."""
        self._stopping = True
        needless = [worker for worker in list(self._workers.values()) if await self._is_needless(worker)]
        shutdown = worker_pb2.Command(kind=worker_pb2.COMMAND_KIND_SHUTDOWN)
        for worker in needless:
            worker.send(worker_pb2.AttachResponse(command=shutdown))
        await asyncio.gather(*(dismiss(worker) for worker in needless))
        for worker in self._workers.values():
            if worker.session is not None:
                worker.session.close()
        for task in self._background:
            task.cancel()

    async def _is_needless(self, worker: Worker) -> bool:
        """Whether nothing of a worker is needed any more.

        The log is asked: an outcome is in it, and shown to watchers, before `take` gets round to noting it here.
        """
        if not worker.job or worker.done:
            return True
        try:
            return (await self._log.row(worker.job)).state in states.TERMINAL
        except DomainError as error:
            get_logger().error("worker_left_to_itself", job=worker.job, exc_info=error)
            return False

    async def _see_out(self, worker: Worker) -> None:
        """Wait for a worker's death, whatever brings it, and draw the conclusions."""
        assert worker.process is not None  # noqa: S101 - only workers with a process are seen out
        await worker.process.dead.wait()
        await self._bury(worker, worker.process.reason or worker.process.exit or "it ended")

    async def _wait_out(self, worker: Worker, heard: int) -> None:
        """Whether it lives cannot be known: wait until its lease has run out for certain."""
        lease = heard / 1e6 + self._settings.orphan_grace + self._settings.checkpoint_grace
        await asyncio.sleep(max(0.0, lease - self._log.clock() / 1e6))
        await self._bury(worker, "nothing was heard of it until its lease had run out")

    async def _bury(self, worker: Worker, how: str) -> None:
        """The process is dead: log what it left, decide what becomes of its job, free its slot."""
        self._workers.pop(worker.id, None)
        if worker.ending is not None:
            worker.ending.cancel()
        if worker.session is not None:
            worker.session.close()
        if worker.job:
            folder, retries = self._tasks.work_dir(worker.job, worker.attempt), self._settings.system_retries
            await close_attempt(self._log, worker.job, worker.attempt, folder, how=how, retries=retries)
            self._released(worker.slot)
        elif not self._stopping:
            get_logger().warning("idle_worker_ended", worker=worker.id, how=how)
        keep_in = self._tasks.work_dir(worker.job, worker.attempt) if worker.job else None
        await asyncio.to_thread(remove_folder, self._folder / worker.id, keep_in)

    async def _require_attach(self, worker: Worker) -> None:
        """A worker that never attaches is of no use: end it, so that another attempt can follow."""
        with suppress(TimeoutError):
            await asyncio.wait_for(worker.attached.wait(), self._settings.start_time)
            return
        self._end_for(worker, f"it did not attach within {self._settings.start_time:g} s")

    def _spawn(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            get_logger().error("supervisor_task_failed", exc_info=task.exception())
