# SPDX-License-Identifier: Apache-2.0
"""Calls of the trainer about jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

from finetree_api.trainer.v1 import capacity_pb2, job_pb2, trainer_pb2

from finetree._shared import methods
from finetree._shared.channels import new_request_id
from finetree._shared.requests import (
    JobFields,
    SpecLike,
    capacity_request,
    enum_number,
    full_name,
    job_request,
    parent,
)
from finetree._sync.job import Job
from finetree._sync.pages import Pages
from finetree._sync.transport import Transport


class Jobs:
    """Jobs of the client's project."""

    _transport: Transport

    def validate_job(
        self,
        spec: SpecLike | job_pb2.JobTemplate,
        *,
        timeout: float | None = None,
        **fields: Unpack[JobFields],
    ) -> trainer_pb2.ValidateJobResponse:
        """Check a job without creating it: every default filled in, the checks, the estimate and the digest.

        Takes what `create_job` takes and raises what it raises.
        """
        job = job_request(spec, **fields)
        request = trainer_pb2.ValidateJobRequest(parent=parent(self._transport.options.project), job=job)
        return self._transport.unary(methods.VALIDATE_JOB, request, timeout=timeout)

    def create_job(
        self,
        spec: SpecLike | job_pb2.JobTemplate,
        *,
        timeout: float | None = None,
        request_id: str = "",
        **fields: Unpack[JobFields],
    ) -> Job:
        """Create a job. When it returns, the job is durable.

        Args:
            spec: a RunSpec, its proto JSON as a dict, or a whole JobRequest (which leaves the rest unused).
            display_name: name for people.
            kind: "TRAIN", "PREPARE" or "EXPORT".
            limits: limits that end it cleanly.
            deadline: latest end.
            suspended: created, but not to be queued yet.
            labels: indexed labels.
            annotations: free annotations.
            plan_digest: digest that must hold, from `validate_job`, `recommend` or `estimate`; empty means none.
            recommendation: the answer that the spec comes from, to be kept with the job.
            timeout: seconds; None means the client's timeout, else 30.
            request_id: idempotency key; the same one gives the same job, for ever. Empty: a new one, once per call.

        Raises:
            InvalidArgument: a field is wrong; `violations` names it.
            NotFound: MODEL_NOT_FOUND, DATASET_NOT_FOUND.
            AlreadyExists: REQUEST_ID_REUSED: the request_id made another job.
            PlanDrift: the plan is not the approved one.
            FailedPrecondition: DATASET_NOT_READY, MODEL_NOT_PREPARED, NO_SUCH_DEVICE, JOB_DELETED.
            PermissionDenied: PATH_OUTSIDE_ROOTS.
            ResourceExhausted: QUEUE_FULL, DISK_FULL.
        """
        job = job_request(spec, **fields)
        request_id = request_id or new_request_id()
        request = trainer_pb2.CreateJobRequest(
            parent=parent(self._transport.options.project), job=job, request_id=request_id
        )
        created = self._transport.unary(methods.CREATE_JOB, request, timeout=timeout, request_id=request_id)
        return Job(self._transport, created.job.name, created.job, request_id)

    def job(self, name: str) -> Job:
        """A handle on a job, without a call.

        Args:
            name: resource name, or the short id of a job of the client's project.
        """
        return Job(self._transport, full_name(self._transport.options.project, "jobs", name))

    def get_job(self, name: str, *, timeout: float | None = None) -> job_pb2.Job:
        """A job as it is now.

        Args:
            name: resource name or short id.
            timeout: seconds; None means the client's timeout, else 10.

        Raises:
            NotFound: JOB_NOT_FOUND.
        """
        request = trainer_pb2.GetJobRequest(name=full_name(self._transport.options.project, "jobs", name))
        return self._transport.unary(methods.GET_JOB, request, timeout=timeout).job

    def list_jobs(
        self,
        *,
        states: Sequence[str | int] = (),
        labels: Mapping[str, str] | None = None,
        page_size: int = 0,
        timeout: float | None = None,
    ) -> Pages[job_pb2.Job]:
        """Jobs of the project, newest first, fetched page by page.

        Args:
            states: only jobs in one of these states, such as "running"; empty means all.
            labels: only jobs with all of these labels.
            page_size: largest page; 0 means the server's choice.
            timeout: seconds for each page; None means the client's timeout, else 10.
        """
        request = trainer_pb2.ListJobsRequest(
            parent=parent(self._transport.options.project),
            states=[enum_number(job_pb2.JobState, "JOB_STATE_", state, "states") for state in states],
            labels=labels or {},
            page_size=page_size,
        )

        def fetch(token: str) -> tuple[list[job_pb2.Job], str]:
            request.page_token = token
            page = self._transport.unary(methods.LIST_JOBS, request, timeout=timeout)
            return list(page.jobs), page.next_page_token

        return Pages(fetch)

    def capacity(self, *, wait_for_rate: float = 0.0, timeout: float | None = None) -> capacity_pb2.GetCapacityResponse:
        """What the trainer can run and what runs now.

        Args:
            wait_for_rate: seconds, at most 30, to wait for the measured matrix rate of a host that has none yet.
            timeout: seconds beyond that; None means the client's timeout, else 10.
        """
        own = timeout if timeout is not None else self._transport.options.timeout or methods.QUICK
        request = capacity_request(wait_for_rate)
        return self._transport.unary(methods.GET_CAPACITY, request, timeout=own + wait_for_rate)
