# SPDX-License-Identifier: Apache-2.0
"""Messages of GetCalibration."""

from finetree_api.estimator.v1 import calibration_pb2
from finetree_api.types.v1 import evidence_pb2, method_pb2
from finetree_runtime.paging import PageTokens, page_size
from google.protobuf.timestamp_pb2 import Timestamp

from finetree_estimator.catalog.accelerators import accelerator
from finetree_estimator.catalog.names import UnknownNameError
from finetree_estimator.evidence.calibration import Calibration, Entry, Point, interval_of
from finetree_estimator.evidence.corrections import Correction, Factor
from finetree_estimator.intervals import Interval
from finetree_estimator.messages.provenance import component_message, interval_message


def calibration_message(
    request: calibration_pb2.GetCalibrationRequest, calibration: Calibration, tokens: PageTokens
) -> calibration_pb2.GetCalibrationResponse:
    """Write the corrections and a page of observations, newest first. Raises InvalidArgument (PAGE_TOKEN_INVALID)."""
    device = device_name(request.device, calibration)
    scope = f"calibration/{device}"
    before = tokens.read(scope, request.page_token)
    found = [point for point in reversed(calibration.points) if device in ("", point.device)]
    if before is not None:
        found = [point for point in found if _position(point) < before]
    size = page_size(request.page_size)
    page = found[:size]
    return calibration_pb2.GetCalibrationResponse(
        entries=[_entry(entry) for (name, _), entry in sorted(calibration.entries.items()) if device in ("", name)],
        points=[_point(point, odd=calibration.is_odd(point)) for point in page],
        next_page_token=tokens.issue(scope, _position(page[-1])) if len(found) > size else "",
        calibration=component_message(calibration.part),
    )


def device_name(asked: str, calibration: Calibration) -> str:
    """Catalog name of an accelerator, or a processor's name as it was stored; "" stays ""."""
    try:
        return accelerator(asked).name if asked else ""
    except UnknownNameError:
        known = {name.lower(): name for name, _ in calibration.entries}
        return known.get(asked.strip().lower(), asked)


def _position(point: Point) -> str:
    """Page position of a point; sorts like `Point.order`."""
    return f"{point.end_time:020}/{point.job}/{point.attempt:020}"


def _entry(entry: Entry) -> calibration_pb2.CalibrationEntry:
    message = calibration_pb2.CalibrationEntry(
        device=entry.device, family=entry.family, observations=entry.observations, outliers=len(entry.odd)
    )
    correction = Correction(device=entry.device, date=entry.date, step_time=entry.step_time, memory=entry.memory)
    if entry.step_time.observations:
        message.step_time_factor.CopyFrom(_interval(entry.step_time, correction))
    if entry.memory.observations:
        message.memory_factor.CopyFrom(_interval(entry.memory, correction))
    return message


def _interval(factor: Factor, correction: Correction) -> evidence_pb2.Interval:
    low, expected, high = interval_of(factor)
    return interval_message(Interval(low, expected, high, sources=(correction.source,)))


def _point(point: Point, *, odd: bool) -> calibration_pb2.CalibrationPoint:
    end_time = Timestamp()
    end_time.FromMicroseconds(point.end_time)
    return calibration_pb2.CalibrationPoint(
        job=point.job,
        attempt=point.attempt,
        device=point.device,
        family=point.family,
        method=method_pb2.Method.Value(f"METHOD_{point.method.upper()}"),
        predicted_step_seconds=point.predicted_step,
        measured_step_seconds=point.measured_step,
        predicted_device_bytes=point.predicted_bytes,
        measured_device_bytes=point.measured_bytes,
        outlier=odd,
        end_time=end_time,
    )
