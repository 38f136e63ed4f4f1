# SPDX-License-Identifier: Apache-2.0
"""Limits of `finetree check`: a policy file (a PlanPolicy as strict YAML), and options that override it."""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from finetree_cli.errors import BadInput, FileProblem, Position
from finetree_cli.jobfile.job import compose, nearest, read_text

if TYPE_CHECKING:
    from finetree_api.estimator.v1 import check_plan_pb2
    from google.type import money_pb2

DEFAULT_FILE = ".finetree/policy.yaml"
"""Policy of a repository, from its root."""
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
"""Option by the name of its PolicyMetric, without the prefix."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits of a check, and where each comes from."""

    message: "check_plan_pb2.PlanPolicy"
    file: str = ""
    positions: dict[str, Position] = field(default_factory=dict)
    """Position in the file by path ("limits[0].max"); limits of options have none."""
    sha256: str = ""
    """Of the file's text."""

    def problem(self, path: str, text: str) -> FileProblem | None:
        """Add the position in the file to a service's violation of a limit; None for a limit of an option."""
        name = path.removeprefix("policy.")
        # `limits` itself has a position too, but a limit that an option has replaced or added is none of the file's.
        own = {place: found for place, found in self.positions.items() if place.startswith("limits[")}
        position = nearest(own, name)
        return FileProblem(position, name, text) if position is not None else None

    def flag(self, path: str) -> str:
        """Return the option that limits what a service's violation is about; "" without one."""
        from finetree_api.estimator.v1 import check_plan_pb2

        found = re.search(r"limits\[(\d+)\]", path)
        if found is None or int(found[1]) >= len(self.message.limits):
            return ""
        metric = self.message.limits[int(found[1])].metric
        return FLAGS.get(check_plan_pb2.PolicyMetric.Name(metric).removeprefix("POLICY_METRIC_"), "")


def read_policy(file: str | None, flags: LimitFlags) -> Policy:
    """Read the limits of a file, without one those of `DEFAULT_FILE`; options replace those of the same metric.

    Raises:
        BadInput: The file is no policy, or there is no limit.
    """
    if file is None and Path(DEFAULT_FILE).is_file():
        file = DEFAULT_FILE
    found = _read(file) if file is not None else _empty()
    for limit in _limits(flags):
        _set(found, limit)
    if not found.message.limits:
        remedy = "give --max-cost, --max-hours, --max-memory-gib, --fits or another limit, or --policy FILE"
        raise BadInput("no limit is given", remedy=remedy, reason="POLICY_EMPTY")
    return found


def file_sha256(name: str) -> str:
    """Hash the text of a policy file as its report names it. Raises BadInput for one that cannot be read."""
    return hashlib.sha256(read_text(name)[1].encode()).hexdigest()


def limits_of(flags: LimitFlags) -> "check_plan_pb2.PlanPolicy":
    """Convert options to a policy of their own."""
    from finetree_api.estimator.v1 import check_plan_pb2

    return check_plan_pb2.PlanPolicy(limits=_limits(flags))


def _empty() -> Policy:
    from finetree_api.estimator.v1 import check_plan_pb2

    return Policy(check_plan_pb2.PlanPolicy())


def _read(name: str) -> Policy:
    from finetree_cli.jobfile.yaml_reader import YamlReader

    found = _empty()
    try:
        file, text = read_text(name)
        root = compose(text, file)
    except BadInput as error:
        reason = error.reason.replace("JOB_", "POLICY_")
        text = error.message.replace("no job file", "no policy file")
        raise BadInput(text, reason=reason, problems=error.problems) from error
    reader = YamlReader(file)
    reader.read(root, found.message)
    if reader.problems:
        raise BadInput(f"{file} is no policy", reason="POLICY_FILE_INVALID", problems=reader.problems)
    return Policy(found.message, file, reader.positions, hashlib.sha256(text.encode()).hexdigest())


def _set(policy: Policy, limit: "check_plan_pb2.PolicyLimit") -> None:
    """Replace the file's limit of the same metric, or add one."""
    for index, present in enumerate(policy.message.limits):
        if present.metric == limit.metric:
            present.CopyFrom(limit)
            for path in [path for path in policy.positions if path.startswith(f"limits[{index}]")]:
                del policy.positions[path]
            return
    policy.message.limits.append(limit)


def _limits(flags: LimitFlags) -> "list[check_plan_pb2.PolicyLimit]":
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
