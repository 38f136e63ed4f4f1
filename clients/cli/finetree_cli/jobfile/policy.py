# SPDX-License-Identifier: Apache-2.0
"""Limits of `finetree check`: a policy file (a PlanPolicy, strict proto JSON as YAML), and the flags over it."""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from finetree_cli.errors import BadInput

if TYPE_CHECKING:
    from finetree_api.estimator.v1 import estimator_pb2

    from finetree_cli.jobfile.yaml_reader import FileProblem, Place

COSTS = ("max_cost", "max_monthly_cost")
"""Limits in a currency."""
SECONDS_PER_HOUR = 3600
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class LimitFlags:
    """Limits as the command line states them; None is not said."""

    max_cost_usd: float | None = None
    max_monthly_cost_usd: float | None = None
    max_hours: float | None = None
    max_memory_gib: float | None = None
    fits: bool = False
    max_energy_kwh: float | None = None
    max_carbon_kg: float | None = None
    min_confidence: str | None = None

    @classmethod
    def take(cls, flags: dict[str, Any]) -> "LimitFlags":
        """Move these flags out of a command's keyword arguments."""
        return cls(**{item.name: flags.pop(item.name) for item in fields(cls)})


@dataclass(frozen=True, slots=True)
class Policy:
    """The limits of a check, and where the file states them."""

    message: "estimator_pb2.PlanPolicy"
    file: str = ""
    places: "dict[str, Place]" = field(default_factory=dict)

    def problem(self, path: str, text: str) -> "FileProblem | None":
        """A service's word on a limit with its place in the file; None where the limit is a flag's."""
        from finetree_cli.jobfile.yaml_reader import FileProblem

        name = path.removeprefix("policy").removeprefix(".")
        # A currency that is not stated is that of the costs.
        stated = [name, *COSTS] if name == "currency_code" else [name]
        place = next((self.places[each] for each in stated if each in self.places), None)
        return FileProblem(place, name, text) if place is not None else None


def policy(file: str | None, flags: LimitFlags) -> Policy:
    """The limits of a file with those of the flags in their place.

    Raises:
        BadInput: the file is no policy, nothing is limited, or limits are in two currencies.
    """
    found = _read(file) if file is not None else _empty()
    for name in _add(found.message, flags):
        found.places.pop(name, None)  # what a flag says is none of the file's any more
    if not {item.name for item, _ in found.message.ListFields()} - {"currency_code"}:
        remedy = "give --max-cost-usd, --max-hours, --max-memory-gib, --fits or another limit, or --policy FILE"
        raise BadInput("no limit is named", remedy=remedy, reason="POLICY_EMPTY")
    return found


def _empty() -> Policy:
    from finetree_api.estimator.v1 import estimator_pb2

    return Policy(estimator_pb2.PlanPolicy())


def _read(name: str) -> Policy:
    from finetree_cli.jobfile import job as job_file
    from finetree_cli.jobfile.yaml_reader import JobReader

    found = _empty()
    try:
        file, text = job_file.text_of(name)
        root = job_file.compose(text, file)
    except BadInput as error:
        reason = error.reason.replace("JOB_", "POLICY_")
        text = error.message.replace("no job file", "no policy file")
        raise BadInput(text, reason=reason, problems=error.problems) from error
    reader = JobReader(file)
    reader.read(root, found.message)
    if reader.problems:
        raise BadInput(f"{file} is no policy", reason="POLICY_FILE_INVALID", problems=reader.problems)
    return Policy(found.message, file, reader.places)


def _add(message: "estimator_pb2.PlanPolicy", flags: LimitFlags) -> list[str]:
    """Set what flags say; the names of it."""
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
    told = {name: value for name, value in limits.items() if value is not None}
    for name, value in told.items():
        setattr(message, name, value)
    return list(told)


def _times(value: float | None, unit: int) -> float | int | None:
    """In the contract's unit; bytes are whole."""
    if value is None:
        return None
    return round(min(value * unit, 2**53 - 1)) if unit == GIB else value * unit


def _level(word: str | None) -> int | None:
    from finetree_api.estimator.v1 import estimator_pb2

    return None if word is None else estimator_pb2.ConfidenceLevel.Value(f"CONFIDENCE_LEVEL_{word.upper()}")
