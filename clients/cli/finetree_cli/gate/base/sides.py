# SPDX-License-Identifier: Apache-2.0
"""The two sides of a change: each a plan.json, a folder, a commit or the working tree, estimated by one estimator."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetree_api.estimator.v1 import check_plan_pb2
from finetree_api.types.v1 import check_pb2, evidence_pb2

from finetree_cli.errors import BadInput
from finetree_cli.gate.base.checkout import check_out, job_files
from finetree_cli.gate.base.difference import compare
from finetree_cli.gate.base.git import Commit, find_commit
from finetree_cli.gate.check_jobs import Checks
from finetree_cli.gate.job_files import read_jobs
from finetree_cli.gate.lock import DEFAULT_FILE, Lock, find_lock_file, pack_drifts, read_lock
from finetree_cli.gate.policy.file import read_policies
from finetree_cli.gate.policy.policy import Policy
from finetree_cli.gate.report import PlanEntry, Report, Revisions, make_report, read_report

if TYPE_CHECKING:
    from finetree_api.estimator.v1 import estimate_pb2

    from finetree_cli.jobfile.job import JobFile


@dataclass(frozen=True, slots=True)
class Base:
    """The jobs of a commit, estimated."""

    report: Report
    requests: "Mapping[str, estimate_pb2.EstimateRunRequest]"
    """What was asked for each job file of the commit."""
    renames: Mapping[str, str]
    """File of the commit by present file, where they differ."""

    def run_of(self, file: str) -> "estimate_pb2.EstimateRunRequest | None":
        """Return the run that a present file had in the commit; None for a new one."""
        return self.requests.get(self.renames.get(file, file))


@dataclass(frozen=True, slots=True)
class Compared:
    """A comparison, and what a reader must know about it."""

    report: Report
    notes: tuple[str, ...]


def read_base(commit: Commit, paths: Sequence[str], *, files: Sequence[str], checks: Checks) -> Base:
    """Estimate the job files of a commit.

    Args:
        commit: the base.
        paths: what the user gave, as `find_job_files` takes them.
        files: the job files that they mean in the working tree.
        checks: gives the estimator and the requests; its policies are left out.

    Raises:
        BadInput: A path is in no commit.
    """
    requests: dict[str, estimate_pb2.EstimateRunRequest] = {}

    def request_of(job: "JobFile") -> "estimate_pb2.EstimateRunRequest":
        requests[job.file] = checks.request_of(job)
        return requests[job.file]

    unlimited, policy = dataclasses.replace(checks, request_of=request_of), no_limits()
    with check_out(commit, paths, present=files) as side:
        report = _estimated(side.folder, side.files, dataclasses.replace(unlimited, policy_of=lambda _: policy))
    return Base(report, requests, side.renames)


def difference(base: str, head: str | None, paths: Sequence[str], *, checks: Checks) -> Compared:
    """Compare two sides: each a folder, a plan.json or else a commit; a head of None is the working tree.

    Args:
        base: before the change.
        head: after it.
        paths: job files, folders and globs, relative to the current folder or to the folder of a side; without any,
            the whole folder, and in the repository the files that its policies are for. Not for a plan.json.
        checks: gives the estimator and the requests.

    Raises:
        BadInput: A side is none of these, or no side has a job.
    """
    before, now = _commit(base), _commit(head)
    if not paths and before is not None and (head is None or now is not None):
        named = read_policies(None).job_files()
        paths = named if job_files(named) else ()
    if now is None:
        lock_file = Path(head, DEFAULT_FILE) if head is not None else Path(find_lock_file() or DEFAULT_FILE)
        after, head_lock = _present(head, paths, checks), _lock(lock_file)
    else:
        with check_out(now, paths) as side:
            after, head_lock = _estimated(side.folder, side.files, checks), _lock(side.lock)
    renames: Mapping[str, str] = {}
    if before is None:
        former, base_lock = _present(base, paths, checks), _lock(Path(base, DEFAULT_FILE))
    else:
        with check_out(before, paths, present=[entry.file for entry in after.plans], later=now) as side:
            former, renames = _estimated(side.folder, side.files, checks), side.renames
            base_lock = _lock(side.lock)
    found = compare(former, after, base_ref=base, renames=renames)
    if not found.plans:
        remedy = "name the job files, or call them finetree.yaml or NAME.finetree.yaml"
        raise BadInput("neither side has a job file", remedy=remedy, reason="JOB_FILES_NOT_FOUND")
    return Compared(found, (*_other_revisions(former, after), *_other_packs(base_lock, head_lock)))


def _lock(file: Path) -> Lock | None:
    """Read the lock file of a side; None where it has none, as a plan.json has. Raises BadInput for a broken one."""
    return read_lock(file) if file.is_file() else None


def _other_packs(base: Lock | None, head: Lock | None) -> list[str]:
    """Name the rule packs that the sides lock otherwise: recommendations may differ, the figures do not."""
    if base is None or head is None:
        return []
    return [f"{drift} in {DEFAULT_FILE}: recommendations may differ" for drift in pack_drifts(base, head)]


def _other_revisions(base: Report, head: Report) -> list[str]:
    """Name the revisions that differ between the sides: a part of the difference is theirs."""
    if any(all(entry.error is not None for entry in side.plans) for side in (base, head)):
        return []  # nothing was computed on a side, so it has none
    pairs = [
        (item.name, getattr(base.revisions, item.name), getattr(head.revisions, item.name))
        for item in dataclasses.fields(Revisions)
    ]
    return [
        f"{name} differs between the sides ({before.id if before else 'none'}, {after.id if after else 'none'}): "
        "a part of the difference is its"
        for name, before, after in pairs
        if before != after
    ]


def _commit(side: str | None) -> Commit | None:
    """Find the commit of a side that is neither the working tree nor a file or folder. Raises BadInput."""
    return None if side is None or Path(side).exists() else find_commit(side)


def _present(side: str | None, paths: Sequence[str], checks: Checks) -> Report:
    """Read a plan.json, or estimate the job files of a folder; None is the current one."""
    folder = Path(side or ".")
    if not folder.is_dir():
        return read_report(folder)
    with contextlib.chdir(folder):
        files = job_files(paths)
    return _estimated(folder, files, checks)


def no_limits() -> Policy:
    """Return a policy that every plan keeps, so that nothing is searched that would pass: a check needs some limit."""
    limit = check_plan_pb2.PolicyLimit(
        metric=check_plan_pb2.POLICY_METRIC_CONFIDENCE,
        min_confidence=evidence_pb2.CONFIDENCE_LEVEL_LOW,
        severity=check_pb2.SEVERITY_INFO,
    )
    return Policy(check_plan_pb2.PlanPolicy(limits=[limit]))


def _estimated(folder: Path, files: Sequence[str], checks: Checks) -> Report:
    """Estimate the job files of a folder."""
    with contextlib.chdir(folder):
        plans, revisions = checks.run(read_jobs(files))
    return make_report(map(_without_checks, plans), as_of="", revisions=revisions)


def _without_checks(entry: PlanEntry) -> PlanEntry:
    if entry.error is not None:
        return entry
    return dataclasses.replace(entry, verdict="PASS", passed=True, checks=(), remedies=(), no_remedy="")
