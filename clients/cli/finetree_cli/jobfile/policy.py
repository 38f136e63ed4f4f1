# SPDX-License-Identifier: Apache-2.0
"""Limits of `finetree check`: a policy file (a PlanPolicy as strict YAML), and flags that override it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from finetree_cli.errors import BadInput, FileProblem, Position

if TYPE_CHECKING:
    from finetree_api.estimator.v1 import estimator_pb2

COSTS = ("max_cost", "max_monthly_cost")
"""Limits in a currency."""
SECONDS_PER_HOUR = 3600
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class LimitFlags:
    """Limits on the command line; None is not given."""

    max_cost_usd: float | None = None
    max_monthly_cost_usd: float | None = None
    max_hours: float | None = None
    max_memory_gib: float | None = None
    fits: bool = False
    max_energy_kwh: float | None = None
    max_carbon_kg: float | None = None
    min_confidence: str | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits of a check, and their positions in the policy file."""

    message: "estimator_pb2.PlanPolicy"
    file: str = ""
    positions: dict[str, Position] = field(default_factory=dict)

    def problem(self, path: str, text: str) -> FileProblem | None:
        """Add the position in the file to a service's violation of a limit; None for a limit from a flag."""
        name = path.removeprefix("policy").removeprefix(".")
        # Without a currency of its own, the file's costs are in the default one: the violation is theirs.
        names = [name, *COSTS] if name == "currency_code" else [name]
        position = next((self.positions[each] for each in names if each in self.positions), None)
        return FileProblem(position, name, text) if position is not None else None


def read_policy(file: str | None, flags: LimitFlags) -> Policy:
    """Read the limits of a file; flags replace them.

    Raises:
        BadInput: The file is no policy, there is no limit, or the limits are in two currencies.
    """
    found = _read(file) if file is not None else _empty()
    for name in _add(found.message, flags):
        found.positions.pop(name, None)  # the flag's value replaces the file's
    if not {item.name for item, _ in found.message.ListFields()} - {"currency_code"}:
        remedy = "give --max-cost-usd, --max-hours, --max-memory-gib, --fits or another limit, or --policy FILE"
        raise BadInput("no limit is given", remedy=remedy, reason="POLICY_EMPTY")
    return found


def _empty() -> Policy:
    from finetree_api.estimator.v1 import estimator_pb2

    return Policy(estimator_pb2.PlanPolicy())


def _read(name: str) -> Policy:
    from finetree_cli.jobfile.job import compose, read_text
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
    return Policy(found.message, file, reader.positions)


def _add(message: "estimator_pb2.PlanPolicy", flags: LimitFlags) -> list[str]:
    """Set the limits that flags give, and return their names."""
    in_dollars = {"max_cost": flags.max_cost_usd, "max_monthly_cost": flags.max_monthly_cost_usd}
    if any(value is not None for value in in_dollars.values()):
        if message.currency_code.upper() not in ("", "USD"):
            text = f"the policy file states its costs in {message.currency_code}, the flags in USD"
            raise BadInput(text, remedy="state all costs in the file", reason="CURRENCY_UNKNOWN")
        message.currency_code = "USD"
    limits = {
        **in_dollars,
        "max_seconds": _times(flags.max_hours, SECONDS_PER_HOUR),
        "max_device_bytes": _times(flags.max_memory_gib, GIB),
        "max_energy_kwh": flags.max_energy_kwh,
        "max_carbon_kg": flags.max_carbon_kg,
        "must_fit": flags.fits or None,
        "min_confidence": _level(flags.min_confidence),
    }
    given = {name: value for name, value in limits.items() if value is not None}
    for name, value in given.items():
        setattr(message, name, value)
    return list(given)


def _times(value: float | None, unit: int) -> float | int | None:
    """Convert to the contract's unit; bytes are rounded."""
    if value is None:
        return None
    return round(min(value * unit, 2**53 - 1)) if unit == GIB else value * unit


def _level(word: str | None) -> int | None:
    from finetree_api.estimator.v1 import estimator_pb2

    return None if word is None else estimator_pb2.ConfidenceLevel.Value(f"CONFIDENCE_LEVEL_{word.upper()}")
