# SPDX-License-Identifier: Apache-2.0
"""From a reported observation to a point: what was predicted beside what was measured, the implausible refused."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Protocol

from finetree_api.estimator.v1 import calibration_pb2, estimate_pb2
from finetree_api.types.v1 import run_spec_pb2, training_pb2
from finetree_runtime.errors import DomainError, InvalidArgument, invalid_field
from google.protobuf.timestamp_pb2 import Timestamp

from finetree_estimator.evidence.calibration import Point
from finetree_estimator.intervals import BeyondLimitError, Interval
from finetree_estimator.memory.peak import COUNTED, Memory
from finetree_estimator.run import Run
from finetree_estimator.spec.parse import parse_request
from finetree_estimator.spec.resolve import Knowledge, device_key, model_family
from finetree_estimator.timing.phases import Times

LARGEST_BYTES = 64 * 1024
"""Of an observation; a spec with a full histogram of 256 buckets takes about 3 KB."""
LARGEST_RATIO = 50.0
"""Measured over predicted, or its inverse, beyond which one of the two is about something else."""
FEWEST_STEPS = 5
"""Steps from which on their median says something of the next run's."""
DEVICE_TOLERANCE = 1.1
"""Measured peak over the device's memory that is still taken: what a device offers is known to a few percent."""
CLOCK_TOLERANCE_MICROSECONDS = 86_400_000_000
"""How far in the future a run may have ended."""
_RUN = "observation.run"


class Prediction(Protocol):
    """Peaks and times that are predicted for a run; an Estimate is one."""

    @property
    def memory(self) -> Memory:
        """Peaks in bytes."""

    @property
    def times(self) -> Times | None:
        """Seconds; None where the number of rows is unknown."""


Predict = Callable[[Run], Prediction]
"""Predict a run without any correction. Raises BeyondLimitError."""


def to_point(observation: calibration_pb2.Observation, knowledge: Knowledge, predict: Predict) -> Point:
    """The point of an observation whose end time is set.

    Raises InvalidArgument (OBSERVATION_IMPLAUSIBLE among them) and NotFound.
    """
    _check_size(observation)
    if not observation.job.isprintable():
        raise invalid_field("observation.job", "has a character that cannot be printed")
    end_time = _microseconds(observation.end_time)
    _check_measured(observation)
    run, spec = _run(observation.run, knowledge)
    device = device_key(spec.hardware)
    if not device:
        path = f"{_RUN}.spec.hardware"
        raise invalid_field(path, "names no device to learn of: an accelerator of the catalog, or cpu.model_name")
    _check_device(observation, run)
    point = _point(
        observation,
        run,
        _predicted(run, predict),
        device=device,
        family=model_family(spec.model),
        end_time=end_time,
    )
    _check_ratio("observation.step_seconds", point.measured_step, point.predicted_step)
    _check_ratio("observation", point.measured_bytes, point.predicted_bytes)
    return point


def _run(request: estimate_pb2.EstimateRunRequest, knowledge: Knowledge) -> tuple[Run, run_spec_pb2.RunSpec]:
    """The run and its resolved spec."""
    if request.spec.program.program not in (
        training_pb2.TRAINING_PROGRAM_UNSPECIFIED,
        training_pb2.TRAINING_PROGRAM_FINETREE,
    ):
        raise invalid_field(f"{_RUN}.spec.program", "only runs of this suite are learned from")
    asked = estimate_pb2.EstimateRunRequest()
    asked.CopyFrom(request)
    # What a run costs has no part in this, and its price may be gone.
    asked.spec.ClearField("ownership")
    try:
        parsed = parse_request(asked, knowledge)
    except DomainError as error:
        raise _inside(error) from error
    return replace(parsed.run, payment=None), parsed.spec


def _predicted(run: Run, predict: Predict) -> Prediction:
    try:
        return predict(run)
    except BeyondLimitError as error:
        raise invalid_field(f"{_RUN}.spec", f"estimated {error} exceeds 2^53; check the settings") from error


