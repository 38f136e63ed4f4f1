# SPDX-License-Identifier: Apache-2.0
"""Plans jobs: every default filled in, every input located, the run estimated, the plan hashed."""

import asyncio
import json
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from finetree_api.trainer.v1 import dataset_pb2, job_pb2, trainer_pb2
from finetree_api.types.v1 import evidence_pb2, run_spec_pb2
from finetree_data.contract import reading_of, to_reading
from finetree_data.options import Reading
from finetree_runtime.errors import FailedPrecondition, InvalidArgument, NotFound, Violation, invalid_field
from finetree_runtime.ids import parse_name
from finetree_runtime.runspec.conflicts import combination_problem, sequence_problem
from finetree_runtime.runspec.digest import plan_digest
from finetree_runtime.runspec.paths import difference
from finetree_runtime.runspec.resolve import resolve_spec
from google.protobuf import json_format

from finetree_trainer import estimator as estimates
from finetree_trainer import paths
from finetree_trainer.datasets import validate
from finetree_trainer.datasets.datasets import Datasets
from finetree_trainer.jobs import capabilities
from finetree_trainer.jobs.evaluation_settings import require_evaluations
from finetree_trainer.layout import Layout
from finetree_trainer.models import locate
from finetree_trainer.scheduling import devices
from finetree_trainer.scheduling.devices import Device
from finetree_trainer.store.datasets import DatasetRow

_SPEC = "job.spec"


@dataclass(frozen=True, slots=True)
class PlannedDataset:
    """A dataset of a spec: its file and the profile of its rows. `uid` is "" for a path."""

    file: Path
    profile: run_spec_pb2.DatasetProfile
    uid: str = ""


