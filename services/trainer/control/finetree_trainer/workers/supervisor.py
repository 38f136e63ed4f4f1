# SPDX-License-Identifier: Apache-2.0
"""Gives attempts to worker processes and follows each to its end: outcome, command, signal, proof of death."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress

from finetree_api.trainer.v1 import job_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.fail_points import fail_point
from finetree_runtime.errors import DomainError
from finetree_runtime.ids import uuid7
from finetree_runtime.server.logging import get_logger
from sqlalchemy import Connection

from finetree_trainer.joblog import ingest, states
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.joblog.transaction import Transaction
from finetree_trainer.scheduling.devices import Slot, placements
from finetree_trainer.settings import Settings
from finetree_trainer.store import attempts, jobs
from finetree_trainer.worker_user import passage
from finetree_trainer.workers.confinement import WorkerConfinement
from finetree_trainer.workers.exchange import Exchange
from finetree_trainer.workers.heartbeats import Heartbeats
from finetree_trainer.workers.launch.launcher import LaunchedProcess, Launcher, Order
from finetree_trainer.workers.process import Liveness
from finetree_trainer.workers.recovery import DeadAttempt, close_attempt
from finetree_trainer.workers.resting import RestingWorkers
from finetree_trainer.workers.session import Session, Worker, new_token, token_hash
from finetree_trainer.workers.task import TaskBuilder
from finetree_trainer.workers.termination import (
    SHUTDOWN,
    interrupt,
    remove_drafts,
    remove_folder,
    remove_left_drafts,
    remove_stale_folders,
    shut_down,
    stop_command,
    terminate_after,
)

CLOSE_SECONDS = 1.0
"""How long a dead worker keeps its slot while the end of its attempt is written."""


class Supervisor:
    """All workers of this service. `on_released(slots, uid)` is called when a job's process is proven dead."""

    def __init__(
        self,
        log: EventLog,
        tasks: TaskBuilder,
        settings: Settings,
        *,
        confinement: WorkerConfinement,
        launcher: Launcher,
        on_released: Callable[[Sequence[Slot], str], None],
    ) -> None:
        self._log, self._tasks, self._settings, self._confinement = log, tasks, settings, confinement
        self._launcher, self._on_released = launcher, on_released
        self._layout = confinement.layout
        self._workers: dict[str, Worker] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.measure = True
        """Whether the next idle worker measures the host's matrix rates: once in each run of the service."""
        lease = settings.orphan_grace + settings.checkpoint_grace
        self.heartbeats = Heartbeats(
            self._workers.values, interval=settings.worker_heartbeat, lease=lease, end=self._kill
        )
        rest = settings.base_rest if launcher.keeps_idle else 0.0
        self.resting = RestingWorkers(self._workers.values, clock=log.clock, seconds=rest, spawn=self._spawn)
        passage(self._layout.workers.resolve(), self._layout.user)

    async def adopt(self, node: str) -> list[Worker]:
        """Take over the attempts that an earlier run of the service left open; they keep their slots.

        `node`: the name of this machine, which has run them all; "" where they are on nodes of a cluster.

        Those whose worker is dead come first: a living one may have been given a slot of theirs.
        """
        rows = await self._log.store.read(attempts.open_attempts)
        ended = await self._log.store.read(lambda connection: jobs.ended_of(connection, {row.job_uid for row in rows}))
        found = [(row, *self._launcher.find(self._layout.workers / row.worker, row.pid)) for row in rows]
        for row, alive, process in sorted(found, key=lambda each: each[1] is not Liveness.DEAD):
            worker = self._workers[row.worker] = Worker.adopt(row, process, node)
            if process is not None:
                if row.job_uid in ended:
                    # It was about to be ended, or ends by itself: a lease that is over needs the command.
                    self._shut_down(worker)
                self._spawn(self._watch_exit(worker, process))
            elif alive is Liveness.DEAD:
                self._spawn(self._finalize(worker, "it ended while the trainer was down"))
            else:
                self._spawn(self._wait_for_lease(worker, row.last_heartbeat or row.started))
        self._spawn(asyncio.to_thread(remove_stale_folders, self._layout.workers, {row.worker for row in rows}))
        self._spawn(remove_left_drafts(self._log.store, self._layout, {row.job_uid for row in rows}))
        return list(self._workers.values())

    async def start(self, uid: str, slots: tuple[Slot, ...]) -> bool:
        """Begin the next attempt of a waiting job on free slots; return False when the job no longer waits.

        Raises NotFound for inputs of the job that no longer exist; DomainError and OSError of an outage, which changes
        nothing.
        """
        task = await self._tasks.build(uid, slots)
        # The processes of a task on several devices talk to each other, and no worker gets or loses that on the way.
        alone = task.HasField("train") and task.train.spec.hardware.count <= 1
        task.may_rest = alone and self.resting.allowed
        row = await self._log.row(uid)
        expected = row.attempt + 1
        # Before the attempt exists: a full disk must not cost the job one.
        self._tasks.make_folders(uid, expected)
        rested = self.resting.find(row, slots) if alone else None
        worker = rested or self._idle_worker(task) or self._launch(task, slots)
        token = new_token()
        devices = ", ".join(slot.device for slot in slots)

        def begin(transaction: Transaction, connection: Connection) -> int:
            row = transaction.row
            if row.state not in states.WAITING or row.cancel_requested or row.attempt + 1 != expected:
                return 0
            attempt = transaction.begin_attempt(placements(slots))
            transaction.move(job_pb2.JOB_STATE_PREPARING, "STARTING", f"Attempt {attempt} starts on {devices}.")
            started = attempts.AttemptRow(
                job_uid=uid,
                attempt=attempt,
                token_hash=token_hash(token),
                worker=worker.id,
                worker_token_hash=worker.token_hash,
                pid=worker.process.pid if worker.process else 0,
                slots=",".join(map(str, slots)),
                started=transaction.now,
            )
            attempts.create(connection, started)
            return attempt

        worker.starting = True
        fail_point("attempt.before_begin")
        try:
            if worker.process is not None:
                await worker.process.placed()
            await self.resting.clear(slots, keep=worker)
            attempt = (await self._log.change(uid, begin)).result
        except Exception:
            worker.starting = False
            self._let_go(worker)
            raise
        worker.starting = False
        if not attempt:
            self._let_go(worker)
            return False
        fail_point("attempt.after_begin")
        worker.job, worker.attempt, worker.slots = uid, attempt, slots
        self._assign(worker, task, token)
        return True

    def _let_go(self, worker: Worker) -> None:
        """End a worker that has got no task, where it could not take another one."""
        if not self._launcher.keeps_idle:
            self._shut_down(worker)

    def _assign(self, worker: Worker, task: worker_pb2.Task, token: str) -> None:
        worker.task = self._tasks.assign(task, worker.attempt, token)
        worker.send(worker_pb2.AttachResponse(task=worker.task))
        if worker.id not in self._workers:
            # It died between the choice and the transaction, when nothing knew yet that it had a job.
            self._spawn(self._finalize(worker, "it ended before it had its task"))
        self._spawn(self._require_attach(worker))

    def prewarm(self) -> None:
        """Start an idle worker that loads its libraries, unless there is one."""
        wanted = self._settings.prewarm and self._launcher.keeps_idle and not self._stopping
        if wanted and self._idle_worker() is None:
            self._launch(measure=self.measure)

    def _idle_worker(self, task: worker_pb2.Task | None = None) -> Worker | None:
        reach = self._confinement.reach(task)
        if not self._launcher.keeps_idle:
            return None
        for worker in self._workers.values():
            waits = not (worker.job or worker.done) and worker.rest is None and worker.reach == reach
            if waits and worker.process is not None and not worker.process.dead.is_set():
                return worker
        return None

    def _launch(
        self, task: worker_pb2.Task | None = None, slots: Sequence[Slot] = (), *, measure: bool = False
    ) -> Worker:
        token, folder, reach = new_token(), self._layout.workers / str(uuid7()), self._confinement.reach(task)
        process = self._launcher.start(folder, Order(token, reach, slots, measure))
        worker = Worker(folder.name, token_hash(token), process, reach=reach)
        self._workers[worker.id] = worker
        self._spawn(self._watch_exit(worker, process))
        return worker

    # ------------------------------------------------------------------------------------------------ attach

    def worker_with_token(self, token: str) -> Worker | None:
        """The worker process that was started with a secret."""
        hashed = token_hash(token)
        return next((worker for worker in self._workers.values() if worker.token_hash == hashed), None)

    def worker_of(self, uid: str, attempt: int) -> Worker | None:
        """The worker of an attempt."""
        return next((w for w in self._workers.values() if w.job == uid and w.attempt == attempt), None)

    async def task_for(self, worker: Worker) -> worker_pb2.Task | None:
        """The task of a worker, built again when an earlier run of the service gave it.

        None for a worker without one, and for one that has done its task.
        """
        if worker.done:
            return None
        if worker.job and worker.task is None:
            token = new_token()
            task = await self._tasks.build(worker.job, worker.slots)
            task = self._tasks.assign(task, worker.attempt, token)
            uid, attempt, hashed = worker.job, worker.attempt, token_hash(token)
            await self._log.store.write(
                lambda connection: attempts.renew_token(connection, uid, attempt, token_hash=hashed)
            )
            fail_point("attach.after_token")
            # Not before its secret is stored: with another one the worker would be sent away.
            worker.task = task
        return worker.task

    def on_attach(self, worker: Worker, session: Session) -> None:
        """Take a worker's stream, and send what has been waiting for it."""
        worker.attach(session)
        if worker.task is not None and not worker.done:
            # It may have been assigned between the Welcome and now; a worker that has it ignores the second one.
            session.send(worker_pb2.AttachResponse(task=worker.task))
        if worker.cancelled:
            save, seconds = worker.save_on_cancel, self._settings.cancel_grace
            session.send(stop_command(worker_pb2.COMMAND_KIND_CANCEL, save=save, seconds=seconds))
        elif worker.asked:
            session.send(stop_command(worker.asked, seconds=self._settings.checkpoint_grace))
        if worker.done:
            session.send(SHUTDOWN)

    async def rest(self, worker: Worker, resting: worker_pb2.Resting) -> Worker:
        """Let a worker that has done its task wait for another one on the same base; return it as it goes on.

        One that may not, since the service or the worker is to end, is returned as it is: it gets no task any more.
        """
        process = worker.process
        if process is None or process.signalled or not (worker.done and worker.may_rest) or self._stopping:
            return worker
        rested = self.resting.begin(worker, await self._log.row(worker.job), resting)
        if worker.termination is not None:
            worker.termination.cancel()
        self._workers[worker.id] = rested
        await asyncio.to_thread(process.hand_over_output, self._layout.attempt(worker.job, worker.attempt))
        await self._close(worker, "it has done its task", rested)
        return rested

    async def ingest(self, uid: str, attempt: int, batch: worker_pb2.WorkerEventBatch) -> int:
        """Log a worker's events and return the number of its newest one in the log.

        Raises FencedError, EventGapError.
        """

        def add(transaction: Transaction, connection: Connection) -> int:
            return ingest.ingest_batch(transaction, connection, batch.events, attempt=attempt)

        change = await self._log.change(uid, add, attempt=attempt)
        fail_point("ingest.before_acknowledge")
        if change.row.state in states.TERMINAL:
            fail_point("ingest.after_outcome")
            worker = self.worker_of(uid, attempt)
            if worker is not None:
                worker.done = True
                if worker.termination is None:
                    self._terminate(worker, self._settings.exit_grace)
        return change.result

    # --------------------------------------------------------------------------------------------------- end

    def cancel(self, uid: str, attempt: int, *, save: bool, may_rest: bool = False) -> None:
        """Command the worker of an attempt to stop, and end it by force where it does not.

        `may_rest`: whether it may wait for another job then; a job that somebody cancels leaves no process behind.
        """
        worker = self.worker_of(uid, attempt)
        if worker is None:
            return
        worker.may_rest = worker.may_rest and may_rest
        grace = self._settings.checkpoint_grace if save else self._settings.cancel_grace
        if worker.cancelled or worker.termination is not None:
            stricter = bool(worker.asked) if not worker.cancelled else worker.save_on_cancel and not save
            if not stricter or worker.done:
                return
            # From "pause" or "finish" to a stop, or from "save a checkpoint, then stop" to "stop now".
            if worker.termination is not None:
                worker.termination.cancel()
        worker.cancelled, worker.save_on_cancel = True, save
        worker.send(stop_command(worker_pb2.COMMAND_KIND_CANCEL, save=save, seconds=grace))
        self._terminate(worker, grace)

    def pause(self, uid: str, attempt: int) -> None:
        """Command the worker of an attempt to save a checkpoint and end, and end it by force where it does not."""
        self._ask(uid, attempt, worker_pb2.COMMAND_KIND_PAUSE)

    def finish(self, uid: str, attempt: int) -> None:
        """Command the worker of an attempt to publish what it has and end, and end it by force where it does not."""
        self._ask(uid, attempt, worker_pb2.COMMAND_KIND_FINISH)

    def _ask(self, uid: str, attempt: int, kind: worker_pb2.CommandKind.ValueType) -> None:
        worker = self.worker_of(uid, attempt)
        # A worker that pauses may be told to finish, not the other way round.
        if worker is None or worker.done or worker.cancelled or worker.asked >= kind:
            return
        if worker.termination is not None:
            worker.termination.cancel()
        worker.asked, worker.may_rest = kind, False
        worker.send(stop_command(kind, seconds=self._settings.checkpoint_grace))
        self._terminate(worker, self._settings.checkpoint_grace)

    def exchange(self, uid: str, attempt: int) -> Exchange | None:
        """The requests of a serving worker; None while it is not attached."""
        worker = self.worker_of(uid, attempt)
        return worker.session.exchange if worker is not None and worker.session is not None else None

    def end(self, uid: str, attempt: int) -> None:
        """End the worker of a job that has ended by the service's own decision."""
        worker = self.worker_of(uid, attempt)
        if worker is not None:
            self._shut_down(worker)

    def _shut_down(self, worker: Worker) -> None:
        worker.done = True
        worker.send(SHUTDOWN)
        if worker.termination is None:
            self._terminate(worker, self._settings.exit_grace)

    def _terminate(self, worker: Worker, grace: float) -> None:
        if worker.process is not None:
            worker.termination = self._spawn(terminate_after(worker.process, grace))

    def _kill(self, worker: Worker, why: str) -> None:
        if worker.process is not None:
            worker.process.reason = why
            worker.process.give_up()

    async def stop(self) -> None:
        """Stop with the service: idle and finished workers are shut down, the others go on without it.

        With `stop_grace` the others end too, each with a checkpoint that its job goes on from.
        """
        self._stopping = True
        workers = list(self._workers.values())
        needless = [worker for worker in workers if await self._is_needless(worker)]
        for worker in needless:
            worker.send(SHUTDOWN)
        await asyncio.gather(*(shut_down(worker.process) for worker in needless if worker.process is not None))
        if self._settings.stop_grace:
            working = [worker.process for worker in workers if worker not in needless and worker.process is not None]
            await interrupt(working, self._settings.stop_grace)
            if working:
                # So that the next start finds attempts that are closed; it would close them itself.
                await asyncio.wait(self._background, timeout=CLOSE_SECONDS)
        for worker in self._workers.values():
            if worker.session is not None:
                worker.session.close()
        for task in self._background:
            task.cancel()

    async def _is_needless(self, worker: Worker) -> bool:
        """Return whether nothing of a worker is needed any more.

        The log is asked: an outcome is in it, and sent to watchers, before `ingest` sets `done`.
        """
        if worker.starting:
            return False
        if not worker.job or worker.done:
            return True
        try:
            return (await self._log.row(worker.job)).state in states.TERMINAL
        except DomainError as error:
            get_logger().error("worker_left_running", job=worker.job, exc_info=error)
            return False

    async def _watch_exit(self, worker: Worker, process: LaunchedProcess) -> None:
        """Wait for a worker's death, whatever its cause, and finalize its attempt."""
        await process.dead.wait()
        # As it is now: it may have gone on to another attempt.
        worker = self._workers.get(worker.id, worker)
        await self._finalize(worker, process.reason or process.exit or "it ended")

    async def _wait_for_lease(self, worker: Worker, heard: int) -> None:
        """Finalize an attempt whose process cannot be looked at, once its lease has run out."""
        lease = heard / 1e6 + self._settings.orphan_grace + self._settings.checkpoint_grace
        await asyncio.sleep(max(0.0, lease - self._log.clock() / 1e6))
        await self._finalize(worker, "nothing was heard of it until its lease had run out")

    async def _finalize(self, worker: Worker, ending: str) -> None:
        """Close the attempt of a dead worker: log its last events, decide what its job does next, free its slot."""
        self._workers.pop(worker.id, None)
        if worker.termination is not None:
            worker.termination.cancel()
        if worker.session is not None:
            worker.session.close()
        keep_in = self._layout.attempt(worker.job, worker.attempt) if worker.job else None
        if keep_in is not None:
            await self._close(worker, ending)
        else:
            if worker.process is None or worker.process.pid:
                # Its memory may be what a job waits for. One that was placed nowhere had none, and its job is tried
                # again after a pause.
                self._on_released((), "")
            if not self._stopping and not worker.done:
                get_logger().warning("idle_worker_ended", worker=worker.id, ending=ending)
        await asyncio.to_thread(remove_folder, self._layout.workers / worker.id, keep_in)

    async def _close(self, worker: Worker, ending: str, rested: Worker | None = None) -> None:
        """Close the attempt of a worker that works on it no more, and free its slots, for `rested` too."""
        layout, folder = self._layout, self._layout.attempt(worker.job, worker.attempt)
        # Before another attempt may write there.
        drafts = layout.checkpoints(worker.job), layout.artifacts(worker.job, worker.attempt)
        await asyncio.to_thread(remove_drafts, *drafts)
        overran = bool(worker.process and worker.process.overran)
        ended = DeadAttempt(worker.job, worker.attempt, folder, ending, overran=overran)
        closing = self._spawn(close_attempt(self._log, ended, tries=self._settings.system_retries))
        # So that the job comes before others that wait for its slot; but that nothing works on it is proof enough.
        await asyncio.wait((closing,), timeout=CLOSE_SECONDS)
        if rested is not None:
            rested.closing = False
        self._on_released(worker.slots, worker.job)
        await closing

    async def _require_attach(self, worker: Worker) -> None:
        """End a worker that does not attach in time, so that another attempt can follow."""
        with suppress(TimeoutError):
            await asyncio.wait_for(worker.attached.wait(), self._settings.start_time)
            return
        self._kill(worker, f"it did not attach within {self._settings.start_time:g} s")

    def _spawn(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            get_logger().error("supervisor_task_failed", exc_info=task.exception())
