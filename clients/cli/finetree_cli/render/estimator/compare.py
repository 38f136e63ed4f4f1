# SPDX-License-Identifier: Apache-2.0
"""Comparisons of methods and GPUs as a table, as JSON, and as rows of a chart."""

from collections.abc import Sequence
from typing import Any

import click
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.types.v1 import estimate_summary_pb2

from finetree_cli.compare import Cell
from finetree_cli.errors import of_service_error
from finetree_cli.output import Output, as_dict
from finetree_cli.render import units
from finetree_cli.render.chart.memory import Row
from finetree_cli.render.estimator.estimate import assumed

NONE = "-"


def show(out: Output, cells: Sequence[Cell], command: click.Command) -> None:
    """Print one line for each method on each accelerator; below, each error once, and all that any of them assumed."""
    out.table(["GPU", "Method", ">Memory", ">Range", "Fit", ">Time", ">Cost"], [_line(cell) for cell in cells])
    for message in dict.fromkeys(cell.error.message for cell in cells if cell.error is not None):
        out.text(message)
    remarks = [remark for cell in cells if cell.estimate is not None for remark in cell.estimate.remarks]
    if text := assumed({(remark.message, remark.code): remark for remark in remarks}.values(), command):
        out.text(f"Assumed: {text}")


def document(cells: Sequence[Cell]) -> dict[str, Any]:
    """Build the JSON object: all estimates, with errors in their places."""
    return {"rows": [_document(cell) for cell in cells]}


def rows(cells: Sequence[Cell]) -> list[Row]:
    """Build the rows of a chart."""
    return [_row(cell) for cell in cells]


def _line(cell: Cell) -> tuple[str, ...]:
    if cell.estimate is None:
        return cell.accelerator, cell.method, NONE, NONE, _why(cell), NONE, NONE
    peak = cell.estimate.memory.device_bytes
    span = f"{units.size(peak.low)} to {units.size(peak.high)}"
    return cell.accelerator, cell.method, units.size(peak.expected), span, fit(cell.estimate), *_time_and_cost(cell)


def _document(cell: Cell) -> dict[str, Any]:
    named: dict[str, Any] = {"method": cell.method, "accelerator": cell.accelerator}
    if cell.error is not None:
        return {**named, **of_service_error(cell.error).document()}
    return {**named, "estimate": as_dict(cell.estimate)} if cell.estimate is not None else named


def _row(cell: Cell) -> Row:
    if cell.estimate is None:
        return Row(cell.accelerator, cell.method, note=_why(cell))
    peak = cell.estimate.memory.device_bytes
    time, cost = _time_and_cost(cell)
    return Row(
        group=cell.accelerator,
        label=cell.method,
        low=peak.low,
        expected=peak.expected,
        high=peak.high,
        limit=cell.estimate.memory.usable_device_bytes,
        verdict=fit(cell.estimate),
        note=", ".join(part for part in (fit(cell.estimate), time, cost) if part != NONE),
    )


def _time_and_cost(cell: Cell) -> tuple[str, str]:
    found = cell.estimate
    time = cost = NONE
    if found is not None and found.HasField("time"):
        time = units.duration(found.time.total_seconds.expected)
    if found is not None and found.cost.HasField("total"):
        cost = units.expected_money(found.cost.total)
    return time, cost


def _why(cell: Cell) -> str:
    return cell.error.reason or cell.error.code if cell.error is not None else NONE


def fit(estimate: estimate_pb2.Estimate) -> str:
    """Format the verdict."""
    return units.word(estimate_summary_pb2.FitVerdict, estimate.fit.verdict)
