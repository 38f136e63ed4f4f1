# SPDX-License-Identifier: Apache-2.0
"""`finetree check`: check job files against limits, as a gate in a pipeline."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetree_cli.errors import BadInput
from finetree_cli.gate.policy.flags import LimitFlags
from finetree_cli.gate.repository import DEFAULT
from finetree_cli.options.command import Command, Settings, pass_settings, report_formats, take_flags
from finetree_cli.options.plan_request import PlanFlags
from finetree_cli.options.program import ProgramFlags, program_options
from finetree_cli.options.spec import OwnershipFlags, ownership_options, sharding_option, token_options
from finetree_cli.options.types import Amount, Day, MoneyAmount, Whole, today
from finetree_cli.output import Output

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from finetree_api.estimator.v1 import estimate_pb2

    from finetree_cli.gate.base.sides import Base
    from finetree_cli.gate.check_jobs import Checks
    from finetree_cli.gate.report import Report, Revisions
    from finetree_cli.jobfile.job import JobFile

LEVELS = ("low", "medium", "high")


@dataclass(frozen=True, slots=True)
class CheckFlags:
    """Options of `finetree check`."""

    limits: LimitFlags
    plan: PlanFlags
    ownership: OwnershipFlags
    program: ProgramFlags
    policy_file: str | None
    override: tuple[str, ...]
    override_by: str | None
    fail_on: str | None
    price_book: Path | None
    local: bool
    locked: bool
    lock_file: str | None
    as_of: str | None
    base: str | None
    output: str


@click.command(
    cls=Command,
    examples=(
        "finetree check job.yaml --max-cost 50 --max-hours 8 --gpu rtx-4090",
        "finetree check job.yaml --fits --max-hours 8 --examples 5000 --tokens-per-example 400",
        "finetree check training/ --policy policy.yaml --output github,json=plan.json",
        "finetree check --policy policy.yaml --base origin/main --output markdown",
        "finetree check job.yaml --max-memory-gib 24 --json | jq .verdict",
    ),
    sections={
        "Limits": (LimitFlags, "policy_file", "fail_on", "override", "override_by", "as_of"),
        "Run, in place of the job file's": (PlanFlags,),
        "Price": (OwnershipFlags, "price_book"),
        "Training program, where it is not this suite's": (ProgramFlags,),
        "Base and lock file": ("base", "locked", "lock_file"),
    },
)
@click.argument("paths", nargs=-1)
@click.option("--max-cost", type=MoneyAmount(), metavar="AMOUNT", help="Highest cost of the run: 50 or '50 EUR'.")
@click.option("--max-monthly-cost", type=MoneyAmount(), metavar="AMOUNT", help="Highest cost of a month's runs.")
@click.option("--max-hours", type=Amount(), metavar="H", help="Longest time.")
@click.option("--max-memory-gib", type=Amount(), metavar="GIB", help="Highest peak memory of a device.")
@click.option("--fits", is_flag=True, help="The run must fit in its hardware's memory.")
@click.option("--max-energy-kwh", type=Amount(), metavar="KWH", help="Highest energy.")
@click.option("--max-carbon-kg", type=Amount(), metavar="KG", help="Highest carbon emission, as CO2 equivalent.")
@click.option("--min-confidence", type=click.Choice(LEVELS), help="Lowest confidence of memory and time.")
@click.option(
    "--policy",
    "policy_file",
    metavar="FILE",
    help=f"Limits from a YAML file; flags override them. [default: .finetree/policy.yaml, {DEFAULT}]",
)
@click.option(
    "--override", metavar="RULE=REASON", multiple=True, help="Lift an overridable limit this once; may be repeated."
)
@click.option("--override-by", metavar="NAME", help="With --override: who takes the decision.")
@click.option(
    "--fail-on",
    type=click.Choice(("fail", "undecided")),
    help="With fail, undecided limits only warn. [default: as the policy says, else undecided]",
)
@click.option("--gpu", metavar="NAME", help="Hardware in place of the job's; a name of `finetree gpus`.")
@click.option("--devices", "count", type=Whole(1), metavar="N", help="Number of devices in place of the job's.")
@sharding_option
@click.option("--runs-per-month", type=Amount(), metavar="N", help="Runs in a month, for the monthly cost.")
@click.option("--examples", type=Whole(1), metavar="N", help="Number of rows, where the job has no data.")
@token_options
@ownership_options
@program_options
@click.option("--price-book", type=click.Path(path_type=Path), metavar="FILE", help="Your own prices (CSV).")
@click.option("--local", is_flag=True, help="Use no server, even if an address is given.")
@click.option("--locked", is_flag=True, help="Refuse to answer with other revisions than the lock file's (exit 5).")
@click.option(
    "--lock",
    "lock_file",
    metavar="FILE",
    help=f"The lock file of --locked. [default: .finetree/lock.json, {DEFAULT}]",
)
@click.option("--base", metavar="REF", help="Also say what has changed since a commit, such as origin/main.")
@click.option("--as-of", type=Day(), metavar="YYYY-MM-DD", help="Day on which waivers must hold. [default: today]")
@report_formats
@pass_settings
def check(settings: Settings, /, paths: tuple[str, ...], **flags: Any) -> None:
    """Check job files against limits, as a gate in a pipeline.

    PATHS are job files, folders that are searched for finetree.yaml and *.finetree.yaml, globs, or - for stdin; without
    any, the current folder is searched. Exits with 0 if every limit of every job passes and with 3 if one fails or is
    undecided: a limit inside the predicted range, or a number that is unknown, such as the hours of an unknown number
    of rows. With --fail-on fail, undecided limits only warn. A job file that cannot be read is shown with the
    others and gives 2. Without an address, the installed estimator runs in a child process and nothing is sent
    anywhere; its answer is the server's. The same input, catalog and prices give the same answer. With --base, each job
    also has what it took in that commit, by the same formulas and prices.

    The result is one document, plan.json (--output json=plan.json), which `finetree train --plan` runs.
    """
    given = CheckFlags(
        limits=take_flags(LimitFlags, flags),
        plan=take_flags(PlanFlags, flags),
        ownership=take_flags(OwnershipFlags, flags),
        program=take_flags(ProgramFlags, flags),
        **flags,
    )
    from finetree_cli.render.gate.formats import Target, parse_targets, write

    targets = parse_targets("json" if settings.out.json else given.output)
    settings.out.json = Target("json") in targets
    try:
        report = _check(settings, paths, given)
    except BadInput as error:
        if Target("github") in targets:
            from finetree_cli.render.gate.github import annotate

            settings.out.text(annotate(error, given.policy_file or ""))
        raise
    from finetree_cli.gate.outcome import failure

    write(report, targets, settings.out)
    if (stop := failure(report)) is not None:
        raise stop


def _check(settings: Settings, paths: tuple[str, ...], flags: CheckFlags) -> "Report":
    from finetree_cli.backends.discovery import has_address
    from finetree_cli.backends.estimator import open_estimator

    local = flags.local or not has_address("estimator", settings)
    with open_estimator(settings, "CheckPlan", local=local, price_book=flags.price_book) as estimator:
        from finetree_cli.gate.check_jobs import Checks
        from finetree_cli.gate.job_files import find_job_files, read_jobs
        from finetree_cli.gate.outcome import require_known
        from finetree_cli.gate.policy.file import read_policies
        from finetree_cli.gate.policy.flags import overrides_of, undecided_of
        from finetree_cli.gate.report import PolicyFile, make_report

        policies = read_policies(flags.policy_file).with_flags(flags.limits, undecided_of(flags.fail_on))
        files = find_job_files(paths, named=policies.job_files(), policy_file=policies.file)
        as_of = flags.as_of or today()
        checks = Checks(
            estimator,
            policies.of,
            _requests(flags, settings.out),
            overrides=overrides_of(flags.override, flags.override_by),
            profile_source="options" if flags.plan.describes_rows else "",
            as_of=as_of,
            require=_locked(flags),
        )
        base = _base(paths or policies.job_files(), files, flags=flags, checks=checks)
        if base is not None:
            checks = dataclasses.replace(checks, base_of=base.run_of)
        plans, revisions = checks.run(read_jobs(files, given=paths))
    if not plans:
        raise BadInput("none of the job files trains", remedy="name one that does", reason="JOB_FILES_NOT_FOUND")
    policy = PolicyFile(file=policies.file, sha256=policies.sha256) if policies.file else None
    report = make_report(plans, as_of=as_of, revisions=revisions, policy=policy)
    require_known(report, checks.overrides)
    if base is None:
        return report
    from finetree_cli.gate.base.difference import compare

    return compare(base.report, report, base_ref=flags.base or "", renames=base.renames)


def _requests(flags: CheckFlags, out: Output) -> "Callable[[JobFile], estimate_pb2.EstimateRunRequest]":
    """Return what makes the request of a job file; `out` gets the number of rows that were counted."""
    from finetree_cli.options.plan_request import plan_request

    return lambda job: plan_request(job, out, plan=flags.plan, owner=flags.ownership, program=flags.program)


def _base(paths: "Sequence[str]", files: list[str], *, flags: CheckFlags, checks: "Checks") -> "Base | None":
    """Estimate the job files of the base, in silence; None without one."""
    if flags.base is None:
        return None
    from finetree_cli.gate.base.git import find_commit
    from finetree_cli.gate.base.sides import read_base

    silent = dataclasses.replace(checks, request_of=_requests(flags, Output(quiet=True)))
    return read_base(find_commit(flags.base), paths, files=files, checks=silent)


def _locked(flags: CheckFlags) -> "Callable[[Revisions], None] | None":
    """Read the lock file and return what compares revisions with it; None where none are locked."""
    from finetree_cli.gate import lock as locks

    if not flags.locked:
        return None
    file = locks.require_lock_file(flags.lock_file)
    lock = locks.read_lock(Path(file))
    return lambda revisions: locks.require_locked(lock, file, revisions)
