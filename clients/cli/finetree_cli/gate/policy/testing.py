# SPDX-License-Identifier: Apache-2.0
"""Run the examples of a policy file, and say which limits they reached."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetree import FinetreeError
from finetree.display import units
from finetree_api.estimator.v1 import check_plan_pb2
from finetree_api.types.v1 import check_pb2

from finetree_cli.backends.estimator import Estimator, check_plans
from finetree_cli.errors import BadInput, ExitCode, of_service_error
from finetree_cli.gate.policy.policy import Policies, Policy

if TYPE_CHECKING:
    from finetree_api.estimator.v1 import estimate_pb2

    from finetree_cli.gate.policy.examples import Example
    from finetree_cli.jobfile.job import JobFile

REACHED = ("PASS", "FAIL")
"""Verdicts that every limit should be seen with: a limit that no example breaks may be written wrongly."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy said of an example."""

    example: "Example"
    policy: str
    """Name of the policy that was applied."""
    verdict: str = ""
    """Of the whole, in capitals; empty where the job was refused."""
    checks: Mapping[str, str] | None = None
    """Verdicts by rule id, in capitals; with exceptions applied."""
    problems: tuple[str, ...] = ()
    """What was expected and did not come."""


@dataclass(frozen=True, slots=True)
class Reach:
    """The verdicts that the examples brought about of a limit."""

    policy: str
    rule_id: str
    verdicts: tuple[str, ...]
    """In capitals, in the order in which they came."""

    @property
    def never(self) -> tuple[str, ...]:
        """Verdicts that the limit should have been seen with and was not; one without exceptions counts as seen."""
        return tuple(verdict for verdict in REACHED if verdict not in self.verdicts)


def run_examples(
    policies: Policies,
    estimator: Estimator,
    request_of: "Callable[[JobFile], estimate_pb2.EstimateRunRequest]",
    *,
    as_of: str,
) -> list[Outcome]:
    """Check each example under its policy, in order.

    Args:
        policies: of a file with examples.
        estimator: who answers.
        request_of: makes the request of a job; raises BadInput.
        as_of: day for which waivers are judged where an example names none.

    Raises:
        BadInput: An example's job file has no policy, or its job cannot be asked for.
        FinetreeError: The estimator is not available.
    """
    applied = [_policy_of(policies, example) for example in policies.examples]
    answers = check_plans(estimator, _requests(policies.examples, applied, request_of, as_of=as_of))
    return [
        _outcome(example, policy, answer)
        for example, policy, answer in zip(policies.examples, applied, answers, strict=True)
    ]


def reach(policies: Policies, outcomes: Sequence[Outcome]) -> list[Reach]:
    """Collect the verdicts of each limit of each policy over the examples."""
    found = []
    for each in policies.scoped:
        own = [outcome.checks for outcome in outcomes if outcome.policy == each.policy.name and outcome.checks]
        for rule_id in each.policy.rule_ids:
            verdicts = dict.fromkeys(checks[rule_id] for checks in own if rule_id in checks)
            found.append(Reach(each.policy.name, rule_id, tuple(verdicts)))
    return found


def _policy_of(policies: Policies, example: "Example") -> Policy:
    if example.policy or not example.file:
        found = policies.named(example.policy, example.file)
        if found is not None:
            return found
    return policies.of(example.file)


def _requests(
    examples: "Sequence[Example]",
    applied: Sequence[Policy],
    request_of: "Callable[[JobFile], estimate_pb2.EstimateRunRequest]",
    *,
    as_of: str,
) -> Iterator[check_plan_pb2.CheckPlanRequest]:
    for example, policy in zip(examples, applied, strict=True):
        yield check_plan_pb2.CheckPlanRequest(
            run=request_of(example.job),
            policy=policy.message,
            evaluation_date=example.as_of or as_of,
            base_run=request_of(example.base) if example.base is not None else None,
        )


def _outcome(example: "Example", policy: Policy, answer: "check_plan_pb2.CheckPlanResponse | FinetreeError") -> Outcome:
    if isinstance(answer, FinetreeError):
        failure = of_service_error(answer)
        if failure.exit_code != ExitCode.USAGE:
            raise answer
        return Outcome(example, policy.name, problems=(f"refused: {failure.message}",))
    verdict = _word(answer.verdict)
    checks = {check.rule_id: check for check in answer.checks}
    problems = []
    if example.verdict and example.verdict != verdict:
        found = ", ".join(f"{check.rule_id} {_word(check.verdict)}" for check in answer.checks)
        problems.append(f"expected {example.verdict}, got {verdict} ({found})")
    for rule_id, expected in example.checks.items():
        check = checks.get(rule_id)
        if check is None:
            problems.append(f"expected {rule_id} {expected}, but this policy has no such limit")
        elif _word(check.verdict) != expected:
            problems.append(f"expected {rule_id} {expected}, got {_word(check.verdict)}: {check.message}")
    verdicts = {rule_id: _word(check.verdict) for rule_id, check in checks.items()}
    return Outcome(example, policy.name, verdict, verdicts, tuple(problems))


def _word(verdict: int) -> str:
    return units.word(check_pb2.CheckVerdict, verdict).upper()


def require_examples(policies: Policies) -> None:
    """Raise BadInput for a policy file without examples: a test of nothing must not pass."""
    if not policies.examples:
        remedy = "add `examples:` with a job and the verdict that it must have"
        raise BadInput(f"{policies.file} has no examples", remedy=remedy, reason="POLICY_WITHOUT_EXAMPLES")
