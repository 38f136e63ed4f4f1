# SPDX-License-Identifier: Apache-2.0
"""Holds the plan of a job against the plan that was approved."""

import json

from finetree_api.types.v1 import run_spec_pb2
from finetree_runtime.errors import FailedPrecondition, invalid_field
from finetree_runtime.runspec.digest import plan_differences, plan_digest
from finetree_runtime.runspec.paths import FieldDifference

_FIELD = "job.train.approved_plan"
_FILLED_HERE = ("spec.dataset.reading", "spec.evaluation.dataset.reading", "spec.hardware.cpu", "spec.init_from.sha256")
"""Settings that only this server can fill in, from its datasets, processor and jobs: EstimateRun leaves them unset."""

_SAYS_NOTHING = ("", "{}")
"""JSON of a field that is unset, or a message with none of its fields set."""


def require_approved(approved: run_spec_pb2.Plan, present: run_spec_pb2.Plan) -> None:
    """Raise unless the present plan is the approved one.

    What the approved plan leaves open among `_FILLED_HERE` may be filled in.

    Raises InvalidArgument INVALID_REQUEST when the approved digest does not belong to the approved plan,
    FailedPrecondition PLAN_DRIFT with one violation for each field that differs.
    """
    profile = approved.dataset_profile if approved.HasField("dataset_profile") else None
    if approved.digest != plan_digest(approved.spec, profile, approved.revision):
        text = "does not belong to this plan; send the plan as EstimateRun, CheckPlan or ValidateJob returned it"
        raise invalid_field(f"{_FIELD}.digest", text)
    differences = [each for each in plan_differences(approved, present) if not _left_open(each)]
    if not differences:
        return
    fields = "1 field differs" if len(differences) == 1 else f"{len(differences)} fields differ"
    first = differences[0]
    raise FailedPrecondition(
        "PLAN_DRIFT",
        f"The plan is not the approved one: {fields}, first {_path(first)} ({_change(first)}). Approve the new plan.",
        metadata={"approved": approved.digest, "actual": present.digest},
        violations=[(_path(each), _change(each), "PLAN_DRIFT") for each in differences],
    )


def _left_open(difference: FieldDifference) -> bool:
    """Whether the approved plan says nothing of a setting that this server fills in."""
    return difference.left in _SAYS_NOTHING and difference.field_path.startswith(_FILLED_HERE)


def _path(difference: FieldDifference) -> str:
    """Field of the request: settings of the spec by their own path, the rest below the approved plan."""
    part, _, rest = difference.field_path.partition(".")
    return f"job.train.spec.{rest}" if part == "spec" else f"{_FIELD}.{difference.field_path}"


def _change(difference: FieldDifference) -> str:
    return f"approved {_value(difference.left)}, now {_value(difference.right)}"


def _value(text: str) -> str:
    """A field's JSON for people: proto JSON puts 64-bit numbers and names of enums in quotes."""
    value = json.loads(text) if text else "unset"
    return value if isinstance(value, str) else text
