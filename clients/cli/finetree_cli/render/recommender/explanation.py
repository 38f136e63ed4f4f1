# SPDX-License-Identifier: Apache-2.0
"""Recommendations as text in full: everything in the reply, with rules, ranges and sources."""

from collections.abc import Iterator

from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import check_pb2, evidence_pb2

from finetree_cli.jobfile.yaml_scalars import setting_word
from finetree_cli.output import Output
from finetree_cli.render import units
from finetree_cli.render.recommender.recommendation import (
    NONE,
    flat,
    method_name,
    show_estimate,
    show_head,
)
from finetree_cli.render.recommender.verdict import RENT, Asked, show_next, show_ways_out

REVISIONS = ("pack", "engine", "catalog", "price_book", "calibration")
"""Parts of a revision, beginning with the recommender's own."""
_HASH_LETTERS = 12


def show_explanation(out: Output, response: recommendation_pb2.RecommendResponse, asked: Asked) -> None:
    """Print every part of a recommendation; the texts of the reply must name options already."""
    show_head(out, response)
    show_ways_out(out, response)
    _show_inputs(out, response)
    _show_trace(out, response)
    _show_methods(out, response)
    show_estimate(out, response)
    _show_cautions(out, response)
    _show_changes(out, response)
    _show_confidence(out, response.confidence)
    _show_other_packs(out, response)
    _show_recipe(out, response)
    _show_revision(out, response)
    show_next(out, response, asked)


def source(provenance: evidence_pb2.Provenance) -> str:
    """Format a source: "Fine-tuning method decision tree, L264"."""
    return ", ".join(part for part in (provenance.source, provenance.locator, provenance.date) if part) or NONE


def _show_inputs(out: Output, response: recommendation_pb2.RecommendResponse) -> None:
    known = [(item.field_path, item.value) for item in response.inputs if item.known]
    unknown = [item.field_path for item in response.inputs if not item.known]
    out.table(["Input", "Value"], known, title="Inputs", wrap=True)
    if unknown:
        out.paragraph(f"Not provided: {', '.join(unknown)}.")
    for item in response.sharpen:
        out.bullet(item.message)
    out.text()


def _show_trace(out: Output, response: recommendation_pb2.RecommendResponse) -> None:
    rows = []
    for number, step in enumerate(response.trace, 1):
        overruled = f" (overrides {step.overruled_rule_id})" if step.overruled_rule_id else ""
        read = ", ".join(step.inputs_read)
        outcome = f"{step.outcome}{overruled}"
        rows.append((str(number), step.stage, step.rule_id, read or NONE, outcome, source(step.provenance)))
    out.table([">#", "Stage", "Rule", "Inputs read", "Outcome", "Source"], rows, title="Decision", wrap=True)


def _show_methods(out: Output, response: recommendation_pb2.RecommendResponse) -> None:
    rows = [
        (
            method_name(item.method),
            units.word(recommendation_pb2.MethodVerdict, item.verdict),
            *_figures(item),
            _frontier(item),
        )
        for item in response.methods
    ]
    columns = ["Method", "Verdict", "Quality", "Memory", "Time", "Cost", "Frontier"]
    out.table(columns, rows, title="Methods", wrap=True)
    for item in response.methods:
        out.text(f"{method_name(item.method)}: {units.word(recommendation_pb2.MethodVerdict, item.verdict)}")
        for reason in item.reasons:
            out.bullet(f"{reason.message} [{reason.code}, rule {reason.rule_id}]")
    out.text()


def _figures(item: recommendation_pb2.MethodAssessment) -> Iterator[str]:
    """Format the expected values, each with its interval."""
    yield _with_range(item, "quality_percent", lambda value: f"{value:.0f} %")
    yield _with_range(item, "device_bytes", units.size)
    yield _with_range(item, "total_seconds", units.duration)
    yield units.money_range(item.cost) if item.HasField("cost") else NONE


def _with_range(item: recommendation_pb2.MethodAssessment, field: str, words: "units.Words") -> str:
    if not item.HasField(field):  # type: ignore[arg-type]  # the field's name is one of this message's
        return NONE
    interval: evidence_pb2.Interval = getattr(item, field)
    if interval.low == interval.high:
        return words(interval.expected)
    return f"{words(interval.expected)} ({words(interval.low)} to {words(interval.high)})"


