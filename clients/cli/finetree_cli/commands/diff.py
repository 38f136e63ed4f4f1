# SPDX-License-Identifier: Apache-2.0
"""`finetree diff`: what a change does to memory, time and cost of each job."""

from pathlib import Path

import click

from finetree_cli.options.command import Command, Settings, pass_settings, report_formats


@click.command(
    cls=Command,
    examples=(
        "finetree diff origin/main",
        "finetree diff v1.2 v1.3 --path training/ --output markdown",
        "finetree diff base.json plan.json --output text,markdown=comment.md",
        "finetree diff origin/main --json | jq '.plans[] | select(.change == \"changed\") | .file'",
    ),
)
@click.argument("base")
@click.argument("head", required=False)
@click.option("--path", "paths", multiple=True, metavar="PATH", help="Job file, folder or glob; may be repeated.")
@click.option("--price-book", type=click.Path(path_type=Path), metavar="FILE", help="Your own prices (CSV).")
@click.option("--local", is_flag=True, help="Use no server, even if an address is given.")
@report_formats
@pass_settings
def diff(
    settings: Settings,
    /,
    *,
    base: str,
    head: str | None,
    paths: tuple[str, ...],
    price_book: Path | None,
    local: bool,
    output: str,
) -> None:
    """Show what a change of job files does to memory, time and cost, file by file.

    BASE and HEAD are each a folder, a plan.json that `finetree check` wrote, or else a commit of the current folder's
    repository; without HEAD it is the working tree. Both sides are estimated with the same formulas and prices; rule
    packs that their .finetree/lock.json lock otherwise are named. A job of either side that cannot be read is shown,
    and gives 2 if it is HEAD's. No limit is checked: `finetree check
    --base` does both.
    """
    from finetree_cli.backends.discovery import has_address
    from finetree_cli.backends.estimator import open_estimator
    from finetree_cli.gate.base.sides import difference, no_limits
    from finetree_cli.gate.check_jobs import Checks
    from finetree_cli.gate.outcome import failure
    from finetree_cli.options.plan_request import PlanFlags, plan_request
    from finetree_cli.options.program import ProgramFlags
    from finetree_cli.options.spec import OwnershipFlags
    from finetree_cli.output import Output
    from finetree_cli.render.gate.formats import Target, parse_targets, write

    targets = parse_targets("json" if settings.out.json else output)
    settings.out.json = Target("json") in targets
    local = local or not has_address("estimator", settings)
    silent, policy = Output(quiet=True), no_limits()
    with open_estimator(settings, "CheckPlan", local=local, price_book=price_book) as estimator:
        checks = Checks(
            estimator,
            lambda _: policy,
            lambda job: plan_request(job, silent, plan=PlanFlags(), owner=OwnershipFlags(), program=ProgramFlags()),
        )
        found = difference(base, head, paths, checks=checks)
    for note in found.notes:
        settings.out.say(note)
    write(found.report, targets, settings.out)
    if any(entry.error is not None for entry in found.report.plans) and (stop := failure(found.report)) is not None:
        raise stop
