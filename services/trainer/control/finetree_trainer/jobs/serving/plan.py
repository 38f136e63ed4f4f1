# SPDX-License-Identifier: Apache-2.0
"""Plans a job that serves a base model: defaults filled in, targets located, its memory held against the device's."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from finetree.display.units import GIB
from finetree_api.trainer.v1 import serving_pb2
from finetree_api.types.v1 import check_pb2, estimate_summary_pb2, training_pb2
from finetree_runtime.errors import InvalidArgument, ResourceExhausted, invalid_field
from finetree_runtime.runspec.number_formats import cpu_inference_precision

from finetree_trainer.clock import duration
from finetree_trainer.estimator import Rates
from finetree_trainer.jobs import capabilities
from finetree_trainer.jobs.inputs import Inputs
from finetree_trainer.jobs.serving.memory import Served, ServingMemory, memory_of, target_bytes
from finetree_trainer.models import locate
from finetree_trainer.models.locate import BaseModel
from finetree_trainer.models.weights import LocatedWeights, WeightsLocator, require_base, require_loadable
from finetree_trainer.scheduling.devices import CPU, Device, matching

LEASE_SECONDS, YIELD_SECONDS = 600.0, 60.0
"""Defaults of ServeTask.lease and ServeTask.yield_after."""
MAX_PARALLEL = 8
"""Default of ServeTask.max_parallel."""
CONTEXT_TOKENS = 8192
"""Most tokens of a context that nobody has asked to be longer; also for a model that does not state its positions."""
_SERVE = "job.serve"
_PRECISIONS = (training_pb2.PRECISION_BF16, training_pb2.PRECISION_FP32)


@dataclass(frozen=True, slots=True)
class PlannedServing:
    """A served base model as it will run, and what is known of its memory."""

    task: serving_pb2.ServeTask
    model: BaseModel
    device: Device
    estimate: estimate_summary_pb2.EstimateSummary
    checks: list[check_pb2.Check] = field(default_factory=list)
    weights: tuple[LocatedWeights, ...] = ()
    """Those of its targets."""


class ServingPlanner:
    """Plans jobs that serve.

    `has_free_slot(device)` says whether one could begin there now, `free(device)` how many bytes it could be promised
    there, with what workers without a job hold; it blocks.
    """

    def __init__(
        self,
        inputs: Inputs,
        weights: WeightsLocator,
        devices: Sequence[Device],
        *,
        rates: Rates,
        has_free_slot: Callable[[Device], bool],
        free: Callable[[Device], int],
    ) -> None:
        self._free = free
        self._inputs, self._weights, self._devices = inputs, weights, devices
        self._rates, self._has_free_slot = rates, has_free_slot

    async def plan(self, project: str, asked: serving_pb2.ServeTask) -> PlannedServing:
        """Plan a job. Raises the errors that CreateJob documents."""
        _require_settings(asked)
        task = serving_pb2.ServeTask()
        task.CopyFrom(asked)
        model = await self._inputs.model(task.model, f"{_SERVE}.model")
        locate.require_prepared(model, f"{_SERVE}.model")
        located = [await self._target(project, target, index) for index, target in enumerate(task.targets)]
        for index, weights in enumerate(located):
            place = f"{_SERVE}.targets[{index}].weights"
            await asyncio.to_thread(require_base, weights, model, place)
            require_loadable(weights, task.quantization, place)
        candidates = matching(self._devices, task.hardware, f"{_SERVE}.hardware")
        self._fill(task, model, candidates[0])
        needed = await asyncio.to_thread(_needed, task, model, located)
        device = await asyncio.to_thread(self._place, needed, candidates)
        estimate = estimate_summary_pb2.EstimateSummary(
            usable_device_bytes=device.total_bytes, fit=estimate_summary_pb2.FIT_VERDICT_FITS
        )
        estimate.device_bytes.expected = estimate.device_bytes.low = estimate.device_bytes.high = needed.total
        return PlannedServing(task, model, device, estimate, [_memory_check(needed, device)], tuple(located))

    async def _target(self, project: str, target: serving_pb2.ServeTarget, index: int) -> LocatedWeights:
        field_path = f"{_SERVE}.targets[{index}].weights"
        found = await self._weights.locate(project, target.weights, field_path)
        target.weights.sha256 = found.sha256
        return found

    def _fill(self, task: serving_pb2.ServeTask, model: BaseModel, device: Device) -> None:
        """Fill in the defaults that ServeTask documents. Raises InvalidArgument SEQUENCE_TOO_LONG."""
        if not task.precision:
            task.precision = cpu_inference_precision(self._rates()) if device.id == CPU else training_pb2.PRECISION_BF16
        if task.hardware.WhichOneof("device") is None:
            task.hardware.CopyFrom(device.hardware)
        positions = locate.positions(model)
        if not task.HasField("max_context_tokens"):
            task.max_context_tokens = min(positions or CONTEXT_TOKENS, CONTEXT_TOKENS)
        elif positions and task.max_context_tokens > positions:
            text = f"is {task.max_context_tokens}, and the model has {positions} positions; set at most so many"
            raise invalid_field(f"{_SERVE}.max_context_tokens", text, "SEQUENCE_TOO_LONG")
        if not task.HasField("max_parallel"):
            task.max_parallel = MAX_PARALLEL
        if not task.HasField("lease"):
            task.lease.CopyFrom(duration(LEASE_SECONDS))
        if not task.HasField("yield_after"):
            task.yield_after.CopyFrom(duration(YIELD_SECONDS))

    def _place(self, needed: ServingMemory, candidates: Sequence[Device]) -> Device:
        """Find a device with the memory: free now, or held by jobs after which it waits. Raises ResourceExhausted."""
        free = {device.place: self._free(device) for device in candidates}
        for device in candidates:
            if device.total_bytes >= needed.total and (
                free[device.place] >= needed.total or not self._has_free_slot(device)
            ):
                return device
        roomiest = max(candidates, key=lambda device: free[device.place])
        raise does_not_fit(needed, roomiest, free=free[roomiest.place])


def does_not_fit(needed: ServingMemory, device: Device, *, free: int) -> ResourceExhausted:
    """Build the error for a base model whose memory is not there; all figures in GiB."""
    text = (
        f"serving needs {needed.total / GIB:.2f} GiB ({needed.in_words()}), and {device.display_name} has "
        f"{free / GIB:.2f} GiB free of {device.total_bytes / GIB:.2f}; lower max_parallel or max_context_tokens, "
        "or wait for what runs beside it"
    )
    metadata = {"needed_bytes": str(needed.total), "free_bytes": str(free), "total_bytes": str(device.total_bytes)}
    return ResourceExhausted("OUT_OF_MEMORY_PREFLIGHT", f"{_SERVE}: {text}.", metadata=metadata, retry_delay=None)


def _needed(task: serving_pb2.ServeTask, model: BaseModel, located: Sequence[LocatedWeights]) -> ServingMemory:
    served = Served(
        precision=task.precision,
        quantization=task.quantization,
        max_context_tokens=task.max_context_tokens,
        max_parallel=task.max_parallel,
        targets_bytes=sum(target_bytes(weights, task) for weights in located),
    )
    return memory_of(model.folder, served, device="cpu" if task.hardware.HasField("cpu") else "cuda")


def _memory_check(needed: ServingMemory, device: Device) -> check_pb2.Check:
    check = check_pb2.Check(
        rule_id="memory.fits_device",
        severity=check_pb2.SEVERITY_ERROR,
        verdict=check_pb2.CHECK_VERDICT_PASS,
        limit=float(device.total_bytes),
        unit=check_pb2.CHECK_UNIT_BYTES,
        field_path="max_parallel",
        message=f"Serving needs {needed.total / GIB:.2f} GiB: {needed.in_words()}.",
    )
    check.measured.expected = check.measured.low = check.measured.high = needed.total
    return check


def _require_settings(task: serving_pb2.ServeTask) -> None:
    """Raise InvalidArgument SETTING_NOT_SUPPORTED for what cannot be served."""
    reason = "SETTING_NOT_SUPPORTED"
    if task.precision and task.precision not in _PRECISIONS:
        names = " or ".join(training_pb2.Precision.Name(known) for known in _PRECISIONS)
        raise invalid_field(f"{_SERVE}.precision", f"must be {names}: nothing is trained", reason)
    if task.HasField("quantization") and task.quantization not in capabilities.CAPABILITIES.quantizations:
        raise invalid_field(
            f"{_SERVE}.quantization", "cannot be loaded; the capacity of the trainer lists what can", reason
        )
    if task.hardware.count > 1 or task.hardware.nodes > 1:
        text = "must be one device: a base model is served on one"
        raise InvalidArgument(reason, f"{_SERVE}.hardware: {text}.", violations=[(f"{_SERVE}.hardware", text, reason)])
