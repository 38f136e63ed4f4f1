# SPDX-License-Identifier: Apache-2.0
"""plan.json: what `finetree check` found, for people, pipelines and `finetree train --plan`.

Every renderer is a pure function of this document. Numbers are JSON numbers. The same job files, policy, revisions and
day give the same bytes.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetree_cli.errors import BadInput
from finetree_cli.gate.document import DocumentError, JsonObject, JsonValue, from_json, schema, to_json

SCHEMA_VERSION = 1
"""Changes only when a reader of the former version would misread the document."""
MAX_FILE_BYTES = 64 << 20
"""Largest plan.json in bytes; an entry has about 10 kB."""

Verdict = Literal["PASS", "WARN", "FAIL", "UNDECIDED", "WAIVED"]
Severity = Literal["error", "warning", "info"]
Level = Literal["advisory", "overridable", "hard"]
Undecided = Literal["fail", "warn", "pass"]
Fit = Literal["FITS", "TIGHT", "DOES_NOT_FIT", "UNKNOWN"]
Change = Literal["new", "changed", "unchanged", "removed"]
Confidence = Literal["low", "medium", "high", "unknown"]
Unit = Literal["", "bytes", "seconds", "money", "kilowatt_hours", "kilograms_co2", "confidence_level", "tokens"]

WORST_FIRST: tuple[Verdict, ...] = ("FAIL", "UNDECIDED", "WARN", "WAIVED", "PASS")
"""Verdicts by how much they say against a plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One versioned piece of knowledge, as the estimator names it."""

    id: str
    sha256: str
    date: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revisions:
    """What the answers were computed with; None where the estimator named none."""

    engine: Component | None = None
    catalog: Component | None = None
    price_book: Component | None = None
    calibration: Component | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFile:
    """The policy file that was applied."""

    file: str
    sha256: str
    """SHA-256 of its text in UTF-8, 64 hex digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A predicted number: its interval and the best single estimate."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """A predicted amount of money."""

    low: float
    expected: float
    high: float
    currency_code: str
    """ISO 4217 code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a run takes; None is unknown."""

    memory_bytes: Range | None = None
    """Peak memory of one device."""
    duration_seconds: Range | None = None
    cost: Cost | None = None
    energy_kwh: Range | None = None
    fit: Fit = "UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actual:
    """What a finished run has taken, as its job measured it; None was not measured."""

    job: str
    """Resource name of the job."""
    state: str
    """State in which the job ended, in small letters: "succeeded"."""
    memory_bytes: float | None = None
    duration_seconds: float | None = None
    cost: float | None = None
    currency_code: str = ""
    """Of the cost; empty without one."""
    plan_digest: str = ""
    """Digest of the plan that ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A place in a job or policy file."""

    file: str
    line: int
    """From 1."""
    column: int
    """From 1."""
    field_path: str
    """RunSpec path of the setting; empty for the whole file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """A change of one setting of the job file."""

    field_path: str
    value: JsonValue
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """Changes after which every limit passes, to be made together."""

    summary: str
    patches: tuple[Patch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """An exception of the policy that lets a limit stand until a day; one that has expired does not."""

    reason: str
    owner: str
    until: str
    """Last day on which it holds, ISO 8601; empty for no end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A person's decision to let a limit stand; one of a limit that is not overridable has no effect."""

    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One limit of the policy, applied to one plan."""

    rule_id: str
    severity: Severity
    level: Level
    verdict: Verdict
    measured: Range | None
    """In `unit`; None where there is no number."""
    limit: float | None
    """In `unit`; None where the limit is no number."""
    allowed: tuple[str, ...] | None
    """Patterns of names that the limit allows; None where it lists none."""
    unit: Unit
    currency_code: str
    """ISO 4217 code where the unit is money, else empty."""
    base: Range | None
    """The number before the change, in `unit`; None without a base."""
    location: Location
    fix: Patch | None
    """Smallest single change after which this limit passes."""
    message: str
    waiver: Waiver | None
    override: Override | None
    measured_name: str = ""
    """The name that was judged, such as a model's; empty where the limit is about a number."""
    denied: tuple[str, ...] | None = None
    """Patterns of names that the limit denies; None where it lists none."""
    fingerprint: str
    """The same for the same limit of the same setting of the same file, whatever the numbers; 32 hex digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The size of the training data that the estimate was computed with; None is unknown."""

    examples: int
    total_tokens: int | None
    target_fraction: float | None
    exact: bool
    """Whether the tokens were counted with the model's tokenizer."""
    source: str
    """Where it comes from: "job", "options", or the data file that was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The price of the price book that the cost was computed with."""

    id: str
    provider: str
    region: str
    date: str
    """Day on which it was read, ISO 8601."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake in a file."""

    location: Location
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileError:
    """Why a job file could not be checked."""

    reason: str
    """Stable reason, such as JOB_FILE_INVALID."""
    message: str
    line: int
    """Line of the first problem, from 1; 1 for the file itself."""
    remedy: str = ""
    """What to do about it; empty where the message says it."""
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """A data file beside the job file, as it was when the job was checked."""

    field_path: str
    """"dataset" or "evaluation.dataset"."""
    path: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanEntry:
    """One job file: its plan, what it takes, and the limits that it keeps or breaks."""

    file: str
    file_sha256: str = ""
    """SHA-256 of the job file's text in UTF-8; empty where it was not read."""
    change: Change | None = None
    """Against the base; None without one."""
    former_file: str = ""
    """Name of the file in the base, where it is another one."""
    verdict: Verdict
    passed: bool
    """Whether the gate lets it through: false for FAIL and UNDECIDED."""
    policy: str = ""
    """Name of the named policy; empty for the one without a name."""
    undecided: Undecided = "fail"
    """What the policy makes of limits that are undecided."""
    plan_digest: str | None = None
    plan: JsonObject | None = None
    """The resolved plan (finetree_api.types.v1.Plan) as proto JSON with numbers; what `finetree train --plan` runs."""
    data_files: tuple[DataFile, ...] = ()
    memory_bytes: Range | None = None
    usable_memory_bytes: int | None = None
    """Memory of one device that a process can use; None where it is unknown."""
    duration_seconds: Range | None = None
    cost: Cost | None = None
    energy_kwh: Range | None = None
    carbon_kg: Range | None = None
    fit: Fit = "UNKNOWN"
    memory_confidence: Confidence = "unknown"
    time_confidence: Confidence = "unknown"
    price: Price | None = None
    base: Figures | None = None
    actual: Actual | None = None
    """Of the run that was made of this plan; None before it."""
    checks: tuple[CheckResult, ...] = ()
    remedies: tuple[Remedy, ...] = ()
    no_remedy: str = ""
    assumptions: tuple[str, ...] = ()
    profile: Profile | None = None
    error: FileError | None = None

    @property
    def figures(self) -> Figures:
        """The five figures that a base has too."""
        return Figures(
            memory_bytes=self.memory_bytes,
            duration_seconds=self.duration_seconds,
            cost=self.cost,
            energy_kwh=self.energy_kwh,
            fit=self.fit,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The document."""

    schema_version: int = SCHEMA_VERSION
    finetree_version: str
    verdict: Verdict
    """The worst of the plans."""
    passed: bool
    """Whether every plan passed and every file could be read."""
    as_of: str
    """Day for which waivers were judged, ISO 8601."""
    revisions: Revisions
    policy: PolicyFile | None
    base_ref: str | None = None
    plans: tuple[PlanEntry, ...]

    def to_json(self) -> JsonObject:
        """Convert to what `json.dumps` takes."""
        document: JsonObject = to_json(self)
        return document

    def to_text(self) -> str:
        """Format as the text of plan.json."""
        return json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, document: Any) -> "Report":
        """Read parsed JSON. Raises DocumentError, which names the place."""
        version = document.get("schema_version") if isinstance(document, dict) else None
        if isinstance(version, int) and version != SCHEMA_VERSION:
            raise DocumentError("schema_version", f"is {version}, and this finetree reads {SCHEMA_VERSION}")
        return from_json(cls, document)


def make_report(
    plans: Iterable[PlanEntry],
    *,
    as_of: str,
    revisions: Revisions,
    policy: PolicyFile | None = None,
    base_ref: str | None = None,
) -> Report:
    """Make the document of the plans; its verdict is the worst of theirs."""
    from finetree import __version__

    found = tuple(plans)
    return Report(
        finetree_version=__version__,
        verdict=worst(entry.verdict for entry in found),
        passed=all(entry.passed and entry.error is None for entry in found),
        as_of=as_of,
        revisions=revisions,
        policy=policy,
        base_ref=base_ref,
        plans=found,
    )


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst verdict; PASS for none."""
    given = set(verdicts)
    return next((each for each in WORST_FIRST if each in given), "PASS")


def fingerprint(file: str, rule_id: str, field_path: str) -> str:
    """Hash what identifies a finding across runs: 32 hex digits."""
    return hashlib.sha256(f"{file}\0{rule_id}\0{field_path}".encode("utf-8", "surrogateescape")).hexdigest()[:32]


def read_report(path: Path) -> Report:
    """Read a plan.json.

    Raises:
        BadInput: The file cannot be read or is no plan.json; the message names the place in it.
    """
    remedy = "`finetree check --output json=plan.json` writes one"
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise BadInput(
                f"{path}: larger than {MAX_FILE_BYTES} bytes; this is no plan file", reason="PLAN_FILE_INVALID"
            )
        return Report.from_json(json.loads(raw))
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}", remedy=remedy, reason="PLAN_FILE_UNREADABLE") from error
    except DocumentError as error:
        raise BadInput(f"{path}: {error}", remedy=remedy, reason="PLAN_FILE_INVALID") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON: {error}", remedy=remedy, reason="PLAN_FILE_INVALID") from error


def plan_schema() -> JsonObject:
    """Return the JSON Schema of plan.json."""
    return schema(Report, title="finetree plan.json")


def replace_plans(report: Report, plans: Iterable[PlanEntry]) -> Report:
    """Return the document with other plans of the same check, such as with `actual` filled in."""
    return dataclasses.replace(report, plans=tuple(plans))
