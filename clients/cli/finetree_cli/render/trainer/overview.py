# SPDX-License-Identifier: Apache-2.0
"""What a trainer does now, as text that a terminal keeps up to date, as plain text, and as JSON."""

import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from finetree.display.events import PHASES, ranks_note
from finetree_api.trainer.v1 import job_pb2

from finetree_cli import tables
from finetree_cli.backends.overview import KINDS, Curve, Overview, live_overview, now
from finetree_cli.backends.project_events import project_events
from finetree_cli.output import Output, as_dict, plain, short_name
from finetree_cli.render import units
from finetree_cli.render.chart.curve import LossCurve
from finetree_cli.render.trainer.capacity import node_types
from finetree_cli.render.trainer.jobs import state_name
from finetree_cli.render.trainer.metrics import sparkline

if TYPE_CHECKING:
    from finetree import Client
    from rich.console import RenderableType

INTERVAL_SECONDS = 1.0
"""Least time between two changes of the screen."""
CAPACITY_SECONDS = 5.0
"""Least time between two looks at the devices' free memory, which no event tells."""
SPARK = 32
"""Points of a curve in a line."""
CURVE_LINES = 6
"""Lines of a curve."""
TABLE_LINES = 9
"""Lines of the heading and of both tables without their rows."""
STORED = "What was last stored in the folder"
JOB_COLUMNS = ("Job", "Name", "State", ">Done", ">Step", ">Loss", ">Eval loss", ">Tokens/s", ">Left", "Losses")
GIVE_WAY = ("Job", "Name", "Device", "Running", "Losses")
"""Columns that are cut where a terminal is narrow."""
DEVICE_COLUMNS = ("Device", "Name", ">Use", ">Used", ">Memory", ">Others", ">To give", ">Slots", "Running")


def watch_overview(out: Output, client: "Client", found: Overview) -> None:
    """Keep an overview up to date on the terminal until Ctrl-C, by the events of all jobs."""
    from rich.live import Live

    def renew() -> None:
        fresh = live_overview(client)
        found.capacity, found.jobs, found.curves = fresh.capacity, fresh.jobs, fresh.curves

    looked = time.monotonic()
    console = out.console()
    try:
        with (
            Live(console=console, screen=True, auto_refresh=False) as live,
            closing(project_events(client, renew, now=True, kinds=KINDS, min_interval=INTERVAL_SECONDS)) as events,
        ):
            live.update(screen(found, console.width, console.height), refresh=True)
            for event, _ in events:
                if found.take(event):
                    found.refresh(client, event.job)
                    looked = 0.0
                if time.monotonic() - looked >= CAPACITY_SECONDS:
                    found.capacity = client.capacity()
                    looked = time.monotonic()
                live.update(screen(found, console.width, console.height), refresh=True)
    except KeyboardInterrupt:
        return


def show_overview(out: Output, found: Overview) -> None:
    """Print an overview once."""
    out.text(_heading(found))
    if found.capacity is not None:
        out.table(DEVICE_COLUMNS, _devices(found))
        for line in node_types(found.capacity.node_types):
            out.text(line)
    out.table(JOB_COLUMNS, [_job(found, job) for job in found.jobs.values()])


def document(found: Overview) -> dict[str, Any]:
    """An overview as a JSON object."""
    made: dict[str, Any] = {"stored": found.stored}
    if found.stored:
        made["stored_time"] = found.stored_time
    if found.capacity is not None:
        made["capacity"] = as_dict(found.capacity)
    made["jobs"] = [as_dict(job) for job in found.jobs.values()]
    if found.ranks:
        made["ranks"] = {name: [as_dict(rank) for rank in ranks] for name, ranks in found.ranks.items()}
    made["curves"] = {
        name: {metric: [{"step": step, "value": value} for step, value in curve] for metric, curve in curves.items()}
        for name, curves in found.curves.items()
    }
    return made


