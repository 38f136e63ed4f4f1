# SPDX-License-Identifier: Apache-2.0
"""The policy of a job, and the policies of a file, of which each job has one."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from finetree_cli.errors import BadInput, FileProblem, Position
from finetree_cli.gate.policy.flags import FLAGS, LimitFlags, limits_of, metric_name
from finetree_cli.gate.policy.globs import matches
from finetree_cli.jobfile.job import nearest

if TYPE_CHECKING:
    from finetree_api.estimator.v1 import check_plan_pb2
    from finetree_api.types.v1 import check_pb2

    from finetree_cli.gate.policy.examples import Example

STDIN = "<stdin>"


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy of one job, and where its parts come from."""

    message: "check_plan_pb2.PlanPolicy"
    file: str = ""
    name: str = ""
    """Of a named policy; empty for that of a file with one."""
    positions: Mapping[str, Position] = field(default_factory=dict)
    """Position in the file by path in the message ("limits[0].max_money"); parts from options have none."""
    prefix: str = ""
    """What the paths begin with in the file ("policies.research.")."""

    def problem(self, path: str, text: str) -> FileProblem | None:
        """Add the position in the file to a service's violation; None for what comes from an option."""
        name = path.removeprefix("policy.")
        # `limits` itself has a position too, but a limit that an option has replaced or added is none of the file's.
        own = {place: found for place, found in self.positions.items() if "[" in place}
        position = nearest(own, name)
        # The file has one key for both bounds.
        shown = self.prefix + re.sub(r"\.max_money\b.*", ".max", name)
        return FileProblem(position, shown, text) if position is not None else None

    def flag(self, path: str) -> str:
        """Return the option that limits what a service's violation is about; "" without one."""
        found = re.search(r"limits\[(\d+)\]", path)
        if found is None or int(found[1]) >= len(self.message.limits):
            return ""
        return FLAGS.get(metric_name(self.message.limits[int(found[1])].metric), "")

    @property
    def rule_ids(self) -> tuple[str, ...]:
        """Ids of the checks of its limits, in order."""
        return tuple(rule_id(limit) for limit in self.message.limits)


@dataclass(frozen=True, slots=True)
class ScopedWaiver:
    """A waiver of a policy file, and the job files that it is for."""

    message: "check_pb2.Waiver"
    files: tuple[str, ...]
    """Globs; empty for every job of the policy."""
    path: str
    """Path in the file ("waivers[0]")."""


@dataclass(frozen=True, slots=True)
class ScopedPolicy:
    """A policy of a file, and the job files that it is for."""

    policy: Policy
    """Without waivers: which apply depends on the job."""
    files: tuple[str, ...]
    """Globs from `Policies.folder`; empty for every job."""
    waivers: tuple[ScopedWaiver, ...] = ()


