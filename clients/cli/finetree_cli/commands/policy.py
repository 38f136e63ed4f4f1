# SPDX-License-Identifier: Apache-2.0
"""`finetree policy`: show and test the policies of a pipeline."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetree_cli.errors import GateFailed
from finetree_cli.gate.repository import DEFAULT
from finetree_cli.options.command import Group, Settings, pass_settings
from finetree_cli.options.types import Day, today

if TYPE_CHECKING:
    from finetree_cli.gate.policy.policy import Policies, ScopedPolicy
    from finetree_cli.gate.policy.testing import Outcome, Reach


@click.group(cls=Group, examples=("finetree policy show", "finetree policy test --policy policy.yaml"))
def policy() -> None:
    """Show and test the policies of a pipeline."""


@policy.command(
    "test",
    examples=(
        "finetree policy test --policy policy.yaml",
        "finetree policy test --require-coverage",
        "finetree policy test --policy policy.yaml --json | jq '.coverage[] | select(.never != [])'",
    ),
)
@click.option("--policy", "file", metavar="FILE", help=f"The policy file. [default: .finetree/policy.yaml, {DEFAULT}]")
@click.option("--as-of", type=Day(), metavar="YYYY-MM-DD", help="Day on which waivers must hold. [default: today]")
@click.option("--require-coverage", is_flag=True, help="Fail too where an example never passes or never fails a limit.")
@click.option("--price-book", type=click.Path(path_type=Path), metavar="FILE", help="Your own prices (CSV).")
@click.option("--local", is_flag=True, help="Use no server, even if an address is given.")
@pass_settings
def test(
    settings: Settings,
    /,
    file: str | None,
    *,
    as_of: str | None,
    require_coverage: bool,
    price_book: Path | None,
    local: bool,
) -> None:
    """Run the examples of a policy file, and say which limits they reached.

    A policy file may have `examples`: jobs, inline or by path, each with the
    verdict that it must have as a whole or by limit. Exits with 0 if all come and with 3 if one does not. A limit that
    no example passes or fails is named: it may be written wrongly.
    """
    from finetree_cli.backends.discovery import has_address
    from finetree_cli.backends.estimator import open_estimator
    from finetree_cli.gate.policy.file import require_policies
    from finetree_cli.gate.policy.testing import reach, require_examples, run_examples

    policies = require_policies(file)
    require_examples(policies)
    own = local or not has_address("estimator", settings)
    with open_estimator(settings, "CheckPlan", local=own, price_book=price_book) as estimator:
        outcomes = run_examples(policies, estimator, _request_of(settings), as_of=as_of or today())
    reached = reach(policies, outcomes)
    failed = [each for each in outcomes if each.problems]
    missed = [each for each in reached if each.never] if require_coverage else []
    if settings.out.json:
        settings.out.document(_test_document(policies, outcomes, reached, passed=not failed and not missed))
    else:
        from finetree_cli.render.gate.policy import show_test

        settings.out.text(show_test(outcomes, reached))
    if failed:
        text = f"{len(failed)} of {len(outcomes)} examples of {policies.file} {'fails' if len(failed) == 1 else 'fail'}"
        raise GateFailed(text, reason="POLICY_TEST_FAILED", reported=True)
    if missed:
        names = ", ".join(dict.fromkeys(each.rule_id for each in missed))
        text = f"no example both passes and fails {names}"
        raise GateFailed(text, reason="POLICY_NOT_COVERED", reported=True)


@policy.command(
    "show",
    examples=(
        "finetree policy show",
        "finetree policy show --policy policy.yaml --job training/job.yaml",
        "finetree policy show --policy policy.yaml --json | jq '.policies[].limits'",
    ),
)
@click.option("--policy", "file", metavar="FILE", help=f"The policy file. [default: .finetree/policy.yaml, {DEFAULT}]")
@click.option("--job", metavar="PATH", help="Only the policy of this job file, with its waivers.")
@click.option("--as-of", type=Day(), metavar="YYYY-MM-DD", help="Day on which waivers must hold. [default: today]")
@pass_settings
def show(settings: Settings, /, file: str | None, *, job: str | None, as_of: str | None) -> None:
    """Check a policy file and show its policies: for which job files, with which limits and waivers."""
    from finetree_cli.gate.policy.file import require_policies

    policies = require_policies(file)
    scoped = list(policies.scoped)
    if job is not None:
        scoped = [policies.scoped_for(job)]
    if settings.out.json:
        settings.out.document(_document(policies, scoped))
    else:
        from finetree_cli.render.gate import policy as text

        settings.out.text(text.show(policies, scoped, as_of=as_of or today()))


def _document(policies: "Policies", scoped: "list[ScopedPolicy]") -> dict[str, Any]:
    from finetree_cli.output import as_dict

    return {
        "file": policies.file,
        "sha256": policies.sha256,
        "policies": [
            {
                "name": each.policy.name,
                "files": list(each.files),
                **as_dict(each.policy.message),
                "rule_ids": list(each.policy.rule_ids),
                "waivers": [{**as_dict(waiver.message), "files": list(waiver.files)} for waiver in each.waivers],
            }
            for each in scoped
        ],
    }


def _test_document(
    policies: "Policies", outcomes: "list[Outcome]", reached: "list[Reach]", *, passed: bool
) -> dict[str, Any]:
    return {
        "file": policies.file,
        "sha256": policies.sha256,
        "passed": passed,
        "examples": [
            {
                "name": each.example.name,
                "line": each.example.position.line,
                "policy": each.policy,
                "passed": not each.problems,
                "verdict": each.verdict,
                "checks": dict(each.checks or {}),
                "problems": list(each.problems),
            }
            for each in outcomes
        ],
        "coverage": [
            {
                "policy": each.policy,
                "rule_id": each.rule_id,
                "verdicts": list(each.verdicts),
                "never": list(each.never),
            }
            for each in reached
        ],
    }


def _request_of(settings: Settings) -> Any:
    from finetree_cli.options.plan_request import PlanFlags, plan_request
    from finetree_cli.options.program import ProgramFlags
    from finetree_cli.options.spec import OwnershipFlags

    return lambda job: plan_request(job, settings.out, plan=PlanFlags(), owner=OwnershipFlags(), program=ProgramFlags())
