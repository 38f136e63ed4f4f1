# SPDX-License-Identifier: Apache-2.0
"""Jobs: created once for each request, read, listed, updated, cancelled."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from finetree_api.trainer.v1 import artifact_pb2, evaluation_pb2, job_pb2, serving_pb2, trainer_pb2
from finetree_api.types.v1 import training_data_pb2
from finetree_data.fail_points import fail_point
from finetree_runtime.errors import FailedPrecondition, ResourceExhausted
from finetree_runtime.ids import ResourceName, uuid7
from finetree_runtime.server.limits.table import Caller
from sqlalchemy import Connection

from finetree_trainer.clock import timestamp
from finetree_trainer.disk import require_space
from finetree_trainer.joblog import retries, states
from finetree_trainer.joblog.log import EventLog, job_not_found
from finetree_trainer.joblog.transaction import Transaction
from finetree_trainer.jobs.lifecycle import update
from finetree_trainer.jobs.planner import PlannedJob, Planner
from finetree_trainer.limits.quotas import Quotas
from finetree_trainer.models.lineage import lineage
from finetree_trainer.scheduling.queue import JobQueue
from finetree_trainer.settings import Settings
from finetree_trainer.store import datasets, jobs, request_ids
from finetree_trainer.store.jobs import JobRow
from finetree_trainer.store.request_ids import RequestKey, body_hash
from finetree_trainer.store.sealed import record_damaged
from finetree_trainer.workers import lost_time
from finetree_trainer.workers.supervisor import Supervisor

_OMITTED_IN_LISTS = ("setting_sources", "approved_plan", "recommendation")
"""Large fields of a TrainTask that a list of jobs does not contain."""


class Jobs:
    """Creates, reads, lists, updates and cancels jobs for the trainer's clients."""

    def __init__(
        self,
        log: EventLog,
        planner: Planner,
        *,
        queue: JobQueue,
        supervisor: Supervisor,
        settings: Settings,
        quotas: Quotas,
    ) -> None:
        self._log, self._planner, self._queue = log, planner, queue
        self._supervisor, self._settings, self._quotas = supervisor, settings, quotas
        self.longest_kept: Callable[[str], float] = lambda _project: 0.0
        """Seconds after its end at which retention deletes a job of a project; 0 for never."""

    async def validate(self, project: str, template: job_pb2.JobTemplate) -> PlannedJob:
        """Plan a job without creating it. Raises what `create` raises."""
        return await self._planner.plan(project, template)

    async def create(self, project: str, owner: str, template: job_pb2.JobTemplate, *, request_id: str) -> job_pb2.Job:
        """Create a job; it is durable when this returns. The same request id and body always return the same job."""
        key = RequestKey(project, request_id, "CreateJob", body_hash(template, "trace_context"))
        # Asked before planning, whose inputs may no longer exist.
        existing = await self._log.store.read(lambda connection: _job_of_request(connection, key))
        if existing is not None:
            return self.to_message(existing)
        planned = await self._planner.plan(project, template)
        record = self._record(template, planned, project=project, owner=owner)
        record.request_id = request_id
        record.lineage.CopyFrom(
            await asyncio.to_thread(
                lineage, record, planned.model, datasets=_datasets_of(planned), weights=planned.weights
            )
        )
        require_space(self._settings.data_dir, self._settings.disk_reserve_bytes)

        def make(connection: Connection, now: int) -> Transaction | JobRow:
            known = _job_of_request(connection, key)
            if known is not None:
                return known
            request_ids.claim(connection, key, record.uid, now=now)
            self._require_place(connection)
            self._quotas.require_queue(connection, Caller(owner, project))
            self._quotas.reserve(connection, record, now)
            _require_datasets(connection, planned)
            _require_weights(connection, planned)
            return _insert(connection, record, planned, project=project, now=now)

        return self.to_message(await self._log.create(make))

    def _require_place(self, connection: Connection) -> None:
        waiting = jobs.count_in_state(connection, job_pb2.JOB_STATE_QUEUED)
        if waiting >= self._settings.max_queued:
            text = f"{waiting} jobs are waiting; try again when some have run."
            raise ResourceExhausted("QUEUE_FULL", text, retry_delay=30.0)

    async def get(self, uid: str) -> job_pb2.Job:
        """Return a job. Raises NotFound JOB_NOT_FOUND."""
        return self.to_message(await self._log.row(uid))

    async def page(
        self,
        project: str,
        *,
        before: str,
        limit: int,
        states_: Sequence[int],
        tasks: Sequence[int],
        labels: Mapping[str, str],
    ) -> list[job_pb2.Job]:
        """List jobs of a project, newest first, older than the uid `before`."""
        rows = await self._log.store.read(
            lambda connection: jobs.page(
                connection, project, before=before, limit=limit, states=states_, tasks=tasks, labels=labels
            )
        )
        found = [self.to_message(row) for row in rows]
        for job in found:
            if job.WhichOneof("task") == "train":
                for name in _OMITTED_IN_LISTS:
                    job.train.ClearField(name)  # type: ignore[arg-type]  # names from the tuple above
        return found

    async def update(self, uid: str, request: trainer_pb2.UpdateJobRequest, key: RequestKey) -> job_pb2.Job:
        """Change the name, labels and annotations of a job, once for each request.

        Raises NotFound JOB_NOT_FOUND, InvalidArgument INVALID_REQUEST, AlreadyExists REQUEST_ID_REUSED.
        """

        def decide(transaction: Transaction, connection: Connection) -> None:
            if request_ids.claim(connection, key, uid, now=transaction.now) is not None:
                return
            row = jobs.load(connection, uid)
            job = job_pb2.Job.FromString(row.record) if row is not None else job_pb2.Job()
            if update.apply(job, request):
                jobs.replace_record(connection, uid, job.SerializeToString(), dict(job.labels))
                transaction.changed = True

        await self._log.change(uid, decide)
        return await self.get(uid)

    async def cancel(
        self,
        uid: str,
        *,
        save: bool,
        why: str = "Cancelled on request.",
        limit: str = "",
        key: RequestKey | None = None,
        may_rest: bool = False,
    ) -> job_pb2.Job:
        """Ask a job to stop, with a checkpoint first if `save`. A job that has ended stays as it is.

        `limit` is the code of the limit that ends it (states.LIMITS): a training then publishes what it has.
        `may_rest`: whether its worker may go on to another job. A request that was answered before, by its key, changes
        nothing. Raises NotFound JOB_NOT_FOUND, AlreadyExists REQUEST_ID_REUSED.
        """

        def decide(transaction: Transaction, connection: Connection) -> bool:
            repeated = key is not None and request_ids.claim(connection, key, uid, now=transaction.now) is not None
            if repeated or transaction.finished:
                return False
            transaction.row.cancel_requested = transaction.row.cancel_requested or transaction.now
            transaction.changed = True
            if transaction.row.state not in states.WITH_WORKER:
                transaction.finish(job_pb2.JOB_STATE_CANCELLED, limit or "CANCELLED", why)
            elif transaction.row.state != job_pb2.JOB_STATE_CANCELLING:
                asked = states.CANCEL_SAVING if save else states.CANCEL_NOW
                transaction.move(job_pb2.JOB_STATE_CANCELLING, limit or asked, why)
            elif not save and transaction.snapshot.state_reason.code == states.CANCEL_SAVING:
                transaction.snapshot.state_reason.code = states.CANCEL_NOW
            return True

        change = await self._log.change(uid, decide)
        row = change.row
        if change.result and row.state == job_pb2.JOB_STATE_CANCELLING:
            fail_point("cancel.after_commit")
            if limit and row.task == job_pb2.TASK_KIND_TRAIN:
                self._supervisor.finish(uid, row.attempt)
            else:
                self._supervisor.cancel(uid, row.attempt, save=save, may_rest=may_rest)
        return await self.get(uid)

    def recover(self, rows: Iterable[JobRow]) -> None:
        """Repeat the command to workers whose jobs are about to end: by a limit, or on request."""
        for row in rows:
            if row.state != job_pb2.JOB_STATE_CANCELLING:
                continue
            ended_by = job_pb2.Job.FromString(row.snapshot).state_reason.code
            if ended_by in states.LIMITS and row.task == job_pb2.TASK_KIND_TRAIN:
                self._supervisor.finish(row.uid, row.attempt)
            else:
                self._supervisor.cancel(row.uid, row.attempt, save=ended_by == states.CANCEL_SAVING)

    def to_message(self, row: JobRow) -> job_pb2.Job:
        """Build the contract's message from a row, its record and its place in the queue; see `message_of`."""
        job = message_of(row)
        if row.end_time and (age := self.longest_kept(row.project)):
            job.expire_time.CopyFrom(timestamp(row.end_time + int(age * 1e6)))
        position = self._queue.position(row.uid)
        job.queue_position, job.blocked_by = position.number, position.blocked_by
        if position.code and row.state == job_pb2.JOB_STATE_QUEUED:
            # As it is now; what is stored is what the queue said last.
            job.state_reason.CopyFrom(position.reason())
        return job

    def _record(self, template: job_pb2.JobTemplate, planned: PlannedJob, *, project: str, owner: str) -> job_pb2.Job:
        uid = str(uuid7())
        preparing = isinstance(planned.task, job_pb2.PrepareTask)
        record = job_pb2.Job(
            name=str(ResourceName(project, "jobs", uid)),
            uid=uid,
            display_name=template.display_name,
            train=planned.task if isinstance(planned.task, job_pb2.TrainTask) else None,
            prepare=planned.task if isinstance(planned.task, job_pb2.PrepareTask) else None,
            export=planned.task if isinstance(planned.task, job_pb2.ExportTask) else None,
            evaluate=planned.task if isinstance(planned.task, evaluation_pb2.EvaluateTask) else None,
            serve=planned.task if isinstance(planned.task, serving_pb2.ServeTask) else None,
            estimate=planned.estimate,
            plan_digest=planned.plan.digest if planned.plan else "",
            limits=template.limits if template.HasField("limits") else None,
            deadline=template.deadline if template.HasField("deadline") else None,
            trace_context=template.trace_context,
            suspended=template.suspended,
            priority=template.priority or job_pb2.JOB_PRIORITY_NORMAL,
            labels=dict(template.labels),
            annotations=dict(template.annotations),
            created_by=owner,
            create_time=timestamp(self._log.clock()),
        )
        if template.HasField("retry_policy"):
            most = self._settings.system_retries + 1
            record.retry_policy.CopyFrom(retries.resolve(template.retry_policy, max_attempts=most))
        if (lost := lost_time.max_lost_seconds(record)) is not None:
            record.limits.max_lost_time.FromNanoseconds(round(lost * 1e9))
        if planned.model is not None:
            record.base.hub_id = planned.model.hub_id
            if not preparing:
                # A PREPARE job asks the hub anew which commit a branch is.
                record.base.revision = planned.model.revision
        return record


