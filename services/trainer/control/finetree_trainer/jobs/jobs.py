# SPDX-License-Identifier: Apache-2.0
"""Jobs: created once for each request, read, listed, cancelled."""

from collections.abc import Mapping, Sequence

from finetree_api.trainer.v1 import job_pb2
from finetree_runtime.errors import FailedPrecondition, ResourceExhausted
from finetree_runtime.ids import ResourceName, uuid7
from sqlalchemy import Connection

from finetree_trainer.clock import timestamp
from finetree_trainer.disk import require_space
from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.joblog.transaction import Transaction
from finetree_trainer.jobs.planner import Plan, Planner
from finetree_trainer.scheduling.queue import JobQueue
from finetree_trainer.settings import Settings
from finetree_trainer.store import datasets, jobs, request_ids
from finetree_trainer.store.jobs import JobRow
from finetree_trainer.store.request_ids import RequestKey, body_hash
from finetree_trainer.workers.supervisor import Supervisor

_OMITTED_IN_LISTS = ("setting_sources", "recommendation_json")
"""Large fields of a job that a list does not contain."""


class Jobs:
    """Creates, reads, lists and cancels jobs for the trainer's clients."""

    def __init__(
        self, log: EventLog, planner: Planner, *, queue: JobQueue, supervisor: Supervisor, settings: Settings
    ) -> None:
        self._log, self._planner, self._queue = log, planner, queue
        self._supervisor, self._settings = supervisor, settings

    async def validate(self, project: str, request: job_pb2.JobTemplate) -> Plan:
        """Plan a job without creating it. Raises what `create` raises."""
        return await self._planner.plan(project, request)

    async def create(
        self, project: str, owner: str, request: job_pb2.JobTemplate, *, request_id: str, validate_only: bool = False
    ) -> job_pb2.Job:
        """Create a job; it is durable when this returns. The same request id and body always return the same job.

        With `validate_only` nothing is created, and the returned job has no name.
        """
        key = RequestKey(project, request_id, "CreateJob", body_hash(request, "trace_context"))
        # Asked before planning, whose inputs may no longer exist.
        existing = await self._log.store.read(lambda connection: _job_of_request(connection, key))
        if existing is not None:
            return self.to_message(existing)
        plan = await self._planner.plan(project, request)
        record = self._record(project, owner, request, plan)
        record.request_id = request_id
        if validate_only:
            record.ClearField("name")
            record.ClearField("uid")
            return record
        require_space(self._settings.data_dir, self._settings.disk_reserve_bytes)

        def make(connection: Connection, now: int) -> Transaction | JobRow:
            known = _job_of_request(connection, key)
            if known is not None:
                return known
            request_ids.claim(connection, key, record.uid, now=now)
            self._require_place(connection)
            _require_datasets(connection, plan)
            return _insert(connection, record, plan, owner=owner, project=project, now=now)

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
        self, project: str, *, before: str, limit: int, states: Sequence[int], labels: Mapping[str, str]
    ) -> list[job_pb2.Job]:
        """List jobs of a project, newest first, older than the uid `before`."""
        rows = await self._log.store.read(
            lambda connection: jobs.page(connection, project, before=before, limit=limit, states=states, labels=labels)
        )
        found = [self.to_message(row) for row in rows]
        for job in found:
            for name in _OMITTED_IN_LISTS:
                job.ClearField(name)  # type: ignore[arg-type]  # names from the tuple above
        return found

    async def cancel(self, uid: str, *, save: bool, why: str = "Cancelled on request.") -> job_pb2.Job:
        """Ask a job to stop, with a checkpoint first if `save`. A job that has ended stays as it is."""

        def decide(transaction: Transaction, _connection: Connection) -> None:
            if transaction.finished:
                return
            transaction.row.cancel_requested = transaction.row.cancel_requested or transaction.now
            transaction.changed = True
            if transaction.row.state in states.WITH_WORKER:
                if transaction.row.state != job_pb2.JOB_STATE_CANCELLING:
                    transaction.move(job_pb2.JOB_STATE_CANCELLING, "CANCEL_REQUESTED", why)
            else:
                transaction.finish(job_pb2.JOB_STATE_CANCELLED, "CANCELLED", why)

        row = (await self._log.change(uid, decide)).row
        if row.state == job_pb2.JOB_STATE_CANCELLING:
            self._supervisor.cancel(uid, row.attempt, save=save)
        return await self.get(uid)

    def to_message(self, row: JobRow) -> job_pb2.Job:
        """Build the contract's message from a row and its record."""
        job = job_pb2.Job.FromString(row.record)
        job.MergeFrom(job_pb2.Job.FromString(row.snapshot))
        job.state = job_pb2.JobState.ValueType(row.state)
        job.allowed_actions.extend(states.actions(row.state))
        job.attempt, job.last_seq, job.oldest_seq = row.attempt, row.last_seq, row.oldest_seq
        job.suspended = row.suspended
        job.update_time.CopyFrom(timestamp(row.update_time))
        if row.end_time:
            job.end_time.CopyFrom(timestamp(row.end_time))
        job.etag = f"{row.attempt:x}-{row.last_seq:x}-{row.update_time:x}"
        position = self._queue.position(row.uid)
        job.queue_position, job.blocked_by = position.number, position.blocked_by
        return job

    def _record(self, project: str, owner: str, request: job_pb2.JobTemplate, plan: Plan) -> job_pb2.Job:
        uid = str(uuid7())
        record = job_pb2.Job(
            name=str(ResourceName(project, "jobs", uid)),
            uid=uid,
            display_name=request.display_name,
            kind=plan.kind,
            spec=plan.spec,
            setting_sources=plan.sources,
            recommendation_json=request.recommendation_json,
            plan_digest=plan.digest,
            trace_context=request.trace_context,
            suspended=request.suspended,
            labels=dict(request.labels),
            annotations=dict(request.annotations),
            created_by=owner,
            create_time=timestamp(self._log.clock()),
        )
        record.base.hub_id = plan.model.hub_id
        if plan.kind == job_pb2.TASK_KIND_TRAIN:
            # A PREPARE job asks the hub anew what a branch is.
            record.base.revision = plan.model.revision
        if plan.estimate is not None:
            record.estimate.CopyFrom(plan.estimate)
            record.cost.currency_code = plan.estimate.currency_code
        if request.HasField("limits"):
            record.limits.CopyFrom(request.limits)
        if request.HasField("deadline"):
            record.deadline.CopyFrom(request.deadline)
        return record