@dataclass(slots=True)
class Plan:
    """A job as it will run."""

    kind: job_pb2.JobKind.ValueType
    spec: run_spec_pb2.RunSpec
    model: locate.BaseModel
    device: Device
    data: PlannedDataset | None = None
    evaluation: PlannedDataset | None = None
    sources: list[evidence_pb2.SettingSource] = field(default_factory=list)
    checks: list[evidence_pb2.Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    estimate: job_pb2.FrozenEstimate | None = None
    digest: str = ""


class Planner:
    """Plans jobs. `rates` returns the host's measured matrix rates (bf16, fp32) in FLOP/s, 0 when not measured."""

    def __init__(
        self,
        *,
        models: locate.Models,
        datasets: Datasets,
        layout: Layout,
        data_roots: tuple[str, ...],
        found: list[Device],
        estimator: estimates.Estimator,
        rates: Callable[[], tuple[float, float]],
    ) -> None:
        self._models, self._datasets, self._layout, self._data_roots = models, datasets, layout, data_roots
        self._devices, self._estimator, self._rates = found, estimator, rates
        self._profiles: dict[tuple[Path, int, int, Reading], run_spec_pb2.DatasetProfile] = {}

    async def plan(self, project: str, job: trainer_pb2.JobRequest) -> Plan:
        """Plan a job. Raises the errors that CreateJob documents."""
        kind = job.kind or job_pb2.JOB_KIND_TRAIN
        capabilities.require_kind(kind)
        training = kind == job_pb2.JOB_KIND_TRAIN
        if training:
            capabilities.require_method(job.spec)
        model = await self._model(job.spec.model)
        if training or (not model.origin and not model.prepared):
            locate.require_prepared(model)
        spec = run_spec_pb2.RunSpec()
        spec.CopyFrom(job.spec)
        data = await self._data(project, spec.dataset, f"{_SPEC}.dataset", required=training)
        held_out = f"{_SPEC}.evaluation.dataset"
        evaluation = await self._data(project, spec.evaluation.dataset, held_out, required=False)
        device = self._choose_device(spec)
        plan = Plan(kind, spec, model, device, data, evaluation)
        if training:
            await self._complete(plan, job)
        return plan

    async def _model(self, source: run_spec_pb2.ModelSource) -> locate.BaseModel:
        """Locate the base model; a name that is not known here is looked up in the estimator's catalogue."""
        if source.WhichOneof("source") != "name" or locate.is_known(source.name):
            return await asyncio.to_thread(self._models.locate, source)
        try:
            catalogue = await self._estimator.catalogue()
        except estimates.EstimateUnavailableError as error:
            text = f"{_SPEC}.model.name: the catalogue is not available now ({error}); name the model by hub.id"
            raise NotFound("MODEL_NOT_FOUND", text) from error
        hub_id = catalogue.get(source.name.lower(), "")
        if not hub_id:
            raise locate.no_such_name(source.name, catalogue)
        found = run_spec_pb2.ModelSource(hub=run_spec_pb2.HubModel(id=hub_id))
        return await asyncio.to_thread(self._models.locate, found)

    async def _complete(self, plan: Plan, job: trainer_pb2.JobRequest) -> None:
        profile = plan.data.profile if plan.data else None
        positions = locate.positions(plan.model)
        resolved = resolve_spec(plan.spec, profile=profile, positions=positions)
        plan.spec = resolved.spec
        plan.sources = _merge_sources(list(resolved.sources), list(job.setting_sources))
        capabilities.require_settings(plan.spec)
        require_evaluations(plan.spec)
        problem = combination_problem(plan.spec) or sequence_problem(plan.spec, positions)
        if problem is not None:
            path = f"{_SPEC}.{problem.field_path}"
            text = f"{path}: {problem.message}."
            raise InvalidArgument(problem.reason, text, violations=[(path, problem.message, problem.reason)])
        revision = await self._estimate(plan, profile)
        plan.digest = plan_digest(plan.spec, profile, revision)
        if job.plan_digest and job.plan_digest != plan.digest:
            raise _drift(job, plan)

    async def _estimate(self, plan: Plan, profile: run_spec_pb2.DatasetProfile | None) -> evidence_pb2.Revision:
        held_out = plan.evaluation.profile if plan.evaluation else None
        try:
            estimate = await self._estimator.estimate(plan.spec, profile, held_out)
        except estimates.EstimateUnavailableError as error:
            plan.notes.append(str(error))
            return evidence_pb2.Revision()
        plan.estimate = estimates.freeze(estimate)
        plan.checks.append(estimates.memory_check(estimate))
        plan.notes.extend(estimate.notes)
        return estimate.revision

    def _choose_device(self, spec: run_spec_pb2.RunSpec) -> Device:
        """Choose the device and fill in the spec's hardware with what is known of it."""
        device = devices.choose(self._devices, spec.hardware)
        if spec.hardware.WhichOneof("device") is None:
            spec.hardware.CopyFrom(device.hardware)
        spec.hardware.count = spec.hardware.count or 1
        if spec.hardware.WhichOneof("device") == "cpu":
            cpu, here = spec.hardware.cpu, device.hardware.cpu
            bf16, fp32 = self._rates()
            cpu.cores = cpu.cores or here.cores
            cpu.memory_bytes = cpu.memory_bytes or here.memory_bytes
            cpu.model_name = cpu.model_name or here.model_name
            cpu.bf16_flops_per_second = cpu.bf16_flops_per_second or bf16
            cpu.fp32_flops_per_second = cpu.fp32_flops_per_second or fp32
        return device

    async def _data(
        self, project: str, source: run_spec_pb2.DatasetSource, path: str, *, required: bool
    ) -> PlannedDataset | None:
        match source.WhichOneof("source"):
            case "name":
                name = parse_name(source.name, "datasets", field_path=f"{path}.name", project=project)
                row = await self._datasets.ready(name.id)
                return await self._uploaded(row, source, path)
            case "path":
                file = paths.inside(
                    self._data_roots, source.path, field_path=f"{path}.path", reason="DATASET_NOT_FOUND"
                )
                reading = reading_of(source)
                return PlannedDataset(file, await self._profile_of(file, reading, path, f"{path}.path"))
            case "profile":
                raise invalid_field(f"{path}.profile", "a profile can be priced, not trained; name a dataset or a path")
            case _ if required:
                raise invalid_field(path, "is needed to train; name a dataset or a path")
            case _:
                return None

    async def _uploaded(self, row: DatasetRow, source: run_spec_pb2.DatasetSource, path: str) -> PlannedDataset:
        """Plan an uploaded dataset, read as the spec says, else as its creator said, which the spec then gets."""
        record = dataset_pb2.Dataset.FromString(row.record)
        file, own = self._layout.dataset_file(row.sha256), record.reading
        if not source.HasField("reading"):
            if own.ByteSize():
                source.reading.CopyFrom(own)
            return PlannedDataset(file, record.profile, row.uid)
        if source.reading.file_format == run_spec_pb2.FILE_FORMAT_UNSPECIFIED:
            source.reading.file_format = own.file_format
        if source.reading == own:
            return PlannedDataset(file, record.profile, row.uid)
        reading = to_reading(source.reading, name=record.display_name[:100])
        return PlannedDataset(file, await self._profile_of(file, reading, path, f"{path}.name"), row.uid)

    async def _profile_of(
        self, file: Path, reading: Reading, source: str, field_path: str
    ) -> run_spec_pb2.DatasetProfile:
        status = await asyncio.to_thread(file.stat)
        key = file, status.st_mtime_ns, status.st_size, reading
        if key not in self._profiles:
            if not stat.S_ISREG(status.st_mode):
                raise invalid_field(field_path, "is a folder; name a file of rows")
            self._profiles.clear()
            try:
                self._profiles[key] = (await asyncio.to_thread(validate.validate_file, file, reading)).profile
            except InvalidArgument as error:
                raise _below(error, source) from None
        return self._profiles[key]


def _below(error: InvalidArgument, source: str) -> InvalidArgument:
    """Put the field paths of a file's error below the setting that names the file."""
    violations = [Violation(f"{source}.{v.field_path}", v.description, v.reason) for v in error.violations]
    return InvalidArgument(error.reason, str(error), metadata=error.metadata, violations=violations)


def _merge_sources(
    ours: list[evidence_pb2.SettingSource], given: list[evidence_pb2.SettingSource]
) -> list[evidence_pb2.SettingSource]:
    """Sources in field order; of a value in the request, the source that the request gives, if it gives one."""
    known = {source.field_path: source for source in given}
    return [known.get(source.field_path, source) if source.rule_id == "request" else source for source in ours]


def _drift(job: trainer_pb2.JobRequest, plan: Plan) -> FailedPrecondition:
    """Build the error for a plan that is not the approved one, with the fields that differ if they are known."""
    approved = _approved_spec(job.recommendation_json)
    changed = difference(approved, plan.spec) if approved is not None else {}
    faults = [
        (f"{_SPEC}.{path}", f"approved {was or 'unset'}, now {now or 'unset'}") for path, (was, now) in changed.items()
    ]
    what = f"{len(faults)} fields of the spec differ" if faults else "its data, its revisions or its spec differ"
    return FailedPrecondition(
        "PLAN_DRIFT",
        f"The plan is not the approved one: {what}. Approve the new plan.",
        metadata={"approved": job.plan_digest, "actual": plan.digest},
        violations=faults or [("job.plan_digest", f"approved {job.plan_digest}, now {plan.digest}")],
    )


def _approved_spec(recommendation: str) -> run_spec_pb2.RunSpec | None:
    try:
        document = json.loads(recommendation)
        return json_format.ParseDict(document["spec"], run_spec_pb2.RunSpec(), ignore_unknown_fields=True)
    except (ValueError, KeyError, TypeError, json_format.ParseError):
        return None