def message_of(row: JobRow) -> job_pb2.Job:
    """Build the contract's message from a row and its record; of a damaged one, from the row alone. It has no queue."""
    job, snapshot = job_pb2.Job.FromString(row.record), job_pb2.Job.FromString(row.snapshot)
    if snapshot.lineage.datasets:
        # With the hashes of what the worker read, in place of what was known before.
        del job.lineage.datasets[:]
    job.MergeFrom(snapshot)
    job.state = job_pb2.JobState.ValueType(row.state)
    if row.damaged:
        damage = record_damaged(f"job {row.uid}")
        job.name, job.uid, job.created_by = row.name, row.uid, row.owner
        job.create_time.CopyFrom(timestamp(row.create_time))
        job.state_reason.CopyFrom(job_pb2.StateReason(code=damage.reason, text=damage.message))
    else:
        job.allowed_actions.extend(states.actions(row.state, row.task, suspended=row.suspended))
    job.attempt, job.last_seq, job.oldest_seq = row.attempt, row.last_seq, row.oldest_seq
    job.suspended, job.priority = row.suspended, job_pb2.JobPriority.ValueType(row.priority)
    job.update_time.CopyFrom(timestamp(row.update_time))
    if row.end_time:
        job.end_time.CopyFrom(timestamp(row.end_time))
    return job


