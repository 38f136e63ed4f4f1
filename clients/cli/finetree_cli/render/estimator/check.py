# SPDX-License-Identifier: Apache-2.0
"""A plan held against limits, as text."""

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import evidence_pb2 as ev

from finetree_cli.output import Output
from finetree_cli.render import units


def show(out: Output, answer: pb.CheckPlanResponse) -> None:
    """One line a limit, what would pass, and what it was computed with."""
    width = max((len(check.rule_id) for check in answer.checks), default=0)
    for check in answer.checks:
        out.text(f"{verdict(check.verdict):9}  {check.rule_id:{width}}  {check.help}")
        if check.HasField("fix"):
            out.text(f"{'':11}{'':{width}}  passes with {setting(check.fix)}")
    if answer.remedies:
        out.text("Every limit would pass with one of:")
    for remedy in answer.remedies:
        out.text(f"  - {remedy.summary}")
        for patch in remedy.patches:
            out.text(f"      {setting(patch)}")
    if answer.no_remedy:
        out.text(f"What would pass: {answer.no_remedy}")
    for note in answer.estimate.notes:
        out.text(f"Note: {note}")
    out.text(f"Verdict: {verdict(answer.verdict)}")
    out.text(f"Plan: {answer.estimate.plan_digest}")
    out.text(f"Computed with: {revision(answer.estimate.revision)}")


def verdict(number: int) -> str:
    """A verdict in capitals."""
    return units.word(ev.CheckVerdict, number).upper()


def setting(patch: ev.SpecPatch) -> str:
    """A change as it stands in a job file: "training.micro_batch_size: 1"."""
    return f"{patch.field_path}: {patch.json_value}"


def revision(found: ev.Revision) -> str:
    """Ids of what an answer was computed with."""
    parts = [getattr(found, name) for name in ("engine", "catalogue", "price_book", "calibration")]
    return ", ".join(part.id for part in parts if part.id)
