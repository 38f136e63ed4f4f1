# SPDX-License-Identifier: Apache-2.0
"""Evaluation reports as text: the verdict first, then metrics with intervals, then answers side by side."""

from finetree_api.trainer.v1 import evaluation_pb2

from finetree_cli.output import Output

SHOWN = 160
"""Longest answer in a table, in characters; --json has more, and the artifact all."""
_MARKS = {
    evaluation_pb2.EVALUATION_VERDICT_BETTER: "better",
    evaluation_pb2.EVALUATION_VERDICT_WORSE: "worse",
    evaluation_pb2.EVALUATION_VERDICT_NOT_TOLD_APART: "not told apart",
}


def conclusion(one: evaluation_pb2.SubjectConclusion) -> str:
    """Return the word of a conclusion, such as NOT_WORTH_IT."""
    name = evaluation_pb2.EvaluationConclusion.Name(one.conclusion)
    return name.removeprefix("EVALUATION_CONCLUSION_")


def metric(kind: evaluation_pb2.EvaluationMetric.ValueType) -> str:
    """Return a metric's name, such as "token accuracy"."""
    name = evaluation_pb2.EvaluationMetric.Name(kind).removeprefix("EVALUATION_METRIC_")
    return name if name == "F1" else name.lower().replace("_", " ")


def show(out: Output, report: evaluation_pb2.EvaluationReport) -> None:
    """Print a report."""
    out.heading(report.headline)
    if len(report.conclusions) > 1:
        for one in report.conclusions:
            out.bullet(f"{one.label}: {conclusion(one)}: {one.text}")
    for caution in report.cautions:
        out.bullet(f"caution {caution.code}: {caution.message}")
    out.text()
    rows = f"{report.rows} rows" if report.rows == report.rows_in_file else f"{report.rows} of {report.rows_in_file}"
    share = f"{report.confidence:.0%}"
    out.table(*_values(report), title=f"Measured on {rows}, with {share} intervals")
    out.table(
        *_differences(report), title=f"Paired differences, with {share} intervals (bootstrap, {report.resamples})"
    )
    for sample in report.samples:
        _show_sample(out, sample)


def _values(report: evaluation_pb2.EvaluationReport) -> tuple[list[str], list[list[str]]]:
    labels = [model.label for model in report.models]
    found = {(model.label, one.metric): one for model in report.models for one in model.metrics}
    kinds = sorted({kind for _, kind in found})
    rows = []
    for kind in kinds:
        cells = [found.get((label, kind)) for label in labels]
        rows.append([metric(kind), *("" if one is None else _interval(one, "value") for one in cells)])
    return ["metric", *labels], rows


def _differences(report: evaluation_pb2.EvaluationReport) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            one.label,
            one.against,
            metric(one.metric) + (" (decides)" if one.metric == report.decided_by else ""),
            _interval(one, "difference", sign="+"),
            f"{one.differing_rows} of {one.rows}",
            _MARKS.get(one.verdict, ""),
        ]
        for one in report.comparisons
    ]
    return ["subject", "against", "metric", "difference", "rows that differ", "verdict"], rows


def _interval(
    one: evaluation_pb2.EvaluatedMetric | evaluation_pb2.EvaluationComparison, name: str, *, sign: str = ""
) -> str:
    """Format a number with its interval: "0.512 [0.431, 0.588]"."""
    if not one.HasField(name):  # type: ignore[arg-type]  # "value" or "difference"
        return "not finite"
    ends = f" [{one.low:{sign}.3f}, {one.high:{sign}.3f}]" if one.HasField("low") else ""
    return f"{getattr(one, name):{sign}.3f}{ends}"


def _show_sample(out: Output, sample: evaluation_pb2.EvaluationSample) -> None:
    rows = [["expected", _short(sample.expected), ""]]
    rows += [[one.label, _short(one.text), "right" if one.correct else ""] for one in sample.answers]
    out.table(["", "answer", ""], rows, title=f"Row {sample.row}: {_short(sample.prompt)}", wrap=True)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"
