# SPDX-License-Identifier: Apache-2.0
"""Plans jobs: every default filled in, every input located, the run estimated and held against what was approved."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from finetree.display.units import GIB
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.trainer.v1 import evaluation_pb2, job_pb2, serving_pb2
from finetree_api.types.v1 import (
    check_pb2,
    estimate_summary_pb2,
    evidence_pb2,
    hardware_pb2,
    run_spec_pb2,
    training_pb2,
)
from finetree_runtime.errors import InvalidArgument, ResourceExhausted, invalid_field
from finetree_runtime.runspec.conflicts import combination_problem, sequence_problem
from finetree_runtime.runspec.digest import make_plan
from finetree_runtime.runspec.number_formats import slow_format_problem, times_slower
from finetree_runtime.runspec.resolve import resolve_spec
from google.protobuf.message import Message

from finetree_trainer import estimator as estimates
from finetree_trainer.jobs import capabilities
from finetree_trainer.jobs.approval import require_approved
from finetree_trainer.jobs.evaluation.planner import EvaluationPlanner, require_no_choices
from finetree_trainer.jobs.evaluation_settings import require_evaluations
from finetree_trainer.jobs.export.planner import ExportPlanner
from finetree_trainer.jobs.inputs import Inputs, PlannedDataset, require_accepted
from finetree_trainer.jobs.serving.plan import ServingPlanner
from finetree_trainer.models import locate, weight_settings
from finetree_trainer.models.locate import BaseModel
from finetree_trainer.models.weights import LocatedWeights, WeightsLocator, require_base
from finetree_trainer.scheduling.demand import figures_of
from finetree_trainer.scheduling.devices import CPU, Device, matching, resolve_hardware

_TRAIN, _PREPARE = "job.train", "job.prepare"
_SPEC = f"{_TRAIN}.spec"


_KINDS: dict[type[Message], job_pb2.TaskKind.ValueType] = {
    job_pb2.TrainTask: job_pb2.TASK_KIND_TRAIN,
    job_pb2.PrepareTask: job_pb2.TASK_KIND_PREPARE,
    job_pb2.ExportTask: job_pb2.TASK_KIND_EXPORT,
    evaluation_pb2.EvaluateTask: job_pb2.TASK_KIND_EVALUATE,
    serving_pb2.ServeTask: job_pb2.TASK_KIND_SERVE,
}


@dataclass(slots=True)
class PlannedJob:
    """A job as it will run. `device` is the kind of device that it waits for."""

    task: (
        job_pb2.TrainTask
        | job_pb2.PrepareTask
        | job_pb2.ExportTask
        | evaluation_pb2.EvaluateTask
        | serving_pb2.ServeTask
    )
    model: BaseModel | None
    device: str
    data: PlannedDataset | None = None
    evaluation: PlannedDataset | None = None
    checks: list[check_pb2.Check] = field(default_factory=list)
    remarks: list[check_pb2.Remark] = field(default_factory=list)
    estimate: estimate_summary_pb2.EstimateSummary | None = None
    weights: tuple[LocatedWeights, ...] = ()
    """Trained weights that the task starts from or works with."""
    plan: run_spec_pb2.Plan | None = None
    """The plan of a training run; None when nothing is trained or there is no estimate."""

    @property
    def kind(self) -> job_pb2.TaskKind.ValueType:
        """The kind of the task."""
        return _KINDS[type(self.task)]


class Planner:
    """Plans jobs. `capacity(device)` is the most memory of a device that a job could ever have, bytes."""

    def __init__(
        self,
        inputs: Inputs,
        weights: WeightsLocator,
        *,
        devices: Sequence[Device],
        estimator: estimates.Estimator,
        rates: estimates.Rates,
        capacity: Callable[[Device], int],
        evaluations: EvaluationPlanner,
        serving: ServingPlanner,
        exports: ExportPlanner,
    ) -> None:
        self._inputs, self._weights, self._devices = inputs, weights, devices
        self._evaluations, self._serving, self._exports = evaluations, serving, exports
        self._estimator, self._rates, self._capacity = estimator, rates, capacity

    async def plan(self, project: str, template: job_pb2.JobTemplate) -> PlannedJob:
        """Plan a job. Raises the errors that CreateJob documents."""
        task = template.WhichOneof("task")
        if task is None:
            raise invalid_field("job.task", "is needed: set train, prepare, export, evaluate or serve")
        capabilities.require_task(task)
        if task == "prepare":
            return await self._plan_prepare(project, template.prepare)
        if task == "evaluate":
            return await self._plan_evaluate(project, template)
        if task == "export":
            export = await self._exports.plan(project, template.export)
            return PlannedJob(
                export.task,
                export.model,
                CPU,
                export.data,
                export.evaluation,
                remarks=export.remarks,
                weights=(export.weights,),
            )
        if task == "serve":
            planned = await self._serving.plan(project, template.serve)
            return PlannedJob(
                planned.task,
                planned.model,
                planned.device.kind,
                checks=planned.checks,
                estimate=planned.estimate,
                weights=planned.weights,
            )
        return await self._plan_train(project, template)

    async def _plan_prepare(self, project: str, asked: job_pb2.PrepareTask) -> PlannedJob:
        task = job_pb2.PrepareTask()
        task.CopyFrom(asked)
        model = await self._inputs.model(task.model, f"{_PREPARE}.model") if task.HasField("model") else None
        if model is not None and not model.origin:
            # Nothing can be fetched or converted: it has to be here.
            locate.require_prepared(model, f"{_PREPARE}.model")
        data = await self._inputs.dataset(project, task.dataset, f"{_PREPARE}.dataset")
        field_path = f"{_PREPARE}.evaluation_dataset"
        evaluation = await self._inputs.dataset(project, task.evaluation_dataset, field_path)
        _fill_prepare(task)
        return PlannedJob(task, model, CPU, data, evaluation)

    async def _plan_evaluate(self, project: str, template: job_pb2.JobTemplate) -> PlannedJob:
        found = await self._evaluations.plan(project, template.evaluate)
        job = PlannedJob(found.task, found.model, found.device.kind, found.examples, found.rows, weights=found.weights)
        job.remarks.extend(found.remarks)
        if template.limits.HasField("max_cost"):
            _check_currency(template.limits.max_cost.currency_code, job)
        return job

    async def _plan_train(self, project: str, template: job_pb2.JobTemplate) -> PlannedJob:
        asked = template.train
        task = job_pb2.TrainTask()
        task.CopyFrom(asked)
        spec = task.spec
        if not spec.HasField("init_from"):
            capabilities.require_method(spec)
        model = await self._inputs.model(spec.model, f"{_SPEC}.model")
        locate.require_prepared(model, f"{_SPEC}.model")
        weights, adopted = await self._go_on_from(project, spec, model)
        capabilities.require_method(spec)
        data = await self._inputs.dataset(project, spec.dataset, f"{_SPEC}.dataset")
        if data is None:
            raise invalid_field(f"{_SPEC}.dataset", "is needed to train; name a dataset or a path")
        require_no_choices(spec.dataset, f"{_SPEC}.dataset")
        require_accepted(data, f"{_SPEC}.dataset")
        evaluation = None
        if spec.evaluation.HasField("dataset"):
            field_path = f"{_SPEC}.evaluation.dataset"
            evaluation = await self._inputs.dataset(project, spec.evaluation.dataset, field_path)
            require_no_choices(spec.evaluation.dataset, field_path)
            require_accepted(evaluation, field_path)
        device = resolve_hardware(self._devices, spec.hardware, f"{_SPEC}.hardware")
        job = PlannedJob(task, model, device.kind, data, evaluation, weights=weights)
        self._resolve(task, job, adopted=adopted)
        present = await self._estimate(task, job, device)
        self._require_memory(job, device)
        if asked.HasField("approved_plan"):
            require_approved(asked.approved_plan, present)
            if job.plan is not None:
                # The digest that people approved is the one that events, artifacts and trackers show.
                job.plan.digest = asked.approved_plan.digest
        for name in ("max_cost", "max_lost_cost"):
            if template.limits.HasField(name):
                _check_currency(getattr(template.limits, name).currency_code, job, name)
        return job

    async def _go_on_from(
        self, project: str, spec: run_spec_pb2.RunSpec, model: BaseModel
    ) -> tuple[tuple[LocatedWeights, ...], list[str]]:
        """Locate the weights that a run starts from, and take their settings over; return what they have filled in.

        The spec then names their content, so that the plan's digest covers it. Raises the errors of trained weights
        that CreateJob documents.
        """
        if not spec.HasField("init_from"):
            return (), []
        place = f"{_SPEC}.init_from"
        weights = await self._weights.locate(project, spec.init_from, place)
        await asyncio.to_thread(require_base, weights, model, place)
        adopted = weight_settings.adopt(spec, weights, _SPEC)
        kind = spec.init_from.WhichOneof("source")
        if kind != "path":
            # An id alone belongs to the caller's project: the full name means the same to everybody.
            setattr(spec.init_from, kind or "", weights.name)
        spec.init_from.sha256 = weights.sha256
        return (weights,), adopted

    def _resolve(self, task: job_pb2.TrainTask, job: PlannedJob, *, adopted: Sequence[str]) -> None:
        """Fill in every default of the spec; settings in `adopted` are those of the weights that it starts from.

        Raises InvalidArgument for settings that cannot be trained.
        """
        assert job.data is not None  # noqa: S101 - a run without data was refused
        assert job.model is not None  # noqa: S101 - and one without a model
        positions = locate.positions(job.model)
        resolved = resolve_spec(task.spec, profile=job.data.profile, positions=positions, matrix_rates=self._rates())
        sources = _merge_sources(resolved.sources, task.setting_sources, adopted)
        task.spec.CopyFrom(resolved.spec)
        del task.setting_sources[:]
        task.setting_sources.extend(sources)
        problem = combination_problem(task.spec) or sequence_problem(task.spec, positions)
        if problem is not None:
            path = f"{_SPEC}.{problem.field_path}"
            violations = [(path, problem.message, problem.reason)]
            raise InvalidArgument(problem.reason, f"{path}: {problem.message}.", violations=violations)
        _require_fast_format(task.spec, self._rates())
        capabilities.require_settings(task.spec)
        require_evaluations(task.spec)

    def _require_memory(self, job: PlannedJob, device: Device) -> None:
        """Raise ResourceExhausted OUT_OF_MEMORY_PREFLIGHT for a run that could not even start alone."""
        assert isinstance(job.task, job_pb2.TrainTask)  # noqa: S101 - nothing else is trained
        # Processes on a CPU share its memory; GPUs have each their own.
        sharers = job.task.spec.hardware.count if device.id == CPU else 1
        figures = figures_of(job.estimate.device_bytes) if job.estimate is not None else ()
        # A node that is larger than the first one may be there, or come.
        alike = matching(self._devices, job.task.spec.hardware, f"{_SPEC}.hardware")
        device = max(alike, key=self._capacity, default=device)
        capacity = self._capacity(device) // max(1, sharers)
        if not figures or figures[-1] <= capacity:
            return
        who = f"each of the {sharers} processes" if sharers > 1 else "the run"
        text = (
            f"{who} needs {figures[-1] / GIB:.1f} GiB at least, and no job can have more than {capacity / GIB:.1f} "
            f"of the {device.total_bytes / GIB:.1f} GiB of {device.display_name}; shorten rows, lower the micro-batch, "
            "or take another device or model"
        )
        metadata = {
            "needed_bytes": str(figures[-1]),
            "capacity_bytes": str(capacity),
            "total_bytes": str(device.total_bytes),
        }
        raise ResourceExhausted("OUT_OF_MEMORY_PREFLIGHT", f"{_SPEC}: {text}.", metadata=metadata, retry_delay=None)

    async def _estimate(self, task: job_pb2.TrainTask, job: PlannedJob, device: Device) -> run_spec_pb2.Plan:
        """Estimate a resolved run; return its plan, whose revision is empty where there is no estimate."""
        profile = job.data.profile if job.data else None
        spec = run_spec_pb2.RunSpec()
        spec.CopyFrom(task.spec)
        if spec.hardware.HasField("cpu") and spec.hardware.cpu.cores != device.threads:
            # What it will have, not what was asked for somewhere else: forecasts and costs depend on it.
            asked = spec.hardware.cpu.cores
            text = f"The estimate is for the {device.threads} cores that a job has here, not for {asked}."
            job.remarks.append(_remark("CORES_OF_A_SLOT", text, f"{_SPEC}.hardware.cpu.cores"))
            spec.hardware.cpu.cores = device.threads
        request = estimate_pb2.EstimateRunRequest(
            spec=spec,
            dataset_profile=profile,
            evaluation_profile=job.evaluation.profile if job.evaluation else None,
            matrix_rates=self._rates(),
        )
        try:
            estimate = await self._estimator.estimate(request)
        except estimates.EstimateUnavailableError as error:
            job.remarks.append(_remark("ESTIMATE_UNAVAILABLE", f"The run has no estimate: {error}"))
            return make_plan(task.spec, profile, evidence_pb2.Revision())
        job.estimate = estimates.summary(estimate)
        job.checks.append(estimates.memory_check(estimate))
        job.remarks.extend(estimate.remarks)
        job.plan = make_plan(task.spec, profile, estimate.revision)
        return job.plan


def _require_fast_format(spec: run_spec_pb2.RunSpec, rates: hardware_pb2.MatrixRates | None) -> None:
    """Raise InvalidArgument NUMBER_FORMAT_TOO_SLOW for a CPU whose bfloat16 was measured to be many times slower."""
    problem = slow_format_problem(spec, rates)
    if problem is None:
        return
    path = f"{_SPEC}.{problem.field_path}"
    raise InvalidArgument(
        problem.reason,
        f"{path}: {problem.message}.",
        violations=[(path, problem.message, problem.reason)],
        metadata={"times_slower": f"{times_slower(rates, spec.WhichOneof('method')):.1f}"},
    )


def _fill_prepare(task: job_pb2.PrepareTask) -> None:
    """Fill in the defaults that PrepareTask documents."""
    if not task.HasField("dataset"):
        return
    if not task.HasField("evaluation_dataset") and not task.HasField("split_fraction"):
        task.split_fraction = 0.0
    task.loss_tokens = task.loss_tokens or training_pb2.LOSS_TOKENS_COMPLETIONS
    if not task.HasField("seed"):
        task.seed = 0


def _check_currency(limit: str, job: PlannedJob, name: str = "max_cost") -> None:
    """Raise InvalidArgument CURRENCY_MISMATCH for a limit, a field of JobLimits, in another currency."""
    if job.estimate is None or not job.estimate.HasField("cost"):
        text = "The cost of the run is unknown, so the limit of its cost has no effect."
        job.remarks.append(_remark("COST_UNKNOWN", text, f"job.limits.{name}"))
        return
    cost = job.estimate.cost.currency_code
    if limit != cost:
        text = f"is {limit}, and the cost of the run is in {cost}; set a limit in {cost}"
        raise invalid_field(f"job.limits.{name}.currency_code", text, "CURRENCY_MISMATCH")


def _merge_sources(
    ours: Iterable[check_pb2.SettingSource], given: Iterable[check_pb2.SettingSource], adopted: Iterable[str]
) -> Sequence[check_pb2.SettingSource]:
    """Sources in field order; of a value in the request, the source that the request gives, if it gives one.

    Values at the paths in `adopted` come from the weights that the run starts from.
    """
    known = {source.field_path: source for source in given}
    reason = "as of the weights that the run starts from"
    for path in adopted:
        known[path] = check_pb2.SettingSource(field_path=path, rule_id=weight_settings.RULE, reason=reason)
    return [known.get(source.field_path, source) if source.rule_id == "request" else source for source in ours]


def _remark(code: str, message: str, field_path: str = "") -> check_pb2.Remark:
    return check_pb2.Remark(code=code, message=message, field_path=field_path)
