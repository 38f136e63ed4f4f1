# SPDX-License-Identifier: Apache-2.0
"""What is refused: requests that contradict themselves, pins that nobody keeps, and what the estimator refuses."""

from itertools import pairwise

from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import evidence_pb2
from finetree_runtime.errors import DomainError, FailedPrecondition, InvalidArgument, NotFound, invalid_field

from finetree_recommender.estimator.values import Evidence, Refused
from finetree_recommender.policy.pack import Pack


def check_lengths(request: recommendation_pb2.RecommendRequest) -> None:
    """A histogram that does not ascend, or whose counts do not add up, would size the recipe wrongly."""
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
            text = f"{path}.{name}: {wanted} is not to be had, this server has {has}; pin that or none"
            raise FailedPrecondition("REVISION_UNAVAILABLE", text, violations=[(f"{path}.{name}", text)])


def check_estimator_pins(pinned: evidence_pb2.Revision) -> None:
    """A pinned revision that nobody confirmed must not pass for one that was used."""
    for name in ("engine", "catalogue", "price_book", "calibration"):
        if pinned.HasField(name):
            why = "nothing was estimated, so that nobody confirms it"
            text = f"pinned.{name}: {why}; name model and hardware, try again where no estimator answered, or pin none"
            raise FailedPrecondition("REVISION_UNAVAILABLE", text, violations=[(f"pinned.{name}", text)])


def refusal_of(evidence: Evidence) -> Refused:
    """The refusal that tells most: a method that is not supported hides no other fault."""
    refused = [row for row in evidence.rows.values() if isinstance(row, Refused)]
    return next((row for row in refused if row.reason != "METHOD_NOT_SUPPORTED"), refused[0])


def as_error(refusal: Refused) -> DomainError:
    """A refusal of the estimator as ours, about the fields of our request."""
    if refusal.reason in ("MODEL_NOT_FOUND", "ACCELERATOR_NOT_FOUND"):
        return NotFound(refusal.reason, refusal.message)
    if refusal.reason == "REVISION_UNAVAILABLE":
        return FailedPrecondition(refusal.reason, refusal.message)
    violations = [(path.removeprefix("spec."), text) for path, text in refusal.violations]
    if refusal.reason == "PRICE_NOT_FOUND":
        violations = [("ownership.rented.price_id", refusal.message)]
    # The estimator was asked about a spec; our caller's fields are those of the spec, one level up.
    return InvalidArgument("INVALID_REQUEST", refusal.message.removeprefix("spec."), violations=violations)
