# SPDX-License-Identifier: Apache-2.0
"""`finetree lock`: pin what answers are computed with, and show what an upgrade does to every job."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finetree_cli.errors import BadInput
from finetree_cli.gate.repository import DEFAULT
from finetree_cli.options.command import Command, Settings, pass_settings

if TYPE_CHECKING:
    from finetree_cli.gate.lock import Drift, Lock
    from finetree_cli.gate.report import Component, PlanEntry, Revisions


@dataclass(frozen=True, slots=True)
class _Present:
    """What would be locked now."""

    revisions: "Revisions"
    packs: "tuple[Component, ...]"
    plans: "tuple[PlanEntry, ...]"


@click.command(
    cls=Command,
    examples=(
        "finetree lock",
        "finetree lock --check",
        "finetree lock --upgrade --price-book prices.csv",
        "finetree lock --upgrade --json | jq '.jobs[] | {file, after: .after.cost.expected}'",
    ),
)
@click.argument("paths", nargs=-1)
@click.option("--upgrade", is_flag=True, help="Show what differs and what it does to every job, and write the lock.")
@click.option("--check", is_flag=True, help="Only compare; write nothing.")
@click.option("--lock", "lock_file", metavar="FILE", help=f"The lock file. [default: .finetree/lock.json, {DEFAULT}]")
@click.option("--price-book", type=click.Path(path_type=Path), metavar="FILE", help="Your own prices (CSV).")
@click.option("--local", is_flag=True, help="Use no server, even if an address is given.")
@pass_settings
def lock(
    settings: Settings,
    /,
    *,
    paths: tuple[str, ...],
    upgrade: bool,
    check: bool,
    lock_file: str | None,
    price_book: Path | None,
    local: bool,
) -> None:
    """Lock what answers are computed with: formulas, catalog, price book, calibration and rule packs, by hash.

    PATHS are job files as `finetree check` takes them; the lock keeps what each takes. Without any, they are those of
    the whole folder that the lock is for. Writes .finetree/lock.json if there is none, beside the policy if there is
    one, else in the current folder. If there is one and something differs, it exits with 5 and names it; --upgrade
    shows the effect on every job, and writes it. `finetree check --locked` refuses to answer with anything else.
    """
    from finetree_cli.gate import lock as locks

    if upgrade and check:
        raise click.UsageError("give either --upgrade or --check")
    file = locks.require_lock_file(lock_file) if check else lock_file or locks.place_of_lock()
    path, root = Path(file), locks.root_of(file)
    before = locks.read_lock(path) if check or path.exists() else None
    present = _present(settings, paths, root=root, price_book=price_book, local=local)
    after = locks.make_lock(present.revisions, present.packs, present.plans)
    found = locks.drifts(before, present.revisions, present.packs) if before is not None else []
    if found and before is not None and not upgrade:
        locks.require_locked(before, str(path), present.revisions, present.packs)
    if not check:
        _write(path, after)
    _show(settings, path, before, after, found=found, written=not check)


def _present(
    settings: Settings, paths: tuple[str, ...], *, root: Path, price_book: Path | None, local: bool
) -> _Present:
    """Ask for the present revisions and for what each job takes; `root` is the folder that files are named from."""
    from finetree import spec_from_dict
    from finetree_api.estimator.v1 import estimate_pb2

    from finetree_cli.backends.discovery import has_address
    from finetree_cli.backends.estimator import open_estimator
    from finetree_cli.gate.base.sides import no_limits
    from finetree_cli.gate.check_jobs import Checks
    from finetree_cli.gate.entry import revisions
    from finetree_cli.gate.job_files import find_job_files, read_jobs
    from finetree_cli.gate.outcome import failure
    from finetree_cli.gate.policy.file import read_policies
    from finetree_cli.gate.report import make_report
    from finetree_cli.options.plan_request import PlanFlags, plan_request
    from finetree_cli.options.program import ProgramFlags
    from finetree_cli.options.spec import OwnershipFlags

    files = find_job_files(paths, named=read_policies(None).job_files(), below=str(root), needed=bool(paths))
    own = local or not has_address("estimator", settings)
    with open_estimator(settings, "CheckPlan" if files else "EstimateRun", local=own, price_book=price_book) as found:
        unlimited = no_limits()
        checks = Checks(
            found,
            lambda _: unlimited,
            lambda job: plan_request(
                job, settings.out, plan=PlanFlags(), owner=OwnershipFlags(), program=ProgramFlags()
            ),
        )
        plans, present = checks.run(read_jobs(files, given=paths))
        if not plans:
            # Any question is answered with the revisions; this one needs no file.
            question = {"model": {"name": "smollm2-135m-instruct"}, "lora": {}, "hardware": {"accelerator": "rtx-4090"}}
            spec = spec_from_dict(question)
            present = revisions(found.estimate(estimate_pb2.EstimateRunRequest(spec=spec)).revision)
    report = make_report(plans, as_of="", revisions=present)
    stop = failure(report) if any(entry.error is not None for entry in plans) else None
    if stop is not None:
        raise BadInput(stop.message, remedy=stop.remedy, reason=stop.reason, problems=getattr(stop, "problems", ()))
    return _Present(present, _packs(settings, local=local), tuple(_from(root, entry) for entry in plans))


def _from(root: Path, entry: "PlanEntry") -> "PlanEntry":
    """Name a job's file from the folder of the lock, wherever the command was started."""
    if root == Path() or Path(entry.file).is_absolute():
        return entry
    return replace(entry, file=Path(os.path.relpath(entry.file, root)).as_posix())


def _packs(settings: Settings, *, local: bool) -> "tuple[Component, ...]":
    from finetree_cli.backends.discovery import has_address
    from finetree_cli.backends.recommender import open_recommender
    from finetree_cli.gate.report import Component

    own = local or not has_address("recommender", settings)
    with settings.client() as client, open_recommender(settings, client, "ListRulePacks", local=own) as recommender:
        return tuple(
            Component(id=pack.id, sha256=pack.sha256, date=pack.date) for pack in recommender.list_rule_packs()
        )


def _write(path: Path, lock: "Lock") -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lock.to_text(), encoding="utf-8", newline="\n")
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}", reason="LOCK_FILE_UNWRITABLE") from error


def _show(
    settings: Settings, path: Path, before: "Lock | None", after: "Lock", *, found: "list[Drift]", written: bool
) -> None:
    from finetree_cli.render.gate import lock as text

    if settings.out.json:
        settings.out.document(text.document(str(path), before, after, found=found, written=written))
    else:
        text.show(settings.out, before, after, found=found)
        settings.out.text(f"wrote {path}" if written else f"{path} is up to date")
