# SPDX-License-Identifier: Apache-2.0
"""Plans: their digest, which covers what is approved, and the fields in which two plans differ."""

import hashlib
import json

from finetree_api.types.v1 import evidence_pb2, run_spec_pb2, training_data_pb2

from finetree_runtime.runspec.paths import FieldDifference, canonical, difference

_COVERED = ("engine", "catalog", "price_book")
"""Components of a revision that a digest covers. The rule pack decides which plan is proposed, not what the plan is: a
plan written by hand and the same plan from a recommendation have the same digest. Calibration changes with every run
that ends, and no approval would outlive the next one."""


def make_plan(
    spec: run_spec_pb2.RunSpec,
    profile: training_data_pb2.DatasetProfile | None,
    revision: evidence_pb2.Revision,
) -> run_spec_pb2.Plan:
    """Build the plan of a resolved spec, with its digest."""
    digest = plan_digest(spec, profile, revision)
    return run_spec_pb2.Plan(spec=spec, dataset_profile=profile, revision=revision, digest=digest)


def plan_digest(
    spec: run_spec_pb2.RunSpec,
    profile: training_data_pb2.DatasetProfile | None,
    revision: evidence_pb2.Revision,
) -> str:
    """Hash of a resolved spec, its dataset profile and the covered revisions: "sha256:" and 64 hex digits.

    Proto JSON with sorted keys is the same in every process and version; protobuf's own bytes need not be.
    """
    covered = _covered(run_spec_pb2.Plan(spec=spec, dataset_profile=profile, revision=revision))
    text = json.dumps(canonical(covered), sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def plan_differences(approved: run_spec_pb2.Plan, present: run_spec_pb2.Plan) -> list[FieldDifference]:
    """Fields in which two plans differ, as paths in a Plan ("spec.training.seed"); none where their digests are equal.

    The digests themselves are not compared.
    """
    return difference(_covered(approved), _covered(present))


def _covered(plan: run_spec_pb2.Plan) -> run_spec_pb2.Plan:
    """Copy what a digest covers of a plan."""
    covered = run_spec_pb2.Plan(spec=plan.spec)
    if plan.HasField("dataset_profile"):
        covered.dataset_profile.CopyFrom(plan.dataset_profile)
    for field, component in plan.revision.ListFields():
        if field.name in _COVERED:
            getattr(covered.revision, field.name).CopyFrom(component)
    return covered
