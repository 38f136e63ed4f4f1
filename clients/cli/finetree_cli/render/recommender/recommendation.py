# SPDX-License-Identifier: Apache-2.0
"""Parts of a recommendation as text: methods, estimate and recipe."""

from finetree.money import format_money
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import check_pb2, estimate_summary_pb2, evidence_pb2, method_pb2
from google.type import money_pb2

from finetree_cli.output import Output
from finetree_cli.render import units

METHOD_NAMES: dict[int, str] = {
    method_pb2.METHOD_FULL: "full fine-tuning",
    method_pb2.METHOD_LORA: "LoRA",
    method_pb2.METHOD_QLORA: "QLoRA",
    method_pb2.METHOD_PREFIX: "prefix tuning",
    method_pb2.METHOD_ADAPTER: "adapter layers",
}
NONE = "-"


def method_name(method: int) -> str:
    """Return the display name of a method."""
    return METHOD_NAMES.get(method, "none" if method == method_pb2.METHOD_UNSPECIFIED else f"method {method}")


def show_head(out: Output, response: recommendation_pb2.RecommendResponse) -> None:
    """Print the verdict and the summary."""
    method = response.verdict.method
    out.heading(f"Recommendation: {method_name(method)}")
    words = response.summary or response.verdict.headline
    if words:
        out.paragraph(words)
    out.text()


def show_methods(out: Output, response: recommendation_pb2.RecommendResponse) -> None:
    """Print all five methods with the reasons for each verdict."""
    rows = [
        (
            method_name(item.method),
            units.word(recommendation_pb2.MethodVerdict, item.verdict),
            _size(item, "device_bytes"),
            units.duration(item.total_seconds.expected) if item.HasField("total_seconds") else NONE,
            f"{item.quality_percent.expected:.0f} %" if item.HasField("quality_percent") else NONE,
            "; ".join(reason.message for reason in item.reasons[:2]),
        )
        for item in response.methods
    ]
    out.table(["Method", "Verdict", ">Memory", ">Time", ">Quality", "Why"], rows, wrap=True)


def show_recipe(out: Output, response: recommendation_pb2.RecommendResponse) -> None:
    """Print every value of the recipe with its reason."""
    from finetree_cli.output import as_dict

    values = flat(as_dict(response.spec))
    reasons = {source.field_path: source for source in response.setting_sources}
    rows = [(path, value, _reason(reasons.get(path))) for path, value in values.items()]
    out.table(["Setting", "Value", "Why"], rows, wrap=True)


def show_estimate(out: Output, response: recommendation_pb2.RecommendResponse) -> None:
    """Print memory, time and cost of the recommended recipe."""
    if not response.HasField("estimate"):
        return
    found = response.estimate
    usable = f" of {units.size(found.usable_device_bytes)}" if found.usable_device_bytes else ""
    out.heading("Estimate")
    out.text(f"  memory  {units.size_range(found.device_bytes)}{usable}{_fit_note(found.fit)}")
    if found.HasField("total_seconds"):
        out.text(f"  time    {units.duration_range(found.total_seconds)}, {found.optimizer_steps} optimizer steps")
    else:
        out.text("  time    needs the data: give --data FILE, --dataset NAME or --examples N")
    if found.HasField("cost"):
        out.text(f"  cost    {units.money_range(found.cost)}")
    out.text()


def _fit_note(fit: int) -> str:
    """Format a fit that is not certain; "" for one that is."""
    return (
        "" if fit == estimate_summary_pb2.FIT_VERDICT_FITS else f"; {units.word(estimate_summary_pb2.FitVerdict, fit)}"
    )


def _size(item: recommendation_pb2.MethodAssessment, field: str) -> str:
    if not item.HasField("device_bytes"):
        return NONE
    interval: evidence_pb2.Interval = getattr(item, field)
    return units.size(interval.expected)


def _reason(source: check_pb2.SettingSource | None) -> str:
    return f"{source.reason} [{source.rule_id}]" if source is not None else ""


def flat(value: object, prefix: str = "") -> dict[str, str]:
    """Flatten a document to its leaves by path."""
    if not isinstance(value, dict):
        return {prefix: ", ".join(map(str, value)) if isinstance(value, list) else str(value)}
    if not value:
        return {prefix: "{}"}
    if "currency_code" in value:
        return {prefix: format_money(money_pb2.Money(**value))}
    found: dict[str, str] = {}
    for key, item in value.items():
        found |= flat(item, f"{prefix}.{key}" if prefix else str(key))
    return found
