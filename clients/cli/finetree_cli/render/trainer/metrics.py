# SPDX-License-Identifier: Apache-2.0
"""Curves of a job's metrics as text and as CSV."""

import csv
import io

from finetree_api.trainer.v1 import metrics_pb2

from finetree_cli.output import Output

BARS = "▁▂▃▄▅▆▇█"
COLUMNS = ("metric", "unit", "first_step", "last_step", "value", "min", "max", "mean", "count", "time")


def show_metrics(out: Output, found: metrics_pb2.QueryMetricsResponse) -> None:
    """Print a line for each metric: newest value, extremes, and its curve."""
    if not found.series:
        out.text("no step of the job has these metrics yet")
        return
    rows = [
        [
            series.name,
            f"{series.points[-1].value:.4g}",
            f"{min(point.min for point in series.points):.4g}",
            f"{max(point.max for point in series.points):.4g}",
            series.unit,
            sparkline([point.mean for point in series.points]),
        ]
        for series in found.series
    ]
    out.table(["Metric", ">Newest", ">Min", ">Max", "Unit", f"Curve to step {found.last_step}"], rows)
    if found.oldest_seq > 1:
        out.text("older steps are missing: their events were removed by retention")


def sparkline(values: list[float]) -> str:
    """Draw values as bars of eight heights, the lowest and the highest value as the ends of the scale."""
    low, high = min(values), max(values)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in values)


def as_csv(found: metrics_pb2.QueryMetricsResponse) -> str:
    """Write every point of every curve as a row of CSV, with a header."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for series in found.series:
        for point in series.points:
            numbers = (point.value, point.min, point.max, point.mean)
            place = (series.name, series.unit, point.first_step, point.last_step)
            table.writerow([*place, *numbers, point.count, point.time.ToJsonString()])
    return text.getvalue()