@dataclass(frozen=True, slots=True)
class Policies:
    """The policies of a check: those of a file, or one of options alone."""

    scoped: tuple[ScopedPolicy, ...]
    """The first one whose files match a job applies to it."""
    file: str = ""
    sha256: str = ""
    """Of the file's text."""
    folder: Path = field(default_factory=Path)
    """Folder from which globs begin."""
    examples: "tuple[Example, ...]" = ()
    """Tests of the file's policies."""

    def of(self, job_file: str) -> Policy:
        """Return the policy of a job file, with its waivers. Raises BadInput where there is none."""
        return _with_waivers(self.scoped_for(job_file), self._relative(job_file))

    def scoped_for(self, job_file: str) -> ScopedPolicy:
        """Return the first policy whose files match a job file. Raises BadInput where there is none."""
        path = self._relative(job_file)
        for each in self.scoped:
            if not each.files or _is_among(path, each.files):
                return each
        remedy = "add its folder to a policy's `files`, or a last policy without `files`"
        text = f"{job_file}: no policy of {self.file} is for this job file"
        raise BadInput(text, remedy=remedy, reason="POLICY_NOT_FOUND")

    def named(self, name: str, job_file: str = "") -> Policy | None:
        """Return the policy of a name, with the waivers of a job file; None without one."""
        found = next((each for each in self.scoped if each.policy.name == name), None)
        return _with_waivers(found, self._relative(job_file)) if found is not None else None

    def job_files(self) -> list[str]:
        """Globs of all policies, from the current folder."""
        beside = os.path.relpath(self.folder)
        return [pattern if beside == "." else f"{beside}/{pattern}" for each in self.scoped for pattern in each.files]

    def with_flags(self, flags: LimitFlags, undecided: int = 0) -> "Policies":
        """Apply options to every policy: a limit replaces the file's of the same metric, `undecided` its treatment.

        Raises:
            BadInput: A policy has no limit.
        """
        limits = limits_of(flags)
        found = tuple(replace(each, policy=_changed(each.policy, limits, undecided)) for each in self.scoped)
        if any(not each.policy.message.limits for each in found):
            remedy = "give --max-cost, --max-hours, --max-memory-gib, --fits or another limit, or --policy FILE"
            raise BadInput("no limit is given", remedy=remedy, reason="POLICY_EMPTY")
        return replace(self, scoped=found)

    def _relative(self, job_file: str) -> str:
        """Path of a job file from the folder of the globs, with slashes; "" outside of it."""
        if job_file in ("", STDIN):
            return ""
        path = os.path.relpath(Path(job_file).absolute(), self.folder.absolute()).replace(os.sep, "/")
        return "" if path.startswith("../") else path


def rule_id(limit: "check_plan_pb2.PolicyLimit") -> str:
    """Id of a limit's check, as the contract has it."""
    increase = "_increase" if limit.HasField("max_increase") else ""
    return limit.rule_id or f"{metric_name(limit.metric).lower()}{increase}"


def _is_among(path: str, patterns: Sequence[str]) -> bool:
    return bool(path) and any(matches(pattern, path) for pattern in patterns)


def _with_waivers(scoped: ScopedPolicy, path: str) -> Policy:
    """Add the waivers of a job file; of two for one limit the one that holds longer."""
    chosen: dict[str, ScopedWaiver] = {}
    for waiver in scoped.waivers:
        if waiver.files and not _is_among(path, waiver.files):
            continue
        other = chosen.get(waiver.message.rule_id)
        if other is None or other.message.until < waiver.message.until:
            chosen[waiver.message.rule_id] = waiver
    if not chosen:
        return scoped.policy
    policy = scoped.policy
    positions = dict(policy.positions)
    message = type(policy.message)()
    message.CopyFrom(policy.message)
    for number, waiver in enumerate(chosen.values()):
        message.waivers.append(waiver.message)
        if waiver.path in positions:
            positions[f"waivers[{number}]"] = policy.positions[waiver.path]
    return replace(policy, message=message, positions=positions)


def _changed(policy: Policy, limits: "Sequence[check_plan_pb2.PolicyLimit]", undecided: int) -> Policy:
    """Replace limits of the same metric, add the others, and set the treatment of undecided limits."""
    message = type(policy.message)()
    message.CopyFrom(policy.message)
    del message.limits[:]
    given = {limit.metric: limit for limit in limits}
    positions = {path: found for path, found in policy.positions.items() if not path.startswith("limits[")}
    for number, limit in enumerate(policy.message.limits):
        if limit.metric in given and not limit.HasField("max_increase"):
            continue
        for path, found in policy.positions.items():
            if path == f"limits[{number}]" or path.startswith(f"limits[{number}]."):
                positions[path.replace(f"[{number}]", f"[{len(message.limits)}]", 1)] = found
        message.limits.append(limit)
    message.limits.extend(given.values())
    if undecided:
        message.undecided = undecided  # type: ignore[assignment]  # an open enum takes any number
    return replace(policy, message=message, positions=positions)
