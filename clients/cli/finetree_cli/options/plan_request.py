# SPDX-License-Identifier: Apache-2.0
"""Build the estimator's request from a job file and options, without another service."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetree_cli.options.local_rows import add_local_profiles
from finetree_cli.options.program import ProgramFlags, set_program
from finetree_cli.options.spec import OwnershipFlags, divide, given_rows, ownership

if TYPE_CHECKING:
    from finetree_api.estimator.v1 import estimate_pb2

    from finetree_cli.jobfile.job import JobFile
    from finetree_cli.output import Output


@dataclass(frozen=True, slots=True)
class PlanFlags:
    """Hardware, data and terms that replace the job file's; None is not given."""

    gpu: str | None = None
    count: int | None = None
    sharding: str | None = None
    runs_per_month: float | None = None
    examples: int | None = None
    tokens: int | None = None
    tokens_per_example: int | None = None
    target_fraction: float | None = None

    @property
    def describes_rows(self) -> bool:
        """Whether an option says something about the rows."""
        return any(
            each is not None for each in (self.examples, self.tokens, self.tokens_per_example, self.target_fraction)
        )


def plan_request(
    job: "JobFile", out: "Output", *, plan: PlanFlags, owner: OwnershipFlags, program: ProgramFlags
) -> "estimate_pb2.EstimateRunRequest":
    """Build the request for a job file's run with the flags' changes; `out` says how many rows were counted."""
    from finetree_api.estimator.v1 import estimate_pb2

    request = estimate_pb2.EstimateRunRequest(spec=job.spec, runs_per_month=plan.runs_per_month)
    if plan.gpu:
        request.spec.hardware.accelerator = plan.gpu
    if plan.count is not None or plan.sharding is not None:
        divide(request.spec.hardware, count=plan.count, sharding=plan.sharding)
    owned = ownership(owner)
    if owned is not None:
        request.spec.ownership.CopyFrom(owned)
    rows = given_rows(plan, job.spec.dataset.profile)
    if rows is not None:
        request.dataset_profile.CopyFrom(rows)
    else:
        add_local_profiles(job, out, request)
    set_program(request.spec, program)
    return request
