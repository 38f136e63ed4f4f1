# SPDX-License-Identifier: Apache-2.0
"""`finetree check`: check a job against limits, as a gate in a pipeline."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetree_cli.errors import BadInput, CliError, GateFailed
from finetree_cli.jobfile.policy import LimitFlags
from finetree_cli.options.command import Command, Settings, pass_settings, take_flags
from finetree_cli.options.plan_request import PlanFlags
from finetree_cli.options.program import ProgramFlags, program_options
from finetree_cli.options.spec import OwnershipFlags, ownership_options, sharding_option, token_options
from finetree_cli.options.types import Amount, MoneyAmount, Whole

if TYPE_CHECKING:
    from finetree_api.estimator.v1 import check_plan_pb2

    from finetree_cli.jobfile.job import JobFile
    from finetree_cli.jobfile.policy import Policy

LEVELS = ("low", "medium", "high")


@dataclass(frozen=True, slots=True)
class CheckFlags:
    """Options of `finetree check`."""

    limits: LimitFlags
    plan: PlanFlags
    ownership: OwnershipFlags
    program: ProgramFlags
    policy_file: str | None
    fail_on: str
    price_book: Path | None
    local: bool
    output: str


@click.command(
    cls=Command,
    examples=(
        "finetree check job.yaml --max-cost 50 --max-hours 8 --accelerator rtx-4090",
        "finetree check job.yaml --fits --max-hours 8 --examples 5000 --tokens 2000000",
        "finetree check job.yaml --policy policy.yaml --output github",
        "finetree check job.yaml --max-memory-gib 24 --json | jq .verdict",
    ),
)
@click.argument("file")
@click.option("--max-cost", type=MoneyAmount(), metavar="AMOUNT", help="Highest cost of the run: 50 or '50 EUR'.")
@click.option("--max-monthly-cost", type=MoneyAmount(), metavar="AMOUNT", help="Highest cost of a month's runs.")
@click.option("--max-hours", type=Amount(), metavar="H", help="Longest time.")
@click.option("--max-memory-gib", type=Amount(), metavar="GIB", help="Highest peak memory of a device.")
@click.option("--fits", is_flag=True, help="The run must fit in its hardware's memory.")
@click.option("--max-energy-kwh", type=Amount(), metavar="KWH", help="Highest energy.")
@click.option("--max-carbon-kg", type=Amount(), metavar="KG", help="Highest carbon emission, as CO2 equivalent.")
@click.option("--min-confidence", type=click.Choice(LEVELS), help="Lowest confidence of memory and time.")
@click.option("--policy", "policy_file", metavar="FILE", help="Limits from a YAML file; flags override them.")
@click.option(
    "--fail-on",
    type=click.Choice(("fail", "undecided")),
    default="undecided",
    show_default=True,
    help="With fail, undecided limits let the plan pass.",
)
@click.option("--accelerator", metavar="NAME", help="Hardware in place of the job's; a name of `finetree gpus`.")
@click.option("--count", type=Whole(1), metavar="N", help="Number of devices in place of the job's.")
@sharding_option
@click.option("--runs-per-month", type=Amount(), metavar="N", help="Runs in a month, for the monthly cost.")
@click.option("--examples", type=Whole(1), metavar="N", help="Number of rows, where the job has no data.")
@token_options
@ownership_options
@program_options
@click.option("--price-book", type=click.Path(path_type=Path), metavar="FILE", help="Your own prices (CSV).")
@click.option("--local", is_flag=True, help="Use no server, even if an address is given.")
@click.option(
    "--output",
    type=click.Choice(("text", "json", "github")),
    default="text",
    show_default=True,
    help="github: annotations, and a table in the step's summary.",
)
@pass_settings
def check(settings: Settings, /, file: str, **flags: Any) -> None:
    """Check a job against limits, as a gate in a pipeline.

    FILE is a job file, or - for stdin. Exits with 0 if every limit passes and with 3 if one fails or is undecided: a
    limit inside the predicted range, or a number that is unknown, such as the hours of an unknown number of rows. With
    --fail-on fail, undecided limits let the plan pass. Without an address, the installed estimator runs in a child
    process and nothing is sent anywhere; its answer is the server's. The same input, catalog and prices give the same
    answer.
    """
    given = CheckFlags(
        limits=take_flags(LimitFlags, flags),
        plan=take_flags(PlanFlags, flags),
        ownership=take_flags(OwnershipFlags, flags),
        program=take_flags(ProgramFlags, flags),
        **flags,
    )
    settings.out.json = settings.out.json or given.output == "json"
    try:
        _check(settings, file, given)
    except BadInput as error:
        if given.output == "github":
            from finetree_cli.render.estimator.github import annotate_problems

            annotate_problems(settings.out, error, file)
        raise


def _check(settings: Settings, file: str, flags: CheckFlags) -> None:
    from finetree_cli.backends.discovery import has_address
    from finetree_cli.backends.estimator import open_estimator
    from finetree_cli.jobfile.job import read_job
    from finetree_cli.jobfile.policy import read_policy
    from finetree_cli.options.plan_request import plan_request

    local = flags.local or not has_address("estimator", settings)
    with open_estimator(settings, "CheckPlan", local=local, price_book=flags.price_book) as estimator:
        policy = read_policy(flags.policy_file, flags.limits)
        job = read_job(file)
        run = plan_request(job, settings.out, plan=flags.plan, owner=flags.ownership, program=flags.program)
        answer = _with_positions(lambda: estimator.check_plan(run, policy.message), job, policy)
    failure = _failure(answer, flags.fail_on)
    _show(settings, answer, failure, job=job, output=flags.output)
    if failure is not None:
        raise failure


def _with_positions(
    call: "Callable[[], check_plan_pb2.CheckPlanResponse]", job: "JobFile", policy: "Policy"
) -> "check_plan_pb2.CheckPlanResponse":
    """Call the estimator; a refusal of values names file and line in the job or in the policy."""
    from finetree import FinetreeError

    from finetree_cli.jobfile.error_positions import with_positions

    try:
        with with_positions(job):
            return call()
    except BadInput as error:
        cause = error.__cause__
        violations = cause.violations if isinstance(cause, FinetreeError) else ()
        of_limits = [item for item in violations if item.field.startswith("policy")]
        if cause is None or not of_limits or len(of_limits) < len(violations):
            raise
        found = [item for each in of_limits if (item := policy.problem(each.field, each.description))]
        if found:
            text = f"{policy.file} has a limit that cannot be checked"
            raise BadInput(text, remedy=error.remedy, reason=error.reason, problems=found) from cause
        if flag := policy.flag(of_limits[0].field):
            text = f"{flag}: {of_limits[0].description}"
            raise BadInput(text, remedy=error.remedy, reason=error.reason) from cause
        raise cause from None


def _failure(answer: "check_plan_pb2.CheckPlanResponse", fail_on: str) -> CliError | None:
    """Return the error to exit with; None if the plan passes."""
    from finetree_api.types.v1 import check_pb2

    from finetree_cli.gate.undecided import lacks_number, message_with_option

    stopping = [check for check in answer.checks if check.severity == check_pb2.SEVERITY_ERROR]
    failed = [check.rule_id for check in stopping if check.verdict == check_pb2.CHECK_VERDICT_FAIL]
    undecided = [check for check in stopping if check.verdict == check_pb2.CHECK_VERDICT_UNDECIDED]
    if fail_on == "fail":
        undecided = []
    if not failed and not undecided:
        return None
    parts = [f"the plan does not meet {', '.join(failed)}"] if failed else []
    parts += [f"undecided: {', '.join(check.rule_id for check in undecided)}"] if undecided else []
    remedies = list(dict.fromkeys(message_with_option(check) for check in undecided if lacks_number(check)))
    remedies += [f"would pass: {answer.remedies[0].summary}"] if answer.remedies else []
    if undecided and not failed:
        remedies.append("--fail-on fail lets undecided limits pass")
    reason = "CHECK_FAILED" if failed else "CHECK_UNDECIDED"
    return GateFailed("; ".join(parts), remedy="\n  ".join(remedies), reason=reason, reported=True)


def _show(
    settings: Settings,
    answer: "check_plan_pb2.CheckPlanResponse",
    failure: CliError | None,
    *,
    job: "JobFile",
    output: str,
) -> None:
    from finetree_cli.output import as_dict
    from finetree_cli.render.estimator import check as text

    if settings.out.json:
        settings.out.document({**as_dict(answer), "passed": failure is None})
        return
    text.show(settings.out, answer)
    if output == "github":
        from finetree_cli.render.estimator import github

        github.show(settings.out, answer, job, failed=failure is not None)