def _insert(
    connection: Connection, record: job_pb2.Job, plan: Plan, *, owner: str, project: str, now: int
) -> Transaction:
    snapshot = job_pb2.Job(kind=record.kind)
    if record.cost.currency_code:
        snapshot.cost.basis = "hourly price of the estimate times the job's running time"
    row = JobRow(
        uid=record.uid,
        project=project,
        owner=owner,
        kind=record.kind,
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
        dataset_uid=plan.data.uid if plan.data else "",
        evaluation_uid=plan.evaluation.uid if plan.evaluation else "",
        record=record.SerializeToString(),
        snapshot=snapshot.SerializeToString(),
    )
    jobs.create(connection, row, dict(record.labels))
    transaction = Transaction(row, now)
    transaction.move(job_pb2.JOB_STATE_QUEUED, "WAITING_FOR_DEVICE", f"Waits for {plan.device.id}.")
    return transaction


def _job_of_request(connection: Connection, key: RequestKey) -> JobRow | None:
    """The job that the same request has made.

    Raises AlreadyExists REQUEST_ID_REUSED, FailedPrecondition JOB_DELETED.
    """
    uid = request_ids.find(connection, key)
    if uid is None:
        return None
    row = jobs.load(connection, uid)
    if row is None:
        raise FailedPrecondition("JOB_DELETED", "This request made a job that was deleted; use a new request_id.")
    return row


def _require_datasets(connection: Connection, plan: Plan) -> None:
    """Raise FailedPrecondition DATASET_NOT_READY unless the datasets of a plan still exist."""
    for data in (plan.data, plan.evaluation):
        if data is not None and data.uid and datasets.load(connection, data.uid) is None:
            raise FailedPrecondition("DATASET_NOT_READY", "The dataset was deleted meanwhile; upload it again.")
