# SPDX-License-Identifier: Apache-2.0
"""Jobs: created once for each request, read, listed, cancelled."""

from collections.abc import Mapping, Sequence

from finetree_api.trainer.v1 import job_pb2, trainer_pb2
from finetree_runtime.errors import FailedPrecondition, ResourceExhausted
from finetree_runtime.ids import ResourceName, uuid7
from sqlalchemy import Connection, select

from finetree_trainer.disk import require_space
from finetree_trainer.idempotency import body_hash
from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.joblog.transaction import Draft, timestamp
from finetree_trainer.jobs.planner import Plan, Planner
from finetree_trainer.scheduling.queue import Scheduler
from finetree_trainer.settings import Settings
from finetree_trainer.store import datasets, jobs, schema
from finetree_trainer.store.jobs import JobRow
from finetree_trainer.workers.supervisor import Supervisor

_METHOD = "CreateJob"
LIST_LEAVES_OUT = ("setting_sources", "recommendation_json")
"""Fields of a job that a list does not carry."""


class Jobs:
    """What the trainer's clients may do with jobs."""

    def __init__(
        self, log: EventLog, planner: Planner, scheduler: Scheduler, supervisor: Supervisor, settings: Settings
    ) -> None:
        self._log, self._planner, self._scheduler = log, planner, scheduler
        self._supervisor, self._settings = supervisor, settings

    async def validate(self, project: str, request: trainer_pb2.JobRequest) -> Plan:
        """What would run. Raises what `create` raises."""
        return await self._planner.plan(project, request)

    async def create(
        self, project: str, owner: str, request: trainer_pb2.JobRequest, *, request_id: str, validate_only: bool = False
    ) -> job_pb2.Job:
        """Create a job; durable when it returns. The same request id and body give the same job, for ever.

        With `validate_only` nothing is created, and the job that comes back has no name.
        """
        hashed = body_hash(request, "trace_context")
        if (existing := await self._existing(project, request_id, hashed)) is not None:
            return self.to_message(existing)
        plan = await self._planner.plan(project, request)
        record = self._record(project, owner, request, plan)
        record.request_id = request_id
        if validate_only:
            record.ClearField("name")
            record.ClearField("uid")
            return record
        require_space(self._settings.data_dir, self._settings.disk_reserve_bytes)

        def make(connection: Connection, now: int) -> Draft | JobRow:
            known = jobs.claim_request_id(
                connection, project, request_id, method=_METHOD, body_hash=hashed, resource=record.uid, now=now
            )
            if known is not None:
                return _still_there(jobs.load(connection, known))
            waiting = jobs.count_in_state(connection, job_pb2.JOB_STATE_QUEUED)
            if waiting >= self._settings.max_queued:
                text = f"{waiting} jobs wait; try again when some have run."
                raise ResourceExhausted("QUEUE_FULL", text, retry_delay=30.0)
            for data in (plan.data, plan.evaluation):
                if data is not None and data.uid and datasets.load(connection, data.uid) is None:
                    raise FailedPrecondition("DATASET_NOT_READY", "The dataset was deleted meanwhile; upload it again.")
            return _insert(connection, record, plan, owner=owner, project=project, now=now)

        return self.to_message(await self._log.create(make))

    async def get(self, uid: str) -> job_pb2.Job:
        """A job. Raises NotFound JOB_NOT_FOUND."""
        return self.to_message(await self._log.row(uid))

    async def page(
        self, project: str, *, before: str, limit: int, states: Sequence[int], labels: Mapping[str, str]
    ) -> list[job_pb2.Job]:
        """Jobs of a project, newest first, older than the uid `before`."""
        rows = await self._log.store.read(
            lambda connection: jobs.page(connection, project, before=before, limit=limit, states=states, labels=labels)
        )
        found = [self.to_message(row) for row in rows]
        for job in found:
            for name in LIST_LEAVES_OUT:
                job.ClearField(name)  # type: ignore[arg-type]  # names from the tuple above
        return found

    async def cancel(self, uid: str, *, save: bool, why: str = "Cancelled on request.") -> job_pb2.Job:
        """Ask a job to stop, saving a checkpoint first if `save`. An ended job stays as it is."""

        def decide(draft: Draft, _connection: Connection) -> None:
            if draft.finished:
                return
            draft.row.cancel_requested = draft.row.cancel_requested or draft.now
            draft.changed = True
            if draft.row.state in states.WITH_WORKER:
                if draft.row.state != job_pb2.JOB_STATE_CANCELLING:
                    draft.move(job_pb2.JOB_STATE_CANCELLING, "CANCEL_REQUESTED", why)
            else:
                draft.finish(job_pb2.JOB_STATE_CANCELLED, "CANCELLED", why)

        row = (await self._log.change(uid, decide)).row
        if row.state == job_pb2.JOB_STATE_CANCELLING:
            self._supervisor.cancel(uid, row.attempt, save=save)
        return await self.get(uid)

    def to_message(self, row: JobRow) -> job_pb2.Job:
        """A row, with its record, as the contract shows it."""
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
        job.queue_position, job.blocked_by = self._scheduler.place(row.uid)
        return job

    async def _existing(self, project: str, request_id: str, hashed: str) -> JobRow | None:
        """The job that a request id has made already. Asked before planning, whose inputs may be gone by now."""
        if not request_id:
            return None
        ids = schema.request_ids.c
        chosen = (ids.project == project) & (ids.request_id == request_id)

        def load(connection: Connection) -> JobRow | None:
            if connection.execute(select(ids.resource).where(chosen)).first() is None:
                return None
            known = jobs.claim_request_id(
                connection, project, request_id, method=_METHOD, body_hash=hashed, resource="", now=0
            )
            return _still_there(jobs.load(connection, known or ""))

        return await self._log.store.read(load)

    def _record(self, project: str, owner: str, request: trainer_pb2.JobRequest, plan: Plan) -> job_pb2.Job:
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
        if plan.kind == job_pb2.JOB_KIND_TRAIN:
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


def _insert(connection: Connection, record: job_pb2.Job, plan: Plan, *, owner: str, project: str, now: int) -> Draft:
    snapshot = job_pb2.Job(kind=record.kind)
    if record.cost.currency_code:
        snapshot.cost.basis = "hourly price of the estimate times the time that it runs"
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
    draft = Draft(row, now)
    draft.move(job_pb2.JOB_STATE_QUEUED, "WAITING_FOR_DEVICE", f"Waits for {plan.device.id}.")
    return draft


def _still_there(row: JobRow | None) -> JobRow:
    if row is None:
        raise FailedPrecondition("JOB_DELETED", "This request made a job that was deleted; use a new request_id.")
    return row
