# SPDX-License-Identifier: Apache-2.0
"""Jobs of the fake trainer before they run: inputs found, defaults filled in, estimated, held against an approval."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.trainer.v1 import base_model_pb2, capacity_pb2, evaluation_pb2, job_pb2
from finetree_api.types.v1 import (
    check_pb2,
    estimate_summary_pb2,
    hardware_pb2,
    model_pb2,
    run_spec_pb2,
    training_pb2,
)

from finetree.capabilities import TRAINING, unsupported
from finetree.errors import FailedPrecondition, InvalidArgument, Violation
from finetree.testing import spec as specs
from finetree.testing.catalog import ACCELERATORS, CPU_BYTES
from finetree.testing.estimator import FakeEstimator
from finetree.testing.requests import invalid, not_promised
from finetree.testing.trainer.base_models import FakeBaseModels
from finetree.testing.trainer.datasets import FakeDatasets
from finetree.testing.trainer.evaluations import plan_evaluation

SPEC, PREPARE = "job.train.spec", "job.prepare"
SLOTS = 64
"""Jobs that the processor of the fake machine runs at once."""
UNKNOWN_BYTES, RESERVE_BYTES = 2 << 30, 512 << 20
"""What a job is promised that nobody has estimated, and what is promised to none: as the trainer has them."""
CAPABILITIES = capacity_pb2.TrainingCapabilities(
    tasks=[job_pb2.TASK_KIND_TRAIN, job_pb2.TASK_KIND_PREPARE, job_pb2.TASK_KIND_EVALUATE],
)
CAPABILITIES.MergeFrom(TRAINING)
"""What the fake trainer runs: of tasks those that it can play, of settings what the trainer does."""

_FILLED_HERE = ("spec.dataset.reading", "spec.evaluation.dataset.reading", "spec.hardware.cpu")


@dataclass(slots=True)
class Planned:
    """A job as it will run."""

    task: job_pb2.TrainTask | job_pb2.PrepareTask | evaluation_pb2.EvaluateTask
    model: base_model_pb2.BaseModel | None = None
    hub: model_pb2.HubModel | None = None
    plan: run_spec_pb2.Plan | None = None
    estimate: estimate_summary_pb2.EstimateSummary | None = None
    checks: list[check_pb2.Check] = field(default_factory=list)
    remarks: list[check_pb2.Remark] = field(default_factory=list)


class Planner:
    """Plans jobs on the devices of the fake machine."""

    def __init__(
        self,
        datasets: FakeDatasets,
        base_models: FakeBaseModels,
        estimator: FakeEstimator,
        *,
        devices: list[capacity_pb2.Device],
    ) -> None:
        self._datasets, self._models, self._estimator, self._devices = datasets, base_models, estimator, devices

    def plan(self, job: job_pb2.JobTemplate) -> Planned:
        """Plan a job.

        Raises:
            FinetreeError: what CreateJob documents.
        """
        match job.WhichOneof("task"):
            case "prepare":
                return self._prepare(job.prepare)
            case "train":
                return self._train(job)
            case "evaluate":
                return Planned(plan_evaluation(job.evaluate, self._datasets))
        raise invalid("job.export", "is not supported; this server runs train, prepare, evaluate", "TASK_NOT_SUPPORTED")

    def _prepare(self, asked: job_pb2.PrepareTask) -> Planned:
        task = job_pb2.PrepareTask()
        task.CopyFrom(asked)
        planned = Planned(task)
        if task.HasField("model"):
            planned.hub, planned.model = self._models.located(task.model, f"{PREPARE}.model")
        self._datasets.located(task.dataset, f"{PREPARE}.dataset", trains=False)
        self._datasets.located(task.evaluation_dataset, f"{PREPARE}.evaluation_dataset", trains=False)
        if task.HasField("dataset"):
            if not task.HasField("evaluation_dataset") and not task.HasField("split_fraction"):
                task.split_fraction = 0.0
            task.loss_tokens = task.loss_tokens or training_pb2.LOSS_TOKENS_COMPLETIONS
            if not task.HasField("seed"):
                task.seed = 0
        return planned

    def _train(self, job: job_pb2.JobTemplate) -> Planned:
        task = job_pb2.TrainTask()
        task.CopyFrom(job.train)
        spec = task.spec
        if spec.HasField("init_from"):
            raise not_promised("starts no run from trained weights")
        if spec.WhichOneof("method") is None:
            raise invalid(f"{SPEC}.method", "is needed to train")
        hub, model = self._models.located(spec.model, f"{SPEC}.model")
        if model is None:
            raise _not_prepared(hub)
        planned = Planned(task, model, hub)
        profile = self._datasets.located(spec.dataset, f"{SPEC}.dataset", trains=True)
        if profile is None:
            raise invalid(f"{SPEC}.dataset", "is needed to train; name a dataset or a path")
        if spec.evaluation.HasField("dataset"):
            self._datasets.located(spec.evaluation.dataset, f"{SPEC}.evaluation.dataset", trains=True)
        self._choose_device(spec)
        self._resolve(task, profile, model.max_positions)
        plan = self._estimate(task, planned, profile)
        if task.HasField("approved_plan"):
            self._require_approved(task.approved_plan, plan)
        self._check_currency(job, planned)
        return planned

    def _choose_device(self, spec: run_spec_pb2.RunSpec) -> None:
        wanted = spec.hardware
        kind = wanted.WhichOneof("device")
        found = [each for each in self._devices if kind is None or _is(each, wanted)]
        if kind == "cpu" and found:
            if wanted.count > found[0].threads_per_slot:
                text = f"each process needs a thread of the CPU; lower it to {found[0].threads_per_slot}"
                raise invalid(f"{SPEC}.hardware.count", text, "THREADS_TOO_FEW")
        elif not found or wanted.count > (1 if kind is None else len(found)):
            have = ", ".join(each.hardware.accelerator or "cpu" for each in self._devices)
            text = f"this server has no such device; it has {have}"
            raise FailedPrecondition(
                f"{SPEC}.hardware: {text}",
                reason="NO_SUCH_DEVICE",
                violations=(Violation(f"{SPEC}.hardware", text),),
                metadata={"devices": have},
            )
        if kind is None:
            wanted.MergeFrom(found[0].hardware)
        elif kind == "cpu":
            filled = hardware_pb2.CpuDevice()
            filled.CopyFrom(found[0].hardware.cpu)
            filled.MergeFrom(wanted.cpu)
            wanted.cpu.CopyFrom(filled)

    def _resolve(self, task: job_pb2.TrainTask, profile: Any, positions: int) -> None:
        given = {source.field_path: source for source in task.setting_sources}
        resolved, sources = specs.resolve(task.spec, profile, positions=positions)
        problem = specs.conflict(resolved, positions)
        if problem is not None:
            raise invalid(f"{SPEC}.{problem.field}", problem.text, problem.reason)
        _require_settings(resolved)
        evaluation = resolved.evaluation
        held_out = evaluation.HasField("dataset") or evaluation.split_fraction > 0
        if resolved.checkpoints.keep_best and not (held_out and evaluation.every_steps):
            text = "needs evaluations while training; hold out rows and set evaluation.every_steps"
            raise invalid(f"{SPEC}.checkpoints.keep_best", text, "KEEP_BEST_WITHOUT_EVALUATION")
        task.spec.CopyFrom(resolved)
        del task.setting_sources[:]
        kept = (given.get(each.field_path, each) if each.rule_id == "request" else each for each in sources)
        task.setting_sources.extend(kept)

    def _estimate(self, task: job_pb2.TrainTask, planned: Planned, profile: Any) -> run_spec_pb2.Plan:
        request = estimate_pb2.EstimateRunRequest(spec=task.spec, dataset_profile=profile)
        estimate = self._estimator.of_job(request, planned.model)
        planned.estimate = estimate_summary_pb2.EstimateSummary(
            device_bytes=estimate.memory.device_bytes,
            usable_device_bytes=estimate.memory.usable_device_bytes,
            fit=estimate.fit.verdict,
            total_seconds=estimate.time.total_seconds if estimate.HasField("time") else None,
            step_seconds=estimate.time.step_seconds if estimate.HasField("time") else None,
            cost=estimate.cost.total if estimate.HasField("cost") else None,
            optimizer_steps=estimate.optimizer_steps,
            revision=estimate.revision,
        )
        fails = estimate.fit.verdict == estimate_summary_pb2.FIT_VERDICT_DOES_NOT_FIT
        planned.checks.append(
            check_pb2.Check(
                rule_id="memory.fits_device",
                severity=check_pb2.SEVERITY_WARNING,
                verdict=check_pb2.CHECK_VERDICT_FAIL if fails else check_pb2.CHECK_VERDICT_PASS,
                measured=estimate.memory.device_bytes,
                limit=estimate.memory.usable_device_bytes,
                unit=check_pb2.CHECK_UNIT_BYTES,
                field_path="hardware",
                message=estimate.fit.summary,
            )
        )
        planned.remarks.extend(estimate.remarks)
        planned.plan = specs.make_plan(task.spec, profile, estimate.revision)
        return planned.plan

    def _require_approved(self, approved: run_spec_pb2.Plan, present: run_spec_pb2.Plan) -> None:
        place = "job.train.approved_plan"
        if approved.digest != specs.digest(approved):
            text = "does not belong to this plan; send the plan as EstimateRun, CheckPlan or ValidateJob returned it"
            raise invalid(f"{place}.digest", text)
        found = [each for each in specs.differences(approved, present) if not _left_open(each)]
        if found:
            violations = tuple(Violation(_path(each[0], place), _change(each)) for each in found)
            text = f"The plan is not the approved one, first {violations[0]}. Approve the new plan."
            metadata = {"approved": approved.digest, "actual": present.digest}
            raise FailedPrecondition(text, reason="PLAN_DRIFT", violations=violations, metadata=metadata)
        present.digest = approved.digest

    def _check_currency(self, job: job_pb2.JobTemplate, planned: Planned) -> None:
        if not job.limits.HasField("max_cost"):
            return
        field = "job.limits.max_cost"
        if planned.estimate is None or not planned.estimate.HasField("cost"):
            text = "The cost of the run is unknown, so the limit of its cost has no effect."
            planned.remarks.append(check_pb2.Remark(code="COST_UNKNOWN", message=text, field_path=field))
            return
        limit, cost = job.limits.max_cost.currency_code, planned.estimate.cost.currency_code
        if limit != cost:
            text = f"is {limit}, and the cost of the run is in {cost}; set a limit in {cost}"
            raise invalid(f"{field}.currency_code", text, "CURRENCY_MISMATCH")


def _not_prepared(hub: model_pb2.HubModel) -> FailedPrecondition:
    name = f"{hub.id}@{hub.revision}" if hub.revision else hub.id
    text = f"{name} is not on this server; run a PREPARE job first: finetree models pull {name}"
    violations = (Violation(f"{SPEC}.model", text),)
    return FailedPrecondition(f"{SPEC}.model: {text}", reason="MODEL_NOT_PREPARED", violations=violations)


def _is(device: capacity_pb2.Device, wanted: hardware_pb2.Hardware) -> bool:
    kind = wanted.WhichOneof("device")
    if kind == "unknown_accelerator":
        gigabytes = wanted.unknown_accelerator.marketed_memory_gb
        return bool(device.hardware.accelerator) and 0.85 <= device.total_bytes / (gigabytes * 1e9) <= 1.1
    if kind == "cpu":
        return device.id == "cpu"
    return device.hardware.accelerator == wanted.accelerator.lower()


def _require_settings(spec: run_spec_pb2.RunSpec) -> None:
    found = tuple(Violation(f"{SPEC}.{each.field}", each.description) for each in unsupported(spec))
    if found:
        raise InvalidArgument(f"{found[0]}.", reason="SETTING_NOT_SUPPORTED", violations=found)


def _left_open(difference: tuple[str, str, str]) -> bool:
    return difference[1] in ("", "{}") and difference[0].startswith(_FILLED_HERE)


def _path(path: str, place: str) -> str:
    part, _, rest = path.partition(".")
    return f"{SPEC}.{rest}" if part == "spec" else f"{place}.{path}"


def _change(difference: tuple[str, str, str]) -> str:
    _, left, right = difference
    return f"approved {_shown(left)}, now {_shown(right)}"


def _shown(text: str) -> str:
    value = json.loads(text) if text else "unset"
    return value if isinstance(value, str) else text


def devices_of(accelerators: Iterable[str]) -> list[capacity_pb2.Device]:
    """Make the devices of a trainer with these cards: the cards first, then the processor."""
    return [*(_card(index, name) for index, name in enumerate(accelerators)), _processor()]


def node_of(devices: Iterable[capacity_pb2.Device], jobs: Sequence[job_pb2.Job]) -> capacity_pb2.Node:
    """Make the machine as it is while jobs run: each has a slot, and has taken all that it was promised."""
    node = capacity_pb2.Node(name="fake", devices=devices, cpu_name="fake")
    for device in node.devices:
        running = [job for job in jobs if any(device.id in place.device_ids for place in job.placements)]
        device.running_jobs.extend(job.name for job in running)
        device.free_slots = max(0, device.slots - len(running))
        for slot in range(device.slots):
            device.slot_uses.add(slot=slot, job=running[slot].name if slot < len(running) else "")
        memory = device.memory
        for job in running:
            promised = int(job.estimate.device_bytes.high) or UNKNOWN_BYTES
            memory.jobs.add(job=job.name, promised_bytes=promised, used_bytes=promised)
        memory.total_bytes = device.total_bytes
        memory.used_by_us_bytes = sum(each.used_bytes for each in memory.jobs)
        memory.free_bytes = device.free_bytes = max(0, device.total_bytes - memory.used_by_us_bytes)
        memory.reserve_bytes = 0 if device.uuid else RESERVE_BYTES
        memory.available_bytes = max(0, memory.free_bytes - memory.reserve_bytes)
        if not device.uuid:
            node.processors.cores, node.processors.used_by_us = device.slots, float(len(running))
    return node


def _card(index: int, name: str) -> capacity_pb2.Device:
    card = ACCELERATORS[name]
    return capacity_pb2.Device(
        id=f"cuda:{index}",
        uuid=f"GPU-fake-{index}",
        hardware=hardware_pb2.Hardware(accelerator=name, count=1),
        display_name=card.display_name,
        total_bytes=card.usable_bytes,
        free_bytes=card.usable_bytes,
        slots=1,
        free_slots=1,
    )


def _processor() -> capacity_pb2.Device:
    cpu = hardware_pb2.CpuDevice(cores=SLOTS, memory_bytes=CPU_BYTES, model_name="fake")
    return capacity_pb2.Device(
        id="cpu",
        hardware=hardware_pb2.Hardware(cpu=cpu, count=1),
        display_name="fake",
        total_bytes=CPU_BYTES,
        free_bytes=CPU_BYTES,
        slots=SLOTS,
        free_slots=SLOTS,
        threads_per_slot=1,
    )
