# SPDX-License-Identifier: Apache-2.0
"""`finetree check`: hold a job against limits, for a pipeline to stop at."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetree_cli.errors import BadInput, CliError, GateFailed
from finetree_cli.jobfile.policy import LimitFlags
from finetree_cli.options.command import Command, Settings, pass_settings
from finetree_cli.options.program import program_options
from finetree_cli.options.spec import ownership_options
from finetree_cli.options.types import Amount, Whole

if TYPE_CHECKING:
    from finetree_api.estimator.v1 import estimator_pb2

    from finetree_cli.jobfile.job import JobFile
    from finetree_cli.jobfile.policy import Policy

LEVELS = ("low", "medium", "high")
OTHER_CURRENCY = "flags are in US dollars: state the limit in a file (--policy) with its currency_code"


@click.command(
    cls=Command,
    examples=(
        "finetree check job.yaml --max-cost-usd 50 --max-hours 8 --accelerator rtx-4090",
        "finetree check job.yaml --fits --examples 5000 --tokens 2000000 --fail-on undecided",
        "finetree check job.yaml --policy policy.yaml --output github",
        "finetree check job.yaml --max-memory-gib 24 --json | jq .verdict",
    ),
)
@click.argument("file")
@click.option("--max-cost-usd", type=Amount(), metavar="USD", help="Most that the run may cost.")
@click.option("--max-monthly-cost-usd", type=Amount(), metavar="USD", help="Most that a month's runs may cost.")
@click.option("--max-hours", type=Amount(), metavar="H", help="Longest time.")
@click.option("--max-memory-gib", type=Amount(), metavar="GIB", help="Largest peak of a device.")
@click.option("--fits", is_flag=True, help="It must fit into its hardware.")
@click.option("--max-energy-kwh", type=Amount(), metavar="KWH", help="Most energy.")
@click.option("--max-carbon-kg", type=Amount(), metavar="KG", help="Most carbon, as CO2 equivalent.")
@click.option("--min-confidence", type=click.Choice(LEVELS), help="Lowest confidence of memory and time.")
@click.option("--policy", "policy_file", metavar="FILE", help="Limits from a YAML file; flags win over it.")
@click.option(
    "--fail-on",
    type=click.Choice(("fail", "undecided")),
    default="fail",
    show_default=True,
    help="Whether a limit inside the predicted range stops the pipeline too.",
)
@click.option("--accelerator", metavar="NAME", help="Hardware in place of the job's; a name of `finetree gpus`.")
@click.option("--count", type=Whole(1), metavar="N", help="Number of devices in place of the job's.")
@click.option("--runs-per-month", type=Amount(), metavar="N", help="How often it runs, for the cost of a month.")
@click.option("--examples", type=Whole(1), metavar="N", help="Rows of the data, where the job names none.")
@click.option("--tokens", type=Whole(), default=0, metavar="N", help="Tokens of all rows.")
@click.option("--target-fraction", type=Amount(), default=0.0, metavar="0..1", help="Share that is learned.")
@ownership_options
@program_options
@click.option("--price-book", type=click.Path(path_type=Path), metavar="FILE", help="Prices of your own (CSV).")
@click.option("--local", is_flag=True, help="Use no server, even where an address is given.")
@click.option(
    "--output",
    type=click.Choice(("text", "json", "github")),
    default="text",
    show_default=True,
    help="github: annotations, and a table in the summary of the step.",
)
@pass_settings
def check(settings: Settings, /, file: str, policy_file: str | None, output: str, **flags: Any) -> None:
    """Hold what FILE (a job file, or - for stdin) will take against limits.

    Exits with 0 when every limit passes and with 3 when one fails. A limit that lies inside the predicted range is
    undecided: it fails with --fail-on undecided. Without an address the estimator runs in a process of its own and
    nothing is sent anywhere; its answer is the served one. The same input, catalogue and prices give the same answer.
    """
    settings.out.json = settings.out.json or output == "json"
    try:
        _check(settings, file, policy_file, output, flags)
    except BadInput as error:
        if output == "github":
            from finetree_cli.render.estimator.github import problems

            problems(settings.out, error, file)
        raise


def _check(settings: Settings, file: str, policy_file: str | None, output: str, flags: dict[str, Any]) -> None:
    from finetree_cli.backends.discovery import address_given
    from finetree_cli.backends.estimator import ESTIMATOR, engine
    from finetree_cli.jobfile import job as job_file
    from finetree_cli.jobfile.policy import policy
    from finetree_cli.options.plan_request import run_of

    local = flags["local"] or not address_given(ESTIMATOR, settings, settings.estimator)
    with engine(settings, "CheckPlan", local=local, price_book=flags["price_book"]) as asked:
        limits = policy(policy_file, LimitFlags.take(flags))
        job = job_file.read(file)
        run = run_of(job, settings.out, flags)
        answer = _placed(lambda: asked.check_plan(run, limits.message), job, limits)
    failure = _failure(answer, flags["fail_on"])
    _show(settings, answer, failure, job, output)
    if failure is not None:
        raise failure


def _placed(ask: "Any", job: "JobFile", limits: "Policy") -> "estimator_pb2.CheckPlanResponse":
    """The answer; a refusal names file and line of what it is about, in the job or in the policy."""
    from finetree import FinetreeError

    from finetree_cli.jobfile.error_positions import placed

    try:
        with placed(job):
            answer: estimator_pb2.CheckPlanResponse = ask()
            return answer
    except BadInput as error:
        cause = error.__cause__
        violations = cause.violations if isinstance(cause, FinetreeError) else ()
        of_limits = [item for item in violations if item.field.startswith("policy")]
        if cause is None or not of_limits or len(of_limits) < len(violations):
            raise
        found = [item for each in of_limits if (item := limits.problem(each.field, each.description))]
        if found:
            text = f"{limits.file} states a limit that cannot be held"
            raise BadInput(text, remedy=error.remedy, reason=error.reason, problems=found) from cause
        if error.reason == "CURRENCY_UNKNOWN":
            text = of_limits[0].description.partition(";")[0]
            flag = "--max-cost-usd" if limits.message.HasField("max_cost") else "--max-monthly-cost-usd"
            raise BadInput(f"{flag}: {text}", remedy=OTHER_CURRENCY, reason=error.reason) from cause
        raise cause from None  # limits from flags stand in no file


def _failure(answer: "estimator_pb2.CheckPlanResponse", fail_on: str) -> CliError | None:
    """What to leave with; None when the gate is open."""
    from finetree_api.types.v1 import evidence_pb2 as ev

    bad = {ev.CHECK_VERDICT_FAIL} | ({ev.CHECK_VERDICT_UNDECIDED} if fail_on == "undecided" else set())
    rules = ", ".join(check.rule_id for check in answer.checks if check.verdict in bad)
    if not rules:
        return None
    remedy = f"would pass: {answer.remedies[0].summary}" if answer.remedies else ""
    return GateFailed(f"the plan breaks {rules}", remedy=remedy, reason="CHECK_FAILED", told=True)


def _show(
    settings: Settings,
    answer: "estimator_pb2.CheckPlanResponse",
    failure: CliError | None,
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