def _datasets_of(planned: PlannedJob) -> list[artifact_pb2.LineageDataset]:
    splits = (planned.data, training_data_pb2.SPLIT_TRAIN), (planned.evaluation, training_data_pb2.SPLIT_EVALUATION)
    return [
        artifact_pb2.LineageDataset(split=split, name=data.name, sha256=data.sha256)
        for data, split in splits
        if data is not None
    ]


def _insert(connection: Connection, record: job_pb2.Job, planned: PlannedJob, *, project: str, now: int) -> Transaction:
    snapshot = job_pb2.Job()
    if record.estimate.HasField("cost"):
        snapshot.cost.basis = "hourly price of the estimate times the job's running time"
    row = JobRow(
        uid=record.uid,
        project=project,
        owner=record.created_by,
        task=planned.kind,
        state=job_pb2.JOB_STATE_UNSPECIFIED,
        suspended=record.suspended,
        attempt=0,
        last_seq=0,
        oldest_seq=1,
        attempt_started=0,
        cancel_requested=0,
        create_time=now,
        update_time=now,
        end_time=0,
        dataset_uid=planned.data.uid if planned.data else "",
        evaluation_uid=planned.evaluation.uid if planned.evaluation else "",
        record=record.SerializeToString(),
        snapshot=snapshot.SerializeToString(),
        priority=record.priority,
    )
    jobs.create(connection, row, dict(record.labels))
    transaction = Transaction(row, now)
    transaction.move(job_pb2.JOB_STATE_QUEUED, "WAITING_FOR_DEVICE", f"Waits for {planned.device}.")
    return transaction