def _point(
    observation: calibration_pb2.Observation,
    run: Run,
    prediction: Prediction,
    *,
    device: str,
    family: str,
    end_time: int,
) -> Point:
    measured, predicted = _peak(observation, prediction.memory)
    counted = sum(interval.expected for kind, interval in prediction.memory.components if kind in COUNTED)
    timed = observation.steps >= FEWEST_STEPS and prediction.times is not None
    return Point(
        job=observation.job,
        attempt=observation.attempt,
        device=device,
        family=family,
        method=run.method.name,
        predicted_step=prediction.times.step.expected if prediction.times is not None else 0.0,
        measured_step=observation.step_seconds if timed else 0.0,
        counted_bytes=counted,
        predicted_bytes=predicted.expected,
        measured_bytes=float(measured),
        end_time=end_time,
        digest=hashlib.sha256(observation.SerializeToString(deterministic=True)).hexdigest(),
    )


def _peak(observation: calibration_pb2.Observation, memory: Memory) -> tuple[int, Interval]:
    """The measured peak that says most, and the predicted one of the same kind."""
    if observation.device_bytes:
        return observation.device_bytes, memory.device
    if observation.reserved_bytes:
        return observation.reserved_bytes, memory.reserved
    return observation.allocated_bytes, memory.allocated


def _check_ratio(path: str, measured: float, predicted: float) -> None:
    if not (measured and predicted):
        return
    if not 1 / LARGEST_RATIO <= measured / predicted <= LARGEST_RATIO:
        text = f"{measured:.4g} is far from the predicted {predicted:.4g}: it is of another run or in another unit"
        raise _implausible(path, text)


def _check_size(observation: calibration_pb2.Observation) -> None:
    if (size := observation.ByteSize()) > LARGEST_BYTES:
        raise invalid_field("observation", f"has {size} bytes, at most {LARGEST_BYTES} are taken")


def _microseconds(end_time: Timestamp) -> int:
    """Microseconds since 1970 of the end of a run. Raises InvalidArgument for one that cannot have ended."""
    found = end_time.ToMicroseconds()
    if not 0 < found <= time.time_ns() // 1000 + CLOCK_TOLERANCE_MICROSECONDS:
        raise _implausible("observation.end_time", "lies in the future or before 1970")
    return found


def _check_measured(observation: calibration_pb2.Observation) -> None:
    """Refuse numbers that contradict each other."""
    allocated, reserved, device = observation.allocated_bytes, observation.reserved_bytes, observation.device_bytes
    order = [("allocated_bytes", allocated), ("reserved_bytes", reserved), ("device_bytes", device)]
    known = [(name, value) for name, value in order if value]
    for (name, value), (next_name, larger) in pairwise(known):
        if value > larger:
            raise _implausible(f"observation.{name}", f"{value} exceeds {next_name} {larger}, which contains it")
    seconds, steps, whole = observation.step_seconds, observation.steps, observation.total_seconds
    if not known and not seconds:
        raise _implausible("observation", "measures nothing: give a peak of memory or seconds of a step")
    if seconds and not steps:
        raise _implausible("observation.steps", "is 0, yet step_seconds are given")
    # A median is at most twice the mean of numbers that are not negative.
    if whole and seconds * steps > 2.0 * whole:
        text = f"{steps} steps with a median of {seconds:g} s take longer than total_seconds {whole:g}"
        raise _implausible("observation.step_seconds", text)


def _check_device(observation: calibration_pb2.Observation, run: Run) -> None:
    peak = max(observation.allocated_bytes, observation.reserved_bytes, observation.device_bytes)
    if run.device.usable_bytes and peak > DEVICE_TOLERANCE * run.device.usable_bytes:
        text = f"a peak of {peak} bytes exceeds the {run.device.usable_bytes} bytes of {run.device.name}"
        raise _implausible("observation", text)


def _implausible(path: str, text: str) -> InvalidArgument:
    return invalid_field(path, text, "OBSERVATION_IMPLAUSIBLE")


def _inside(error: DomainError) -> DomainError:
    """The same refusal with the paths of the run inside the observation."""
    faults = [(f"{_RUN}.{where}", what, reason or error.reason) for where, what, reason in error.violations]
    message = f"{_RUN}.{error.message}" if faults else error.message
    return type(error)(error.reason, message, metadata=error.metadata, violations=faults)
