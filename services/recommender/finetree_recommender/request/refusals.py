# SPDX-License-Identifier: Apache-2.0
"""Refused requests: contradictions, pins that do not hold, and refusals of the estimator."""

from itertools import pairwise

from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import evidence_pb2
from finetree_runtime.errors import DomainError, FailedPrecondition, InvalidArgument, NotFound, Violation, invalid_field

from finetree_recommender.estimator.values import Evidence, Refused
from finetree_recommender.rule_pack.pack import Pack


def check_lengths(request: recommendation_pb2.RecommendRequest) -> None:
    """Refuse histograms of lengths that do not ascend.

    Raises:
        InvalidArgument: INVALID_REQUEST.
    """
    for path, profile in (
        ("dataset_profile", request.dataset_profile),
        ("dataset.profile", request.dataset.profile),
        ("evaluation_profile", request.evaluation_profile),
    ):
        if not profile.token_lengths:
            continue
        bounds = [bucket.upper_bound for bucket in profile.token_lengths]
        if any(left >= right for left, right in pairwise(bounds)):
            raise invalid_field(f"{path}.token_lengths", "upper_bound must ascend from bucket to bucket; sort them")


def check_currencies(request: recommendation_pb2.RecommendRequest) -> None:
    """Refuse budgets in another currency than the rules' own figures: amounts are never converted.

    Raises:
        InvalidArgument: CURRENCY_MISMATCH.
    """
    for name, budget in (("budget_per_month", request.budget_per_month), ("budget_per_run", request.budget_per_run)):
        if budget.currency_code not in ("", "USD"):
            text = f"{budget.currency_code} is not converted; state the budget in USD"
            raise invalid_field(name, text, "CURRENCY_MISMATCH")


def check_pin(pinned: evidence_pb2.RevisionComponent, pack: Pack, path: str) -> None:
    """Refuse a pinned pack that is not the loaded one; `path` is the pin's field.

    Raises:
        FailedPrecondition: REVISION_UNAVAILABLE.
    """
    if not pinned.id and not pinned.sha256:
        return
    ours = pack.revision
    for name in ("id", "sha256"):
        wanted, has = getattr(pinned, name), getattr(ours, name)
        if wanted and wanted != has:
            raise _unavailable(f"{path}.{name}", f"{wanted} is not available; this server has {has}; pin that or none")


def check_estimator_pins(pinned: evidence_pb2.Revision) -> None:
    """Refuse pinned revisions of the estimator where nothing was estimated and the pin is not confirmed.

    Raises:
        FailedPrecondition: REVISION_UNAVAILABLE.
    """
    for name in ("engine", "catalog", "price_book", "calibration"):
        if pinned.HasField(name):
            text = "nothing was estimated, so it cannot be confirmed; state model and hardware, or try again if the "
            raise _unavailable(f"pinned.{name}", f"{text}estimator did not answer, or pin none")


def _unavailable(path: str, text: str) -> FailedPrecondition:
    violation = Violation(path, text, "REVISION_UNAVAILABLE")
    return FailedPrecondition("REVISION_UNAVAILABLE", f"{path}: {text}", violations=[violation])


def refusal_of(evidence: Evidence) -> Refused:
    """Refusal to report: an unsupported method only where there is no other fault."""
    refused = [row for row in evidence.rows.values() if isinstance(row, Refused)]
    return next((row for row in refused if row.reason != "METHOD_NOT_SUPPORTED"), refused[0])


def as_error(refusal: Refused) -> DomainError:
    """Convert a refusal of the estimator to the fields of our request."""
    if refusal.reason in ("MODEL_NOT_FOUND", "ACCELERATOR_NOT_FOUND"):
        return NotFound(refusal.reason, refusal.message)
    if refusal.reason == "REVISION_UNAVAILABLE":
        return FailedPrecondition(refusal.reason, refusal.message)
    reason = "INVALID_REQUEST"
    violations = [Violation(path.removeprefix("spec."), text, reason) for path, text in refusal.violations]
    if refusal.reason == "PRICE_NOT_FOUND":
        violations = [Violation("ownership.rented.price_id", refusal.message, reason)]
    # The estimator's request has a spec, whose fields are one level up in ours.
    return InvalidArgument(reason, refusal.message.removeprefix("spec."), violations=violations)
