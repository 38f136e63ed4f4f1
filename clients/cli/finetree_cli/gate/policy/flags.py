# SPDX-License-Identifier: Apache-2.0
"""Limits and overrides that are given by options."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetree_cli.errors import BadInput

if TYPE_CHECKING:
    from finetree_api.estimator.v1 import check_plan_pb2
    from finetree_api.types.v1 import check_pb2
    from google.type import money_pb2

SECONDS_PER_HOUR = 3600
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class LimitFlags:
    """Limits on the command line; None is not given."""

    max_cost: "money_pb2.Money | None" = None
    max_monthly_cost: "money_pb2.Money | None" = None
    max_hours: float | None = None
    max_memory_gib: float | None = None
    fits: bool = False
    max_energy_kwh: float | None = None
    max_carbon_kg: float | None = None
    min_confidence: str | None = None


FLAGS = {
    "COST": "--max-cost",
    "MONTHLY_COST": "--max-monthly-cost",
    "DURATION_SECONDS": "--max-hours",
    "DEVICE_BYTES": "--max-memory-gib",
    "FIT": "--fits",
    "ENERGY_KWH": "--max-energy-kwh",
    "CARBON_KG": "--max-carbon-kg",
    "CONFIDENCE": "--min-confidence",
}
"""Option by the name of its PolicyMetric, without the prefix; the other metrics are a policy file's alone."""


def metric_name(metric: int) -> str:
    """Name of a PolicyMetric without its prefix: "COST"."""
    from finetree.display import units
    from finetree_api.estimator.v1 import check_plan_pb2

    return units.word(check_plan_pb2.PolicyMetric, metric).upper().replace(" ", "_")


def limits_of(flags: LimitFlags) -> "list[check_plan_pb2.PolicyLimit]":
    """Convert the options to limits in the contract's units."""
    from finetree_api.estimator.v1 import check_plan_pb2 as pb
    from finetree_api.types.v1 import evidence_pb2

    found = []
    for metric, money in (
        (pb.POLICY_METRIC_COST, flags.max_cost),
        (pb.POLICY_METRIC_MONTHLY_COST, flags.max_monthly_cost),
    ):
        if money is not None:
            found.append(pb.PolicyLimit(metric=metric, max_money=money))
    for metric, value, unit in (
        (pb.POLICY_METRIC_DURATION_SECONDS, flags.max_hours, SECONDS_PER_HOUR),
        (pb.POLICY_METRIC_DEVICE_BYTES, flags.max_memory_gib, GIB),
        (pb.POLICY_METRIC_ENERGY_KWH, flags.max_energy_kwh, 1),
        (pb.POLICY_METRIC_CARBON_KG, flags.max_carbon_kg, 1),
    ):
        if value is not None:
            found.append(pb.PolicyLimit(metric=metric, max=value * unit))
    if flags.fits:
        found.append(pb.PolicyLimit(metric=pb.POLICY_METRIC_FIT))
    if flags.min_confidence is not None:
        level = evidence_pb2.ConfidenceLevel.Value(f"CONFIDENCE_LEVEL_{flags.min_confidence.upper()}")
        found.append(pb.PolicyLimit(metric=pb.POLICY_METRIC_CONFIDENCE, min_confidence=level))
    return found


def undecided_of(fail_on: str | None) -> int:
    """Convert --fail-on to an UndecidedPolicy; 0 leaves it to the policy."""
    from finetree_api.estimator.v1 import check_plan_pb2 as pb

    if fail_on is None:
        return 0
    return pb.UNDECIDED_POLICY_WARN if fail_on == "fail" else pb.UNDECIDED_POLICY_FAIL


def overrides_of(texts: Sequence[str], by: str | None) -> "list[check_pb2.Override]":
    """Convert "RULE=REASON" of each --override, and --override-by. Raises BadInput."""
    from finetree_api.types.v1 import check_pb2

    if not texts:
        return []
    if not by:
        remedy = "name who takes the decision: --override-by NAME"
        raise BadInput("--override needs --override-by", remedy=remedy, reason="OVERRIDE_WITHOUT_NAME")
    found: dict[str, check_pb2.Override] = {}
    for text in texts:
        rule_id, separator, reason = text.partition("=")
        if not separator or not rule_id.strip() or not reason.strip():
            raise BadInput(f"--override {text!r}: expected RULE=REASON", remedy="such as --override 'cost=release day'")
        found[rule_id.strip()] = check_pb2.Override(rule_id=rule_id.strip(), by=by, reason=reason.strip())
    return list(found.values())