def _frontier(item: recommendation_pb2.MethodAssessment) -> str:
    if item.on_pareto_frontier:
        return "on it"
    return f"dominated by {method_name(item.dominated_by)}" if item.dominated_by else NONE


def _show_cautions(out: Output, response: recommendation_pb2.RecommendResponse) -> None:
    if not response.cautions:
        return
    out.heading("Cautions")
    for caution in response.cautions:
        # An offer to rent names its method.
        redirected = caution.redirect and caution.code != RENT
        instead = f"; consider {method_name(caution.redirect)}" if redirected else ""
        out.bullet(f"{caution.message}{instead} [{caution.code}, rule {caution.rule_id}]")
    out.text()


def _show_changes(out: Output, response: recommendation_pb2.RecommendResponse) -> None:
    """Print the smallest changes of one input that lead to another verdict."""
    rows = [
        (
            item.field_path,
            item.from_value,
            item.to_value,
            f"{item.threshold:g} {item.unit}" if item.HasField("threshold") else NONE,
            method_name(item.resulting_method),
            item.rule_id or NONE,
        )
        for item in response.counterfactuals
    ]
    title = "What would change the verdict"
    if rows:
        out.table(["Input", "From", "To", "Threshold", "New verdict", "Rule"], rows, title=title, wrap=True)
    else:
        out.heading(title)
        out.paragraph("No change of one input does.")
        out.text()


def _show_confidence(out: Output, confidence: recommendation_pb2.VerdictConfidence) -> None:
    level = units.word(evidence_pb2.ConfidenceLevel, confidence.level)
    score = f" ({confidence.score:.2f} of 1)" if confidence.definition else ""
    out.heading(f"Confidence: {level}{score}")
    if confidence.abstained:
        out.paragraph("No rule covers these inputs: the verdict is a default.")
    for factor in confidence.factors:
        out.bullet(factor.message)
    if confidence.definition:
        out.paragraph(confidence.definition)
    if confidence.robustness:
        out.paragraph(f"Robustness: {confidence.robustness:.0%} of the changes of one answer keep the verdict.")
    out.text()


def _show_other_packs(out: Output, response: recommendation_pb2.RecommendResponse) -> None:
    rows = [
        (item.rule_pack, method_name(item.method), "agrees" if item.agrees else "differs", item.reason or NONE)
        for item in response.other_packs
    ]
    if rows:
        out.table(["Rule pack", "Method", "", "Why"], rows, title="Other rule packs", wrap=True)


def _show_recipe(out: Output, response: recommendation_pb2.RecommendResponse) -> None:
    from finetree_cli.output import as_dict

    if not response.HasField("spec"):
        return
    sources = {item.field_path: item for item in response.setting_sources}
    nothing = check_pb2.SettingSource()
    rows = []
    for path, value in flat(as_dict(response.spec)).items():
        item = sources.get(path, nothing)
        why = f"{item.reason} [{item.rule_id}]" if item.rule_id else item.reason or "as requested"
        rows.append((path, setting_word(path, value) or value, limits(item), why, source(item.provenance)))
    out.table(["Setting", "Value", "Range", "Why", "Source"], rows, title="Recipe", wrap=True)


def limits(item: check_pb2.SettingSource) -> str:
    """Format the recommended range of a setting."""
    if not (item.HasField("min") or item.HasField("max")):
        return NONE
    low = f"{item.min:g}" if item.HasField("min") else ""
    high = f"{item.max:g}" if item.HasField("max") else ""
    return f"{low} to {high}".strip()


def _show_revision(out: Output, response: recommendation_pb2.RecommendResponse) -> None:
    rows = []
    for name in REVISIONS:
        part: evidence_pb2.RevisionComponent = getattr(response.revision, name)
        if part.id:
            rows.append((name.replace("_", " "), part.id, part.date or NONE, part.sha256[:_HASH_LETTERS] or NONE))
    out.table(["", "Version", "Date", "SHA-256"], rows, title="Computed with")
    if response.plan_digest:
        out.text(f"Plan: {response.plan_digest}")
