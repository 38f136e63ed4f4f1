# SPDX-License-Identifier: Apache-2.0
"""Jobs side by side as text and as Markdown: the same tables, with a letter for each job."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from finetree_api.trainer.v1 import comparison_pb2
from google.protobuf import json_format, struct_pb2

from finetree_cli.jobfile.yaml_scalars import setting_word
from finetree_cli.output import Output, short_name
from finetree_cli.render import units
from finetree_cli.render.gate.escaping import prose
from finetree_cli.render.trainer.jobs import state_name
from finetree_cli.render.trainer.metrics import sparkline

MAX_ANSWER = 160
"""Letters of an answer in a table."""
_QUANTITIES = {
    comparison_pb2.ESTIMATED_QUANTITY_TOTAL_SECONDS: "time",
    comparison_pb2.ESTIMATED_QUANTITY_STEP_SECONDS: "step",
    comparison_pb2.ESTIMATED_QUANTITY_DEVICE_BYTES: "memory",
    comparison_pb2.ESTIMATED_QUANTITY_COST: "cost",
}


_ASIDE = ("JOBS_RUNNING", "EVENTS_REMOVED", "ROWS_LEAKED")
"""Remarks that are no reason why no job is named."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its title; columns that begin with ">" are aligned to the right."""

    title: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    wrap: bool = False
    """Whether cells are texts, which may wrap."""


def letter(job: int) -> str:
    """Letter that stands for a job: its place in the list."""
    return ascii_uppercase[job]


def label(found: comparison_pb2.CompareJobsResponse, job: int) -> str:
    """Name of a job for people: "B: second try (0199…, lora)"."""
    each = found.jobs[job]
    named = f"{each.display_name} ({short_name(each.name)}, {each.method})" if each.display_name else ""
    return f"{letter(job)}: {named or f'{short_name(each.name)} ({each.method})'}"


def conclusion(found: comparison_pb2.CompareJobsResponse) -> str:
    """Say in one line which job is best, or why none is named."""
    if found.HasField("best"):
        best, between = found.best, found.best.interval
        ends = f"{between.low:.3g} to {between.high:.3g}"
        return f"best: {label(found, best.job)}, by {best.metric}: {best.difference:.3g} better ({ends})"
    reasons = [remark.message for remark in found.remarks if remark.code not in _ASIDE]
    return _lettered(found, reasons[0]) if reasons else "No job is ranked."


def show_comparison(out: Output, found: comparison_pb2.CompareJobsResponse) -> None:
    """Print a comparison."""
    out.heading(conclusion(found))
    for table in tables(found):
        out.table(table.columns, table.rows, title=table.title, wrap=table.wrap)
    for remark in found.remarks:
        text = _lettered(found, remark.message)
        if text != conclusion(found):
            out.bullet(text)


def as_markdown(found: comparison_pb2.CompareJobsResponse) -> str:
    """Write a comparison as Markdown; text of jobs and models stays text."""
    lines = [f"**{prose(conclusion(found))}**", ""]
    for table in tables(found):
        marks = ("---:" if column.startswith(">") else "---" for column in table.columns)
        lines += [
            f"### {prose(table.title)}",
            "",
            _row(column.removeprefix(">") for column in table.columns),
            _row(marks, raw=True),
        ]
        lines += [_row(row) for row in table.rows]
        lines.append("")
    lines += [f"- {prose(_lettered(found, remark.message))}" for remark in found.remarks]
    return "\n".join(lines).rstrip("\n") + "\n"


def _row(cells: "Iterator[str] | Sequence[str]", *, raw: bool = False) -> str:
    return f"| {' | '.join(cell if raw else prose(cell) for cell in cells)} |"


def tables(found: comparison_pb2.CompareJobsResponse) -> Iterator[Table]:
    """The tables of a comparison, those without a row left out."""
    jobs = tuple(f">{letter(index)}" for index in range(len(found.jobs)))
    every = (
        _jobs(found),
        Table("Settings that differ", ("Setting", *jobs), [_difference(each) for each in found.differences]),
        Table("In the end", ("Metric", *jobs, "Compared"), [_metric(each) for each in found.metrics]),
        Table(
            "Curves", ("Metric", "Job", ">First", ">Lowest", ">Last", "Curve"), [_curve(each) for each in found.curves]
        ),
        Table(
            "Estimated and measured", ("Job", "Quantity", ">Estimated", ">Measured", ">Ratio"), list(_estimates(found))
        ),
        Table("Answers to the same prompts", ("Prompt", "Who", "Answer"), list(_samples(found)), wrap=True),
    )
    return (table for table in every if table.rows)


