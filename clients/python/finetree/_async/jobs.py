# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC109 - the parameters are the synchronous client's; a timeout becomes the call's deadline
"""Calls of the trainer about jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.trainer.v1 import capacity_pb2, comparison_pb2, job_pb2, trainer_pb2
from finetree_api.types.v1 import hardware_pb2, weights_pb2

from finetree._async.job import AsyncJob
from finetree._async.pages import AsyncPages
from finetree._async.trainer.serving import AsyncServing, located
from finetree._async.transport import AsyncTransport
from finetree._shared import rpcs, trainer_requests
from finetree._shared.requests import SpecLike
from finetree._shared.trainer import exports, serving
from finetree._shared.trainer.exports import ExportFields
from finetree._shared.trainer.weights import WeightsLike, job_of
from finetree._shared.trainer_requests import (
    Axis,
    DatasetLike,
    JobFields,
    JobLike,
    ModelLike,
    PlanLike,
    RecommendationLike,
    full_name,
)
from finetree.spec import model_of


class AsyncJobCalls:
    """Jobs of the client's project."""

    _transport: AsyncTransport

    async def train(
        self,
        spec: SpecLike | recommendation_pb2.RecommendResponse,
        *,
        recommendation: RecommendationLike | None = None,
        approved_plan: PlanLike | None = None,
        init_from: WeightsLike | None = None,
        timeout: float | None = None,
        request_id: str = "",
        **fields: Unpack[JobFields],
    ) -> AsyncJob:
        """Create a job that fine-tunes a model.

        Args:
            spec: a RunSpec, or its proto JSON as a dict; or a recommendation, whose recipe is trained.
            recommendation: the answer that the spec comes from; the job keeps what it says.
            approved_plan: plan that must hold, from `validate_job` or `plan_of`; None means any.
            init_from: weights that the run starts from, as `trained_weights` takes them; a spec without a model then
                gets the model of the job that made them, and without a method theirs. None means what the spec says,
                else the base model.
            timeout: as in `create_job`.
            request_id: as in `create_job`.
            fields: as in `create_job`.

        Raises:
            FailedPrecondition: NO_METHOD_TRAINS: the recommendation has no recipe; the message says why.
            PlanDrift: the plan is not the approved one; `violations` names each field that differs.
            FinetreeError: what `create_job` raises.
        """
        start = None if init_from is None else await self.trained_weights(init_from)
        task = trainer_requests.train_task(
            spec, recommendation=recommendation, approved_plan=approved_plan, init_from=start
        )
        if start is not None and not task.spec.model.WhichOneof("source") and job_of(start):
            task.spec.model.CopyFrom(model_of(await self.get_job(job_of(start))))
        return await self.create_job(task, timeout=timeout, request_id=request_id, **fields)

    async def trained_weights(self, source: WeightsLike) -> weights_pb2.TrainedWeights:
        """Name trained weights by what a caller has in hand, with the hash of their content where it is known.

        Args:
            source: a job, whose newest adapter or model is meant; an Artifact or a Checkpoint; a text: the name or id
                of a job, "JOB@STEP" for its checkpoint of a step, the name of an artifact or a checkpoint, else the
                path of an adapter folder under a model root of the trainer, with a "/" ("./mine" lies in the root
                itself); or a TrainedWeights.

        Raises:
            InvalidArgument: the step of "JOB@STEP" is no number.
            NotFound: JOB_NOT_FOUND; ARTIFACT_NOT_FOUND: the job has trained nothing, or not yet.
        """
        return await located(self._transport, source, "weights")

    async def prepare(
        self,
        *,
        model: ModelLike | None = None,
        dataset: DatasetLike | None = None,
        evaluation_dataset: DatasetLike | None = None,
        split_fraction: float | None = None,
        sequence_length: int | None = None,
        loss_tokens: str | int = 0,
        seed: int | None = None,
        timeout: float | None = None,
        request_id: str = "",
        **fields: Unpack[JobFields],
    ) -> AsyncJob:
        """Create a job that fetches a base model, reports on a dataset as training would see it, or both.

        Args:
            model: a name of the catalog, a hub id ("organization/name", with "@" and a revision if need be), or a
                ModelSource. Without one the rows are checked and counted in characters.
            dataset: name or short id of a dataset, or a DatasetSource.
            evaluation_dataset: held-out data to report on too.
            split_fraction: share of the training rows to hold out, where there is no evaluation dataset.
            sequence_length: tokens that rows would be truncated to.
            loss_tokens: "completions", "all" or "last_completion"; 0 means the server's default.
            seed: decides which rows are held out.
            timeout: as in `create_job`.
            request_id: as in `create_job`.
            fields: as in `create_job`.

        Raises:
            InvalidArgument: neither a model nor a dataset is named, or a field is wrong.
            FinetreeError: what `create_job` raises.
        """
        task = trainer_requests.prepare_task(
            model=model,
            dataset=dataset,
            evaluation_dataset=evaluation_dataset,
            split_fraction=split_fraction,
            sequence_length=sequence_length,
            loss_tokens=loss_tokens,
            seed=seed,
        )
        return await self.create_job(task, timeout=timeout, request_id=request_id, **fields)

    async def export(
        self,
        artifact: WeightsLike,
        *,
        timeout: float | None = None,
        request_id: str = "",
        **fields: Unpack[ExportFields],
    ) -> AsyncJob:
        """Create a job that merges trained weights into their base, or writes them for another program.

        The file is read back and asked prompts; where it answers otherwise than the trained model, beyond what its
        number format rounds, the job fails with EXPORT_DIFFERS and nothing is published.

        Args:
            artifact: what is exported: resource name of an artifact or a checkpoint; a job's handle, name or short id,
                whose artifact is meant, or "JOB@STEP" for its checkpoint; or TrainedWeights, such as
                {"path": "adapter"} under a model root.
            timeout: as in `create_job`.
            request_id: as in `create_job`.
            fields: `format` ("transformers", "gguf" or "gguf_lora"; the first where none is given), `weight_type`
                ("f32", "f16", "bf16" or "q8_0"), `base` (a model, in place of the one that the weights were trained
                on), `prompts` (a dataset whose prompts are asked), `max_prompts`, `max_new_tokens`; and as in
                `create_job`.

        Raises:
            InvalidArgument: NOT_MERGEABLE, MERGE_INTO_QUANTIZED, EXPORT_ARCHITECTURE_UNSUPPORTED,
                EXPORT_FORMAT_UNSUPPORTED, WRONG_BASE, WEIGHTS_UNREADABLE.
            NotFound: ARTIFACT_NOT_FOUND, CHECKPOINT_NOT_FOUND, WEIGHTS_NOT_FOUND.
            ResourceExhausted: EXPORT_TOO_LARGE: `metadata` says how many bytes are needed and free.
            FinetreeError: what `create_job` raises.
        """
        weights = await located(self._transport, artifact, "artifact")
        template = exports.export_template(weights, fields)
        return await self.create_job(template, timeout=timeout, request_id=request_id)

    async def serve(
        self,
        model: ModelLike | AsyncJob,
        *,
        targets: Mapping[str, WeightsLike] | None = None,
        precision: str | int = 0,
        quantization: str | int | None = None,
        hardware: hardware_pb2.Hardware | Mapping[str, Any] | None = None,
        lease: float | None = None,
        yield_after: float | None = None,
        max_context_tokens: int | None = None,
        max_parallel: int | None = None,
        timeout: float | None = None,
        request_id: str = "",
        **fields: Unpack[JobFields],
    ) -> AsyncServing:
        """Keep a base model loaded, with trained weights on it, to talk to them. As a context it is ended at the end.

        Args:
            model: a model, as in `prepare`; or a job, as a handle or resource name, whose base model is meant.
            targets: trained weights by the names that they get, as `load` of a Serving takes them; None means none, of
                a job its own as "trained".
            precision: of the base: "bf16" or "fp32"; 0 means the server's choice.
            quantization: of the base's linear layers, such as "nf4"; None means none.
            hardware: device, as in a RunSpec; None means the server's first kind.
            lease: seconds without a question after which it ends by itself; None means 600.
            yield_after: seconds without a question after which it gives way to a waiting job; None means 60.
            max_context_tokens: longest prompt and answer together; None means the model's, at most 8192.
            max_parallel: answers that are decoded together; None means 8.
            timeout: as in `create_job`.
            request_id: as in `create_job`.
            fields: as in `create_job`.

        Raises:
            ResourceExhausted: OUT_OF_MEMORY_PREFLIGHT: it does not fit beside what runs; the message has the figures.
            InvalidArgument: WRONG_BASE: weights of another base model; WEIGHTS_UNREADABLE, MODEL_PICKLED.
            NotFound: ARTIFACT_NOT_FOUND, CHECKPOINT_NOT_FOUND, WEIGHTS_NOT_FOUND.
            FinetreeError: what else `create_job` raises.
        """
        job = serving.named_job(model)
        if job:
            targets = {serving.TRAINED: job} if targets is None else targets
            model = serving.base_of(await self.get_job(job))
        task = serving.serve_task(
            model,  # type: ignore[arg-type]  # a job is its base model now
            [
                serving.target(name, await located(self._transport, weights, f"targets.{name}"))
                for name, weights in (targets or {}).items()
            ],
            precision=precision,
            quantization=quantization,
            hardware=hardware,
            lease=lease,
            yield_after=yield_after,
            max_context_tokens=max_context_tokens,
            max_parallel=max_parallel,
        )
        created = await self.create_job(task, timeout=timeout, request_id=request_id, **fields)
        return AsyncServing(self._transport, created)

    def serving(self, name: str) -> AsyncServing:
        """Make a handle on a job that serves, without a call.

        Args:
            name: resource name, or the short id of a job of the client's project.
        """
        return AsyncServing(self._transport, self.job(name))

    async def validate_job(
        self, job: JobLike, *, timeout: float | None = None, **fields: Unpack[JobFields]
    ) -> trainer_pb2.ValidateJobResponse:
        """Check a job without creating it: every default filled in, the checks, the estimate and the plan.

        Takes what `create_job` takes and raises what it raises.
        """
        template = trainer_requests.job_template(job, **fields)
        request = trainer_requests.validate_job(self._transport.options.project, template)
        return await self._transport.unary(rpcs.VALIDATE_JOB, request, timeout=timeout)

    async def create_job(
        self, job: JobLike, *, timeout: float | None = None, request_id: str = "", **fields: Unpack[JobFields]
    ) -> AsyncJob:
        """Create a job. When it returns, the job is durable.

        Args:
            job: a RunSpec to train, its proto JSON as a dict, or a recommendation; a TrainTask, PrepareTask,
                EvaluateTask, ExportTask or ServeTask; or a whole JobTemplate (which leaves the fields unused).
            timeout: seconds; None means the client's timeout, else 30.
            request_id: idempotency key; the same one gives the same job, for ever. Empty: a new one, once per call.
            fields: display_name, limits that end it cleanly, deadline (its latest end), suspended (created, but not
                queued yet), priority ("LOW", "NORMAL", "HIGH"), retry_policy, labels and annotations.

        Raises:
            InvalidArgument: a field is wrong; `violations` names it. METHOD_NOT_SUPPORTED, SETTING_NOT_SUPPORTED,
                TASK_NOT_SUPPORTED: `capacity` says what the server trains. CURRENCY_MISMATCH.
            NotFound: MODEL_NOT_FOUND, DATASET_NOT_FOUND.
            AlreadyExists: REQUEST_ID_REUSED: the request_id made another job.
            PlanDrift: the plan is not the approved one.
            FailedPrecondition: NO_METHOD_TRAINS, DATASET_NOT_READY, MODEL_NOT_PREPARED, NO_SUCH_DEVICE, JOB_DELETED.
            PermissionDenied: PATH_OUTSIDE_ROOTS.
            ResourceExhausted: QUEUE_FULL, DISK_FULL, OUT_OF_MEMORY_PREFLIGHT.
        """
        template = trainer_requests.job_template(job, **fields)
        request = trainer_requests.create_job(self._transport.options.project, template, request_id)
        created = await self._transport.unary(rpcs.CREATE_JOB, request, timeout=timeout, request_id=request.request_id)
        return AsyncJob(self._transport, created.job.name, snapshot=created.job, request_id=request.request_id)

    def job(self, name: str) -> AsyncJob:
        """Make a handle on a job, without a call.

        Args:
            name: resource name, or the short id of a job of the client's project.
        """
        return AsyncJob(self._transport, full_name(self._transport.options.project, "jobs", name))

    async def get_job(self, name: str, *, timeout: float | None = None) -> job_pb2.Job:
        """Get a job as a message; `job` makes a handle.

        Args:
            name: resource name or short id.
            timeout: seconds; None means the client's timeout, else 10.

        Raises:
            NotFound: JOB_NOT_FOUND.
        """
        request = trainer_pb2.GetJobRequest(name=full_name(self._transport.options.project, "jobs", name))
        return (await self._transport.unary(rpcs.GET_JOB, request, timeout=timeout)).job

    def list_jobs(
        self,
        *,
        states: Sequence[str | int] = (),
        tasks: Sequence[str | int] = (),
        labels: Mapping[str, str] | None = None,
        page_size: int = 0,
        limit: int | None = None,
        page_token: str = "",
        timeout: float | None = None,
    ) -> AsyncPages[job_pb2.Job]:
        """List the jobs of the project, newest first.

        Args:
            states: only jobs in one of these states, such as "running"; empty means all.
            tasks: only jobs with one of these tasks: "train", "prepare", "evaluate", "export", "serve"; empty: all.
            labels: only jobs with all of these labels.
            page_size: largest page; 0 means the server's choice.
            limit: items in all; None means every one.
            page_token: `next_page_token` of a page of this list, to continue behind it; empty means the beginning.
            timeout: seconds for each page; None means the client's timeout, else 10.
        """
        project = self._transport.options.project
        listing = trainer_requests.list_jobs(project, states=states, tasks=tasks, labels=labels, page_size=page_size)
        return AsyncPages(self._transport, listing, timeout, limit=limit, page_token=page_token)

    async def compare_jobs(
        self,
        names: Sequence[str],
        *,
        metrics: Sequence[str] = (),
        axis: Axis | int = "STEP",
        points: int = 100,
        last_steps: int = 20,
        samples: int = 10,
        timeout: float | None = None,
    ) -> comparison_pb2.CompareJobsResponse:
        """Lay jobs that train side by side: settings, curves, metrics with intervals, time, memory, cost and answers.

        A best job is named only where it is told apart on the same held-out rows; `remarks` say why not.

        Args:
            names: 2 to 16 resource names or short ids.
            metrics: metrics with curves; empty means loss and eval_loss.
            axis: what curves are aligned by: "STEP", "EPOCH" or "TOKENS".
            points: most points of a curve, at most 1000.
            last_steps: newest steps that the training loss is the mean of.
            samples: most prompts whose answers are shown.
            timeout: seconds; None means the client's timeout, else 60.

        Raises:
            NotFound: JOB_NOT_FOUND.
            FailedPrecondition: NOT_COMPARABLE: a job does not train.
        """
        request = trainer_requests.compare_jobs(
            self._transport.options.project,
            names,
            metrics=metrics,
            axis=axis,
            points=points,
            last_steps=last_steps,
            samples=samples,
        )
        return await self._transport.unary(rpcs.COMPARE_JOBS, request, timeout=timeout)

    async def capacity(
        self, *, wait_for_rate: float = 0.0, timeout: float | None = None
    ) -> capacity_pb2.GetCapacityResponse:
        """Get what the trainer runs on, what it can train and what runs now.

        Args:
            wait_for_rate: seconds, at most 30, to wait for the measured matrix rates of a node that has none yet.
            timeout: seconds beyond that; None means the client's timeout, else 10.
        """
        own = timeout if timeout is not None else self._transport.options.timeout or rpcs.QUICK
        request = trainer_requests.get_capacity(wait_for_rate)
        return await self._transport.unary(rpcs.GET_CAPACITY, request, timeout=own + wait_for_rate)
