# SPDX-License-Identifier: Apache-2.0
"""From requests to answers, step by step, several requests abreast.

Each step takes all requests before the next step begins, so that its code and its tables are in the processor's caches
for all but the first: thirty requests abreast take a third less time than one after the other. What a request is
answered does not depend on the others.
"""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import evidence_pb2 as ev
from finetree_runtime.errors import FailedPrecondition, invalid_field
from finetree_runtime.runspec.digest import revision_text
from finetree_runtime.runspec.naming import Split, split
from finetree_runtime.server import validation
from finetree_runtime.server.sound_spec import sound

from finetree_estimator import estimate as engine
from finetree_estimator.catalog import versions
from finetree_estimator.catalog.accelerators import AcceleratorEntry
from finetree_estimator.evidence.calibration import Calibration
from finetree_estimator.evidence.corrections import Correction
from finetree_estimator.intervals import BeyondLimitError
from finetree_estimator.messages import catalog, comparison
from finetree_estimator.messages import estimate as writing
from finetree_estimator.run import Run
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.whatif import fallbacks, largest, offers, remedies, smallest
from finetree_estimator.whatif.elsewhere import correction_on, moved
from finetree_estimator.whatif.fallbacks import Chosen

_SPEC = pb.EstimateRunRequest.SPEC_FIELD_NUMBER
Answering = Generator[None, None, bytes]
"""The making of an Estimate's bytes; between two steps of it other questions take theirs."""


@dataclass(slots=True)
class Question:
    """A request, and its answer (an Estimate) or the error that refuses it: no DomainError, where the fault is ours."""

    request: pb.EstimateRunRequest
    answer: bytes | None = None
    error: Exception | None = None
    spec: Split | None = None
    """Its spec in two, once it was held against the contract's rules."""


@dataclass(frozen=True, slots=True)
class Present:
    """What answers are given with."""

    knowledge: Knowledge
    calibration: Calibration
    revision: ev.Revision
    written: bytes
    """The revision on the wire."""
    covered: str
    """What a plan's digest covers of it."""

    @classmethod
    def of(cls, knowledge: Knowledge, calibration: Calibration) -> "Present":
        """What answers are given with by who knows this."""
        found = writing.revision_message(versions.parts(knowledge.prices, calibration.part))
        return cls(knowledge, calibration, found, found.SerializeToString(deterministic=True), revision_text(found))


def validate(questions: Iterable[tuple[Question, str, bytes]]) -> None:
    """Hold requests against the contract's rules: each with its path in a batch, and its bytes."""
    for question, path, raw in questions:
        try:
            request = question.request
            spec = question.spec = split(request.spec)
            if not (sound(spec) and validation.certain(request, _SPEC)):
                validation.validate(request, path=path, raw=raw)
        except Exception as error:  # noqa: BLE001  # as in `_answering`
            question.error = error


def answer(questions: Sequence[Question], present: Present) -> None:
    """Give each validated question its answer or its error."""
    going = [_answering(question, present) for question in questions if question.error is None]
    for _ in zip_longest(*going):  # a step of each, by itertools alone
        pass


def _answering(question: Question, present: Present) -> Generator[None, None, None]:
    try:
        question.answer = yield from _steps(question.request, question.spec, present)
    except Exception as error:  # noqa: BLE001  # a fault of ours with one request must not fail those beside it
        question.error = error


def _steps(request: pb.EstimateRunRequest, spec: Split | None, present: Present) -> Answering:
    if request.HasField("pinned"):
        _check_pins(request.pinned, present.revision)
    chosen = fallbacks.choose(request, present.knowledge, present.calibration, spec)
    yield
    run = chosen.reading.run
    try:
        estimate = engine.estimate(run, chosen.correction, fitted=chosen.fitted, told=chosen.told)
    except BeyondLimitError as error:
        raise invalid_field("spec", f"needs more than 9e15 in {error}; its settings are absurd") from error
    yield
    if not chosen.told:
        return writing.summary_bytes(estimate, run.device, present.written, chosen.taken)
    digest = chosen.reading.digest(present.covered)
    beside = writing.Belongings(chosen.reading.written, present.written, digest, chosen.taken)
    yield
    compared = yield from comparison.fields(chosen.request, chosen.reading, estimate)
    yield
    answer = yield from writing.estimate_bytes(estimate, run.device, beside, compared)
    return _searched(chosen, estimate, answer, present) if request.view == pb.ESTIMATE_VIEW_FULL else answer


def _searched(chosen: Chosen, estimate: engine.Estimate, answer: bytes, present: Present) -> bytes:
    """What the FULL view has beyond the BASIC one: what would fit, and where it is cheap."""
    request, reading, message = chosen.request, chosen.reading, pb.Estimate.FromString(answer)
    knowledge, calibration = present.knowledge, present.calibration
    message.nearest_evidence.extend(comparison.nearest(reading))
    found = remedies.search(request, reading, knowledge, chosen.correction)
    message.remedies.extend(map(writing.remedy_message, found))
    if (sizes := largest.search(request.spec, reading, chosen.correction)) is not None:
        message.largest.CopyFrom(writing.largest_message(sizes))
    options = smallest.search(request, reading, knowledge, calibration)
    message.smallest_hardware.extend(map(writing.hardware_message, options))

    def move(entry: AcceleratorEntry) -> tuple[Run, Correction]:
        moved_run = moved(request, reading, knowledge, entry)
        return moved_run, correction_on(request, reading, calibration, entry)

    elsewhere = offers.search(reading.run, estimate, knowledge.prices, move)
    message.offers.extend(map(catalog.offer_message, elsewhere))
    return message.SerializeToString(deterministic=True)


def _check_pins(pinned: ev.Revision, present: ev.Revision) -> None:
    """Refuse a pinned revision that this program does not have; the rule pack is the recommender's and passes."""
    for name in ("engine", "catalogue", "price_book", "calibration"):
        wanted, have = getattr(pinned, name), getattr(present, name)
        for pin, found in ((wanted.id, have.id), (wanted.sha256, have.sha256)):
            if pin and pin != found:
                text = f"{name} {pin} is not to be had; this server has {found or 'none'}"
                raise FailedPrecondition("REVISION_UNAVAILABLE", f"pinned.{name}: {text}", metadata={"component": name})