def screen(found: Overview, width: int, height: int) -> "RenderableType":
    """Draw an overview for a terminal: the tables, and curves of running jobs where there is room below them."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(plain(_heading(found)), style="bold")]
    room = height - TABLE_LINES
    if found.capacity is not None:
        devices, taken = _fitted(DEVICE_COLUMNS, _devices(found), width)
        parts.append(devices)
        parts += [Text(plain(line)) for line in node_types(found.capacity.node_types)]
        room -= taken + len(found.capacity.node_types)
    jobs, taken = _fitted(JOB_COLUMNS, [_job(found, job) for job in found.jobs.values()], width)
    parts.append(jobs)
    parts += [Text(plain(line)) for line in _ranks(found)]
    room -= taken + len(_ranks(found))
    for job in found.jobs.values():
        curve = _curve(found, job)
        if curve is None or room < CURVE_LINES + 2:
            continue
        room -= CURVE_LINES + 2
        parts.append(Text(plain(f"{short_name(job.name)}  {job.display_name}")))
        parts.append(curve.text(width, CURVE_LINES))
    return Group(*parts)


def _ranks(found: Overview) -> list[str]:
    """A line for each running job on several devices."""
    running = [job for job in found.jobs.values() if job.state == job_pb2.JOB_STATE_RUNNING and job.name in found.ranks]
    return [f"{short_name(job.name)}  {ranks_note(found.ranks[job.name])}" for job in running]


def _curve(found: Overview, job: job_pb2.Job) -> LossCurve | None:
    """The curve of a job that runs and has points to draw."""
    if job.state != job_pb2.JOB_STATE_RUNNING:
        return None
    curve = LossCurve()
    points = found.curves.get(job.name, {})
    for series, metric in ((curve.training, "loss"), (curve.evaluation, "eval_loss")):
        for step, value in points.get(metric, []):
            series.add(step, value)
    return curve if curve.drawable else None


def _fitted(columns: tuple[str, ...], rows: list[tuple[str, ...]], width: int) -> "tuple[RenderableType, int]":
    """A table, or records where the terminal is too narrow, and the lines that its rows take."""
    from rich.text import Text

    shown = [[plain(cell) for cell in row] for row in rows]
    widths = tables.column_widths(columns, shown, width, cut=GIVE_WAY)
    if widths is not None:
        return tables.table(columns, shown, widths, one_line=True), len(rows)
    lines = tables.records(columns, shown, width)
    return Text("\n").join([Text(), *lines, Text()]), len(lines)


def _heading(found: Overview) -> str:
    live = [job for job in found.jobs.values() if not job.HasField("end_time")]
    waiting = sum(job.state in (job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_RECOVERING) for job in live)
    counts = f"{len(live) - waiting} running, {waiting} waiting"
    if not found.stored:
        return f"finetree  {now()}  {counts}"
    when = f", {found.stored_time}" if found.stored_time else ""
    return f"{STORED}{when}: {counts}. No service was asked; a worker may have done more since."


def _devices(found: Overview) -> list[tuple[str, ...]]:
    assert found.capacity is not None  # noqa: S101 - its callers look
    return [
        (
            f"{node.name} {item.id}",
            item.display_name,
            f"{found.use[node.name, item.id]:.0f}%" if (node.name, item.id) in found.use else "-",
            f"{1 - item.free_bytes / item.total_bytes:.0%}" if item.total_bytes and item.free_bytes else "-",
            units.size(item.total_bytes),
            units.size(item.memory.used_by_others_bytes) if item.HasField("memory") else "-",
            units.size(item.memory.available_bytes) if item.HasField("memory") else "-",
            f"{item.slots - item.free_slots} of {item.slots}",
            ", ".join(short_name(name) for name in item.running_jobs),
        )
        for node in found.capacity.nodes
        for item in node.devices
    ]


def _job(found: Overview, job: job_pb2.Job) -> tuple[str, ...]:
    metrics, at = job.metrics, job.progress
    live = not job.HasField("end_time")
    state = state_name(job.state)
    if job.queue_position:
        waits_for = job.state_reason.code.lower().replace("_", " ")
        state = f"{state}, {job.queue_position}. {waits_for}".rstrip()
    elif live and job.state == job_pb2.JOB_STATE_RUNNING and at.phase:
        state = PHASES.get(at.phase, state)
    curves = found.curves.get(job.name, {})
    return (
        short_name(job.name),
        job.display_name,
        state,
        f"{at.step / at.total_steps:.0%}" if at.total_steps else f"{at.fraction:.0%}",
        f"{at.step}/{at.total_steps}" if at.total_steps else "-",
        f"{metrics.loss:.3f}" if metrics.HasField("loss") else "-",
        f"{metrics.eval_loss:.3f}" if metrics.HasField("eval_loss") else "-",
        units.count(metrics.tokens_per_second) if live and metrics.HasField("tokens_per_second") else "-",
        units.duration(at.eta_seconds.expected) if live and at.HasField("eta_seconds") else "-",
        _spark(curves.get("loss", [])),
    )


def _spark(curve: Curve) -> str:
    """A curve in a line: means of neighbouring points."""
    if len(curve) < 2:
        return ""
    width = -(-len(curve) // SPARK)
    parts = [curve[place : place + width] for place in range(0, len(curve), width)]
    return sparkline([sum(value for _, value in part) / len(part) for part in parts])
