# SPDX-License-Identifier: Apache-2.0
"""Policies and their tests as text."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from finetree_api.estimator.v1 import check_plan_pb2
from finetree_api.types.v1 import check_pb2, evidence_pb2

from finetree_cli.gate.policy.flags import metric_name
from finetree_cli.gate.policy.policy import ScopedPolicy, ScopedWaiver, rule_id
from finetree_cli.gate.policy.testing import Outcome, Reach
from finetree_cli.render import units

if TYPE_CHECKING:
    from finetree_cli.gate.policy.policy import Policies

_SEVERITIES = {check_pb2.SEVERITY_INFO: "info", check_pb2.SEVERITY_WARNING: "warn", check_pb2.SEVERITY_ERROR: "deny"}


def show(policies: "Policies", scoped: Sequence[ScopedPolicy], *, as_of: str) -> str:
    """Format policies: for each its files, limits and waivers."""
    lines = [line for each in scoped for line in [*_policy(each, as_of=as_of), ""]]
    examples = f"{len(policies.examples)} examples" if len(policies.examples) != 1 else "1 example"
    return "\n".join([*lines, f"{policies.file}, sha256 {policies.sha256}: valid, {examples}"])


def show_test(outcomes: Sequence[Outcome], reached: Sequence[Reach]) -> str:
    """Format the examples of a policy file, and the verdicts that each limit was seen with."""
    lines = []
    for each in outcomes:
        where = f"{each.example.position.file}:{each.example.position.line}"
        lines.append(f"{'FAIL' if each.problems else 'ok':5}{where}  {each.example.name}")
        lines += [f"     {text}" for text in each.problems]
    lines += ["", "Verdicts of each limit:"]
    named = [f"{each.policy}: {each.rule_id}" if each.policy else each.rule_id for each in reached]
    width = max(map(len, named), default=0)
    for name, limit in zip(named, reached, strict=True):
        seen = ", ".join(limit.verdicts) or "not reached"
        never = f"; never {', never '.join(limit.never)}" if limit.never and limit.verdicts else ""
        lines.append(f"  {name:{width}}  {seen}{never}")
    passed = sum(not each.problems for each in outcomes)
    full = sum(not each.never for each in reached)
    lines.append(f"{passed} of {len(outcomes)} examples pass; {full} of {len(reached)} limits both passed and failed")
    return "\n".join(lines)


def _policy(scoped: ScopedPolicy, *, as_of: str) -> Iterator[str]:
    policy = scoped.policy
    files = ", ".join(scoped.files) or "every job file"
    yield f"{policy.name}: {files}" if policy.name else files
    width = max((len(name) for name in policy.rule_ids), default=0)
    for limit in policy.message.limits:
        yield f"  {rule_id(limit):{width}}  {bound(limit)} ({_weight(limit)})"
    word = units.word(check_plan_pb2.UndecidedPolicy, policy.message.undecided) if policy.message.undecided else "fail"
    yield f"  undecided limits: {word}"
    for waiver in scoped.waivers:
        yield f"  {_waiver(waiver, as_of)}"


def _waiver(scoped: ScopedWaiver, as_of: str) -> str:
    waiver = scoped.message
    files = f" for {', '.join(scoped.files)}" if scoped.files else ""
    word = "expired after" if waiver.until < as_of else "waived until"
    return f"{waiver.rule_id} {word} {waiver.until}{files} by {waiver.owner}: {waiver.reason}"


def _weight(limit: check_plan_pb2.PolicyLimit) -> str:
    """Words for severity and level, with what follows where they are unset."""
    advisory = limit.level == check_pb2.LIMIT_LEVEL_ADVISORY
    severity = limit.severity or (check_pb2.SEVERITY_WARNING if advisory else check_pb2.SEVERITY_ERROR)
    stops = severity == check_pb2.SEVERITY_ERROR
    level = limit.level or (check_pb2.LIMIT_LEVEL_HARD if stops else check_pb2.LIMIT_LEVEL_ADVISORY)
    return f"{_SEVERITIES[severity]}, {units.word(check_pb2.LimitLevel, level)}"


def bound(limit: check_plan_pb2.PolicyLimit) -> str:
    """Format the bound of a limit: "at most 8 h", "lora or qlora, not full"."""
    kind = limit.WhichOneof("bound")
    if kind == "max_money":
        from finetree.money import format_money

        return f"at most {format_money(limit.max_money)}"
    if kind == "max_increase":
        return f"at most {limit.max_increase:.0%} more than before"
    if kind == "min_confidence":
        return f"at least {units.word(evidence_pb2.ConfidenceLevel, limit.min_confidence)}"
    if kind == "names":
        allowed = " or ".join(limit.names.allowed) or "any"
        return f"{allowed}, not {' or '.join(limit.names.denied)}" if limit.names.denied else allowed
    return f"at most {_number(limit)}" if kind == "max" else "must fit"


def _number(limit: check_plan_pb2.PolicyLimit) -> str:
    name = metric_name(limit.metric)
    if name == "DURATION_SECONDS":
        return units.duration(limit.max)
    if name == "DEVICE_BYTES":
        return units.size(limit.max)
    unit = {"ENERGY_KWH": " kWh", "CARBON_KG": " kg CO2e", "EXAMPLES": " rows", "TOKENS": " tokens"}[name]
    return f"{limit.max:,.15g}{unit}"
