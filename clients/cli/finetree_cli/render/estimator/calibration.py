# SPDX-License-Identifier: Apache-2.0
"""Calibration replies as text: correction factors and the observed runs behind them."""

from finetree_api.estimator.v1 import calibration_pb2
from finetree_api.types.v1 import evidence_pb2, method_pb2

from finetree_cli.output import Output
from finetree_cli.render import units

NONE = "-"


def show_calibration(out: Output, found: calibration_pb2.GetCalibrationResponse) -> None:
    """Print the factors by device, then the observed runs."""
    if not found.entries:
        out.text("No observed runs yet.")
        return
    out.text(f"Revision {found.calibration.id}, newest run {found.calibration.date}")
    rows = [
        (
            entry.device,
            entry.family or "all",
            factor(entry.step_time_factor) if entry.HasField("step_time_factor") else NONE,
            factor(entry.memory_factor) if entry.HasField("memory_factor") else NONE,
            str(entry.observations),
            str(entry.outliers),
        )
        for entry in found.entries
    ]
    out.table(["Device", "Family", ">Step time", ">Memory", ">Runs", ">Outliers"], rows)
    out.table(
        ["Job", "Device", "Method", ">Step", ">Predicted", ">Peak", ">Predicted", "Remark"],
        [_point(point) for point in found.points],
    )


def factor(interval: evidence_pb2.Interval) -> str:
    """Format a factor with its range: "x1.12 (0.98 to 1.27)"."""
    return f"x{interval.expected:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def _point(point: calibration_pb2.CalibrationPoint) -> tuple[str, ...]:
    return (
        point.job.rpartition("/")[2],
        point.device,
        units.word(method_pb2.Method, point.method),
        _seconds(point.measured_step_seconds),
        _seconds(point.predicted_step_seconds),
        _size(point.measured_device_bytes),
        _size(point.predicted_device_bytes),
        "outlier, not used" if point.outlier else "",
    )


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value else NONE


def _size(value: float) -> str:
    return units.size(value) if value else NONE
