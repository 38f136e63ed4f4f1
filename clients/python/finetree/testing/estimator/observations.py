# SPDX-License-Identifier: Apache-2.0
"""Observations of the fake estimator: kept once each, and refused where they contradict themselves or the catalog.

What a run would have taken is not the fake's to say: a measurement far from it is taken, and corrects no estimate.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from finetree_api.estimator.v1 import calibration_pb2, estimate_pb2
from finetree_api.types.v1 import evidence_pb2, method_pb2, run_spec_pb2, training_pb2

from finetree._shared import rpcs
from finetree.errors import InvalidArgument
from finetree.testing.catalog import REVISION, component, find_model, usable_bytes
from finetree.testing.clock import Clock
from finetree.testing.handlers import Handlers
from finetree.testing.requests import Answers, body_hash, invalid, page

Estimates = Callable[[estimate_pb2.EstimateRunRequest, str], estimate_pb2.Estimate]
_RUN = "observation.run"
_DEVICE_TOLERANCE = 1.1
_MICROSECONDS_AHEAD = 86_400_000_000
_FEWEST_STEPS = 5
_OURS = (training_pb2.TRAINING_PROGRAM_UNSPECIFIED, training_pb2.TRAINING_PROGRAM_FINETREE)


class FakeObservations:
    """Observations by job and attempt, and the rpcs of calibration."""

    def __init__(self, handlers: Handlers, clock: Clock, *, answers: Answers, estimate: Estimates) -> None:
        """Serve the rpcs of calibration; `estimate` estimates a run, given the field of its request."""
        self.kept: dict[tuple[str, int], calibration_pb2.Observation] = {}
        self._clock, self._answers, self._estimate = clock, answers, estimate
        handlers.unary(rpcs.REPORT_OBSERVATION, self.report)
        handlers.unary(rpcs.GET_CALIBRATION, self.calibration)
        handlers.unary(rpcs.RESET_CALIBRATION, self.reset)

    def revision(self) -> evidence_pb2.RevisionComponent:
        """Calibration's part of a revision: its id counts the observations, its hash is theirs."""
        if not self.kept:
            return REVISION.calibration
        content = b"".join(self.kept[key].SerializeToString(deterministic=True) for key in sorted(self.kept))
        return component(f"calibration-{len(self.kept)}", hashlib.sha256(content).digest())

    def report(self, request: calibration_pb2.ReportObservationRequest) -> calibration_pb2.ReportObservationResponse:
        """Keep an observation once.

        Raises:
            FinetreeError: what ReportObservation documents, except for measurements that are far from a prediction.
        """
        observation = calibration_pb2.Observation()
        observation.CopyFrom(request.observation)
        if not observation.HasField("end_time"):
            observation.end_time.CopyFrom(self._clock.timestamp())
        self._require_plausible(observation)
        key = observation.job, observation.attempt
        body = "", request.request_id, "ReportObservation", body_hash(request, "request_id")
        new = self._answers.find(*body) is None and key not in self.kept
        if new:
            self.kept[key] = observation
        self._answers.keep(*body, key)
        return calibration_pb2.ReportObservationResponse(accepted=new, calibration=self.revision())

    def calibration(self, request: calibration_pb2.GetCalibrationRequest) -> calibration_pb2.GetCalibrationResponse:
        """Show the observations as points, newest first, and a factor that they do not change."""
        newest = sorted(self.kept.values(), key=_age, reverse=True)
        points = [_point(kept, self._estimate(kept.run, _RUN)) for kept in newest]
        points = [point for point in points if request.device.lower() in ("", point.device.lower())]
        shown, token = page(points, request, key=lambda point: f"{point.job}/{point.attempt}")
        factor = evidence_pb2.Interval(low=0.9, expected=1.1, high=1.3, coverage=0.9)
        entries = [
            calibration_pb2.CalibrationEntry(
                device=device,
                step_time_factor=factor,
                observations=sum(point.device == device for point in points),
            )
            for device in sorted({point.device for point in points})
        ]
        return calibration_pb2.GetCalibrationResponse(
            entries=entries, points=shown, next_page_token=token, calibration=self.revision()
        )

    def reset(self, request: calibration_pb2.ResetCalibrationRequest) -> calibration_pb2.ResetCalibrationResponse:
        """Delete the observations of a device, or all."""
        key = "", request.request_id, "ResetCalibration", body_hash(request, "request_id")
        removed = self._answers.find(*key)
        if removed is None:
            device = request.device.lower()
            gone = [name for name, kept in self.kept.items() if device in ("", _device(kept.run.spec).lower())]
            for name in gone:
                del self.kept[name]
            removed = len(gone)
            self._answers.keep(*key, removed)
        return calibration_pb2.ResetCalibrationResponse(removed=removed, calibration=self.revision())

    def _require_plausible(self, observation: calibration_pb2.Observation) -> None:
        if not observation.job.isprintable():
            raise invalid("observation.job", "has a character that cannot be printed")
        ended = observation.end_time.ToMicroseconds()
        # Whoever reports goes by a clock of their own, which the suite's may stand far behind.
        now = max(self._clock.micros(), time.time_ns() // 1000)
        if not 0 < ended <= now + _MICROSECONDS_AHEAD:
            raise _implausible("observation.end_time", "lies in the future or before 1970")
        _require_consistent(observation)
        spec = observation.run.spec
        if spec.program.program not in _OURS:
            raise invalid(f"{_RUN}.spec.program", "only runs of this suite are learned from")
        # What a run costs has no part in this, and its price may be gone.
        run = estimate_pb2.EstimateRunRequest()
        run.CopyFrom(observation.run)
        run.spec.ClearField("ownership")
        self._estimate(run, _RUN)
        if not _device(spec):
            text = "names no device to learn of: an accelerator of the catalog, or cpu.model_name"
            raise invalid(f"{_RUN}.spec.hardware", text)
        usable = usable_bytes(spec.hardware, f"{_RUN}.spec.hardware")
        peak = max(observation.allocated_bytes, observation.reserved_bytes, observation.device_bytes)
        if usable and peak > _DEVICE_TOLERANCE * usable:
            raise _implausible("observation", f"a peak of {peak} bytes exceeds the {usable} bytes of the device")


def _require_consistent(observation: calibration_pb2.Observation) -> None:
    names = ("allocated_bytes", "reserved_bytes", "device_bytes")
    known = [(name, value) for name in names if (value := getattr(observation, name))]
    for (name, value), (larger, limit) in pairwise(known):
        if value > limit:
            raise _implausible(f"observation.{name}", f"{value} exceeds {larger} {limit}, which contains it")
    seconds, steps, whole = observation.step_seconds, observation.steps, observation.total_seconds
    if not known and not seconds:
        raise _implausible("observation", "measures nothing: give a peak of memory or seconds of a step")
    if seconds and not steps:
        raise _implausible("observation.steps", "is 0, yet step_seconds are given")
    # A median is at most twice the mean of numbers that are not negative.
    if whole and seconds * steps > 2.0 * whole:
        text = f"{steps} steps with a median of {seconds:g} s take longer than total_seconds {whole:g}"
        raise _implausible("observation.step_seconds", text)


def _implausible(field: str, text: str) -> InvalidArgument:
    return invalid(field, text, "OBSERVATION_IMPLAUSIBLE")


def _age(observation: calibration_pb2.Observation) -> Any:
    return observation.end_time.ToMicroseconds(), observation.job, observation.attempt


def _device(spec: run_spec_pb2.RunSpec) -> str:
    """Key that runs on equal devices share, as in CalibrationEntry; "" where there is none."""
    if spec.hardware.accelerator:
        return spec.hardware.accelerator.lower()
    name, cores = " ".join(spec.hardware.cpu.model_name.split()), spec.hardware.cpu.cores
    return f"{name}, {cores} cores" if name and cores else ""


def _point(kept: calibration_pb2.Observation, estimate: estimate_pb2.Estimate) -> calibration_pb2.CalibrationPoint:
    method = estimate.resolved_spec.WhichOneof("method") or "lora"
    return calibration_pb2.CalibrationPoint(
        job=kept.job,
        attempt=kept.attempt,
        device=_device(kept.run.spec),
        family=find_model(kept.run.spec.model, f"{_RUN}.spec.model").family,
        method=method_pb2.Method.Value(f"METHOD_{method.upper()}"),
        predicted_step_seconds=estimate.time.step_seconds.expected,
        measured_step_seconds=kept.step_seconds if kept.steps >= _FEWEST_STEPS else 0.0,
        predicted_device_bytes=estimate.memory.device_bytes.expected,
        measured_device_bytes=kept.device_bytes or kept.reserved_bytes or kept.allocated_bytes,
        end_time=kept.end_time,
    )
