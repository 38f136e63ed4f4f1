# SPDX-License-Identifier: Apache-2.0
"""Checks of a plan against limits, as text."""

import json

from finetree_api.estimator.v1 import check_plan_pb2
from finetree_api.types.v1 import check_pb2, evidence_pb2

from finetree_cli.gate.undecided import message_with_option
from finetree_cli.output import Output, as_dict
from finetree_cli.render import units


def show(out: Output, answer: check_plan_pb2.CheckPlanResponse) -> None:
    """Print one line for each limit, the changes that would pass, and the versions behind the answer."""
    width = max((len(check.rule_id) for check in answer.checks), default=0)
    for check in answer.checks:
        out.text(f"{verdict(check.verdict):9}  {check.rule_id:{width}}  {message_with_option(check)}")
        if check.HasField("fix"):
            out.text(f"{'':11}{'':{width}}  passes with {setting(check.fix)}")
    if answer.remedies:
        out.text("All limits would pass with one of:")
    for remedy in answer.remedies:
        out.text(f"  - {remedy.summary}")
        for patch in remedy.patches:
            out.text(f"      {setting(patch)}")
    if answer.no_remedy:
        out.text(f"No remedy: {answer.no_remedy}")
    for remark in answer.estimate.remarks:
        out.text(f"Note: {remark.message}")
    out.text(f"Verdict: {verdict(answer.verdict)}")
    out.text(f"Plan: {answer.estimate.plan_digest}")
    out.text(f"Computed with: {revision(answer.estimate.revision)}")


def verdict(number: int) -> str:
    """Format a verdict in capitals."""
    return units.word(check_pb2.CheckVerdict, number).upper()


def setting(patch: check_pb2.SpecPatch) -> str:
    """Format a change as in a job file: "training.micro_batch_size: 1"."""
    return f"{patch.field_path}: {json.dumps(as_dict(patch).get('value'), ensure_ascii=False)}"


def revision(found: evidence_pb2.Revision) -> str:
    """Format the ids of the versions behind an answer."""
    parts = [getattr(found, name) for name in ("engine", "catalog", "price_book", "calibration")]
    return ", ".join(part.id for part in parts if part.id)