def _jobs(found: comparison_pb2.CompareJobsResponse) -> Table:
    columns = ("Job", "Id", "Name", "State", "Method", ">Steps", ">Tokens", ">Time", ">Step", ">Memory", ">Cost")
    rows = [
        [
            letter(index),
            short_name(job.name),
            job.display_name,
            state_name(job.state),
            job.method,
            str(job.steps),
            units.count(job.processed_tokens),
            units.duration(job.seconds) if job.HasField("seconds") else "-",
            units.duration(job.step_seconds) if job.HasField("step_seconds") else "-",
            units.size(job.peak_memory_bytes) if job.HasField("peak_memory_bytes") else "-",
            units.money(job.cost) if job.HasField("cost") else "-",
        ]
        for index, job in enumerate(found.jobs)
    ]
    return Table("Jobs", columns, rows)


def _difference(difference: comparison_pb2.SettingDifference) -> list[str]:
    return [difference.field_path, *(_setting(difference.field_path, value) for value in difference.values)]


def _setting(field_path: str, value: comparison_pb2.SettingValue) -> str:
    if not value.HasField("value"):
        return "-"
    source = f" [{value.rule_id}]" if value.rule_id not in ("", "request") else ""
    return f"{_plain(field_path, value.value)}{source}"


def _plain(field_path: str, value: struct_pb2.Value) -> str:
    """A value as a job file has it."""
    match value.WhichOneof("kind"):
        case "number_value":
            return f"{value.number_value:.10g}"
        case "string_value":
            return setting_word(field_path, value.string_value) or value.string_value
        case "bool_value":
            return "true" if value.bool_value else "false"
        case "struct_value" if not value.struct_value.fields:
            return "all defaults"
        case _:
            return json_format.MessageToJson(value, indent=None)


def _metric(metric: comparison_pb2.ComparedMetric) -> list[str]:
    cells = [_value(value) for value in metric.values]
    if metric.HasField("best"):
        cells[metric.best] += " (best)"
    unit = f", {metric.unit}" if metric.unit else ""
    if metric.metric == "loss":
        return [f"training loss{unit}", *cells, "no: it ranks nothing"]
    return [f"{metric.metric}{unit}", *cells, "yes" if metric.comparable else "no: rows or prompts differ"]


def _value(value: comparison_pb2.MetricValue) -> str:
    if not value.HasField("value"):
        return "-"
    before = f", base {value.before:.4g}" if value.HasField("before") else ""
    if not value.HasField("interval"):
        return f"{value.value:.4g}{before}"
    return f"{value.value:.4g} ({value.interval.low:.4g} to {value.interval.high:.4g}){before}"


def _curve(curve: comparison_pb2.ComparedCurve) -> list[str]:
    means = [point.mean for point in curve.points]
    lowest = min(point.min for point in curve.points)
    ends = (f"{means[0]:.4g}", f"{lowest:.4g}", f"{means[-1]:.4g}")
    return [curve.metric, letter(curve.job), *ends, sparkline(_thinned(means))]


def _thinned(values: Sequence[float], most: int = 40) -> list[float]:
    """At most so many values, evenly chosen, the last one among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(index * (len(values) - 1) / (most - 1))] for index in range(most)]


def _estimates(found: comparison_pb2.CompareJobsResponse) -> Iterator[list[str]]:
    for index, job in enumerate(found.jobs):
        for outcome in job.estimates:
            low, high = (_amount(outcome, end) for end in (outcome.estimated.low, outcome.estimated.high))
            expected = f"{_amount(outcome, outcome.estimated.expected)} ({low} to {high})"
            measured = _amount(outcome, outcome.actual) if outcome.HasField("actual") else "-"
            ratio = f"{outcome.ratio:.2f}" if outcome.HasField("ratio") else "-"
            outside = "" if outcome.inside or not outcome.HasField("actual") else " outside"
            quantity = _QUANTITIES.get(outcome.quantity, str(outcome.quantity))
            yield [letter(index), quantity, expected, measured + outside, ratio]


def _amount(outcome: comparison_pb2.EstimateOutcome, value: float) -> str:
    match outcome.quantity:
        case comparison_pb2.ESTIMATED_QUANTITY_DEVICE_BYTES:
            return units.size(value)
        case comparison_pb2.ESTIMATED_QUANTITY_COST:
            return units.amount_of(value, outcome.currency_code)
        case _:
            return units.duration(value)


def _samples(found: comparison_pb2.CompareJobsResponse) -> Iterator[list[str]]:
    for sample in found.samples:
        yield [_short(sample.prompt), "expected", _short(sample.expected)]
        for index, answer in enumerate(sample.answers):
            if answer.asked:
                yield ["", letter(index) + (" ✓" if answer.exact_match else ""), _short(answer.after)]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_ANSWER else f"{line[: MAX_ANSWER - 1]}…"


def _lettered(found: comparison_pb2.CompareJobsResponse, text: str) -> str:
    """Write the letters of jobs in place of their resource names."""
    for index, job in enumerate(found.jobs):
        text = text.replace(job.name, letter(index))
    return text