def _job_of_request(connection: Connection, key: RequestKey) -> JobRow | None:
    """The job that the same request has made.

    Raises AlreadyExists REQUEST_ID_REUSED, FailedPrecondition JOB_DELETED.
    """
    answered = request_ids.find(connection, key)
    if answered is None:
        return None
    row = jobs.load(connection, answered.resource)
    if row is None:
        raise FailedPrecondition("JOB_DELETED", "This request made a job that was deleted; use a new request_id.")
    return row


def cancel_key(project: str, request: trainer_pb2.CancelJobRequest) -> RequestKey:
    """What makes two requests of CancelJob the same one."""
    return RequestKey(project, request.request_id, "CancelJob", body_hash(request, "request_id"))


def update_key(project: str, request: trainer_pb2.UpdateJobRequest) -> RequestKey:
    """What makes two requests of UpdateJob the same one."""
    return RequestKey(project, request.request_id, "UpdateJob", body_hash(request, "request_id"))


def _require_datasets(connection: Connection, planned: PlannedJob) -> None:
    """Raise FailedPrecondition DATASET_NOT_READY unless the datasets of a job still exist."""
    for data in (planned.data, planned.evaluation):
        if data is not None and data.uid and datasets.load(connection, data.uid) is None:
            raise FailedPrecondition("DATASET_NOT_READY", "The dataset was deleted meanwhile; upload it again.")


def _require_weights(connection: Connection, planned: PlannedJob) -> None:
    """Raise NotFound JOB_NOT_FOUND unless the jobs that made the weights of a job still exist."""
    for weights in planned.weights:
        uid = weights.job.rpartition("/")[2]
        if uid and jobs.project_of(connection, uid) is None:
            raise job_not_found(uid)
