# SPDX-License-Identifier: Apache-2.0
"""A recommendation as text."""

from finetree_api.recommender.v1 import recommender_pb2 as pb
from finetree_api.types.v1 import evidence_pb2

from finetree_cli.output import Output
from finetree_cli.render import units

METHOD_NAMES: dict[int, str] = {
    pb.METHOD_FULL: "full fine-tuning",
    pb.METHOD_LORA: "LoRA",
    pb.METHOD_QLORA: "QLoRA",
    pb.METHOD_PREFIX: "prefix tuning",
    pb.METHOD_ADAPTER: "adapter layers",
}
NONE = "-"


def method_name(method: int) -> str:
    """Name of a method for people."""
    return METHOD_NAMES.get(method, "none" if method == pb.METHOD_UNSPECIFIED else f"method {method}")


def show(out: Output, response: pb.RecommendResponse) -> None:
    """Verdict, methods, trace, recipe, estimate, cautions."""
    out.text(f"Recommendation: {method_name(response.verdict.method)}")
    out.text(f"  {response.verdict.headline}")
    if response.summary and response.summary != response.verdict.headline:
        out.text(f"  {response.summary}")
    show_methods(out, response)
    show_trace(out, response)
    show_recipe(out, response)
    _show_estimate(out, response)
    _show_remarks(out, response)


def show_methods(out: Output, response: pb.RecommendResponse) -> None:
    """All five methods and why each was taken or not."""
    rows = [
        (
            method_name(item.method),
            units.word(pb.MethodVerdict, item.verdict),
            _size(item, "device_bytes"),
            units.duration(item.total_seconds.expected) if item.HasField("total_seconds") else NONE,
            f"{item.quality_percent.expected:.0f} %" if item.HasField("quality_percent") else NONE,
            "; ".join(reason.message for reason in item.reasons[:2]),
        )
        for item in response.methods
    ]
    out.table(["Method", "Verdict", ">Memory", ">Time", ">Quality", "Why"], rows)


def show_trace(out: Output, response: pb.RecommendResponse) -> None:
    """What was decided, in order."""
    out.text("How it was decided")
    for number, step in enumerate(response.trace, 1):
        overruled = f" (overrules {step.overruled_rule_id})" if step.overruled_rule_id else ""
        out.text(f"  {number:2}. {step.stage}: {step.outcome}{overruled} [{step.rule_id}]")
    out.text()


def show_recipe(out: Output, response: pb.RecommendResponse) -> None:
    """Every value of the recipe with its reason."""
    from finetree_cli.output import as_dict

    values = _flat(as_dict(response.spec))
    reasons = {source.field_path: source for source in response.setting_sources}
    rows = [(path, value, _reason(reasons.get(path))) for path, value in values.items()]
    out.table(["Setting", "Value", "Why"], rows)


def _show_estimate(out: Output, response: pb.RecommendResponse) -> None:
    if not response.HasField("estimate"):
        return
    found = response.estimate
    usable = f" of {units.size(found.usable_device_bytes)}" if found.usable_device_bytes else ""
    out.text("What it will take")
    out.text(f"  memory  {units.size_range(found.device_bytes)}{usable}{'' if found.fits else '; may not fit'}")
    if found.HasField("total_seconds"):
        out.text(f"  time    {units.duration_range(found.total_seconds)}, {found.optimizer_steps} optimizer steps")
    else:
        out.text("  time    unknown without the data: give --examples N or --dataset NAME")
    if found.HasField("cost_amount"):
        out.text(f"  cost    {units.money_range(found.cost_amount, found.currency_code)}")
    out.text()


def _show_remarks(out: Output, response: pb.RecommendResponse) -> None:
    level = units.word(pb.ConfidenceLevel, response.confidence.level)
    factors = f": {'; '.join(response.confidence.factors)}" if response.confidence.factors else ""
    out.text(f"Confidence: {level}{factors}")
    for caution in response.cautions:
        out.text(f"Caution: {caution.message} [{caution.code}]")
    for other in response.counterfactuals:
        change = f"{other.field_path} from {other.from_value} to {other.to_value}"
        out.text(f"Another answer: {change} would give {method_name(other.resulting_method)}")
    for pack in response.other_packs:
        out.text(f"The pack {pack.policy} says {method_name(pack.method)}: {pack.reason}")
    out.text(f"Plan: {response.plan_digest}")


def _size(item: pb.MethodAssessment, field: str) -> str:
    if not item.HasField("device_bytes"):
        return NONE
    interval: evidence_pb2.Interval = getattr(item, field)
    return units.size(interval.expected)


def _reason(source: evidence_pb2.SettingSource | None) -> str:
    return f"{source.reason} [{source.rule_id}]" if source is not None else ""


def _flat(value: object, prefix: str = "") -> dict[str, str]:
    """Leaves of a document by their path."""
    if not isinstance(value, dict):
        return {prefix: ", ".join(map(str, value)) if isinstance(value, list) else str(value)}
    if not value:
        return {prefix: "{}"}
    found: dict[str, str] = {}
    for key, item in value.items():
        found |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return found
