# SPDX-License-Identifier: Apache-2.0
"""Check many job files by one estimator and make the report of all."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetree import FinetreeError
from finetree_api.estimator.v1 import check_plan_pb2
from finetree_api.types.v1 import evidence_pb2

from finetree_cli.backends.estimator import Estimator, check_plans
from finetree_cli.errors import BadInput, ExitCode, of_service_error
from finetree_cli.gate.entry import checked_entry, refused_entry, revisions
from finetree_cli.gate.report import PlanEntry, Revisions
from finetree_cli.jobfile.error_positions import with_positions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from finetree_api.estimator.v1 import estimate_pb2
    from finetree_api.types.v1 import check_pb2

    from finetree_cli.gate.job_files import ReadJob
    from finetree_cli.gate.policy.policy import Policy
    from finetree_cli.jobfile.job import JobFile


@dataclass(frozen=True, slots=True)
class _Asked:
    """A job that is being checked."""

    read: "ReadJob"
    job: "JobFile"
    policy: "Policy"
    request: check_plan_pb2.CheckPlanRequest


@dataclass(frozen=True, slots=True)
class Checks:
    """How jobs are checked."""

    estimator: Estimator
    policy_of: "Callable[[str], Policy]"
    """The policy of a file by its name."""
    request_of: "Callable[[JobFile], estimate_pb2.EstimateRunRequest]"
    """The request of a job; raises BadInput."""
    base_of: "Callable[[str], estimate_pb2.EstimateRunRequest | None]" = lambda _: None
    """The run that a job file was before the change; None for a new one."""
    profile_source: str = ""
    """Where the rows beside a run come from, for the report; empty for the job's data file."""
    overrides: "Sequence[check_pb2.Override]" = ()
    """Limits that whoever runs the check asks to lift, each for the jobs whose policy has it."""
    as_of: str = ""
    """Day for which waivers are judged, ISO 8601; empty only where no policy has any."""
    require: "Callable[[Revisions], None] | None" = None
    """Raises where an answer's revisions are not those that are wanted."""

    def run(self, jobs: "Iterable[ReadJob]") -> tuple[list[PlanEntry], Revisions]:
        """Check jobs and return their entries in order, with the revisions that answered.

        A job that cannot be checked is an entry with its error. Raises what concerns all of them: a service that is not
        available, an internal error.
        """
        order: list[PlanEntry | None] = []
        asked: list[tuple[int, _Asked]] = []
        found = Revisions()
        revision: evidence_pb2.Revision | None = None
        answers = check_plans(self.estimator, self._requests(jobs, order, asked))
        for number, answer in enumerate(answers):
            place, each = asked[number]
            if isinstance(answer, FinetreeError):
                order[place] = refused_entry(each.read, _refusal(answer, each))
                continue
            if revision != answer.estimate.revision:
                revision = answer.estimate.revision
                found = revisions(revision)
                if self.require is not None:
                    self.require(found)
            order[place] = checked_entry(
                each.read,
                each.job,
                request=each.request,
                answer=answer,
                policy=each.policy.name,
                profile_source=self.profile_source,
            )
        return [entry for entry in order if entry is not None], found

    def _requests(
        self, jobs: "Iterable[ReadJob]", order: list[PlanEntry | None], asked: list[tuple[int, _Asked]]
    ) -> Iterator[check_plan_pb2.CheckPlanRequest]:
        """Yield the requests of the jobs that have one, and note every job's place."""
        for read in jobs:
            order.append(None)
            try:
                if isinstance(read.job, BadInput):
                    raise read.job
                policy = self.policy_of(read.file)
                request = check_plan_pb2.CheckPlanRequest(
                    run=self.request_of(read.job),
                    policy=policy.message,
                    overrides=[each for each in self.overrides if each.rule_id in policy.rule_ids],
                    evaluation_date=self.as_of,
                    base_run=self.base_of(read.file),
                )
            except BadInput as error:
                order[-1] = refused_entry(read, error)
                continue
            asked.append((len(order) - 1, _Asked(read, read.job, policy, request)))
            yield request


def _refusal(error: FinetreeError, asked: _Asked) -> BadInput:
    """Convert a service's refusal to positions in the job or in the policy. Raises errors that concern every job."""
    failure = of_service_error(error)
    if failure.exit_code != ExitCode.USAGE:
        raise error
    policy = asked.policy
    of_limits = [item for item in error.violations if item.field.startswith("policy")]
    if of_limits and len(of_limits) == len(error.violations):
        found = [item for each in of_limits if (item := policy.problem(each.field, each.description))]
        if found:
            text = f"{policy.file} has a limit that cannot be checked"
            return BadInput(text, remedy=failure.remedy, reason=failure.reason, problems=found)
        if flag := policy.flag(of_limits[0].field):
            return BadInput(f"{flag}: {of_limits[0].description}", remedy=failure.remedy, reason=failure.reason)
    try:
        with with_positions(asked.job):
            raise error
    except BadInput as located:
        return located
    except FinetreeError:
        return BadInput(failure.message, remedy=failure.remedy, reason=failure.reason)
