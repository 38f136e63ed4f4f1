# SPDX-License-Identifier: Apache-2.0
"""The answer to a request: its own run, or the first of its fallbacks that fits."""

from collections.abc import Iterator
from dataclasses import dataclass

from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.types.v1 import run_spec_pb2
from finetree_runtime.errors import invalid_field
from finetree_runtime.server.validation import validate

from finetree_estimator import estimate as engine
from finetree_estimator.evidence.calibration import EMPTY, Calibration, correction_for
from finetree_estimator.evidence.corrections import Correction
from finetree_estimator.intervals import BeyondLimitError
from finetree_estimator.memory.fit import Verdict
from finetree_estimator.spec.parse import ParsedRequest, parse_request, with_spec
from finetree_estimator.spec.resolve import Knowledge

_PREFERRED = (Verdict.FITS, Verdict.TIGHT, Verdict.UNSPECIFIED)


@dataclass(frozen=True, slots=True)
class Answer:
    """The request that was answered, the run that it describes, and the estimate of that run."""

    parsed: ParsedRequest
    """Of the caller's request, or where fallbacks were taken of a copy with the changed spec and without fallbacks."""
    correction: Correction
    """What observed runs correct in the estimate."""
    estimate: engine.Estimate
    fallbacks_taken: int


def answer_request(
    request: estimate_pb2.EstimateRunRequest, knowledge: Knowledge, calibration: Calibration = EMPTY
) -> Answer:
    """Estimate a request's run, or the first fallback that fits.

    Raises DomainError as `parse_request` does, for the run and for each fallback that is tried, and InvalidArgument for
    a run whose numbers are too large to be written.
    """
    parsed, taken = _choose(request, knowledge, calibration)
    correction = correction_for(parsed.spec, calibration)
    # A SUMMARY has numbers alone: remarks and reasons for people are not made.
    told = request.view != estimate_pb2.ESTIMATE_VIEW_SUMMARY
    try:
        estimate = engine.estimate(parsed.run, correction, told=told)
    except BeyondLimitError as error:
        raise invalid_field("spec", f"estimated {error} exceeds 2^53; check the settings") from error
    return Answer(parsed, correction, estimate, taken)


def _choose(
    request: estimate_pb2.EstimateRunRequest, knowledge: Knowledge, calibration: Calibration
) -> tuple[ParsedRequest, int]:
    """The run that is answered, and how many fallbacks it has taken over.

    Of runs that are tried only the peak is computed.
    """
    parsed = parse_request(request, knowledge)
    if not request.fallbacks:
        return parsed, 0
    verdict = _verdict(parsed, calibration)
    tried = {verdict: (parsed, 0)}
    if verdict is not Verdict.FITS:
        for taken, changed in enumerate(_changed(request), start=1):
            parsed = parse_request(changed, knowledge)
            verdict = _verdict(parsed, calibration)
            # Of runs that do not fit the last is the smallest; of others the least changed one is wanted.
            if verdict is Verdict.DOES_NOT_FIT or verdict not in tried:
                tried[verdict] = parsed, taken
            if verdict is Verdict.FITS:
                break
    best = next((verdict for verdict in _PREFERRED if verdict in tried), Verdict.DOES_NOT_FIT)
    return tried[best]


def _verdict(parsed: ParsedRequest, calibration: Calibration) -> Verdict:
    """Whether a run fits; where weights and optimizer states alone are too large no peak is computed."""
    if engine.exceeds(parsed.run):
        return Verdict.DOES_NOT_FIT
    correction = correction_for(parsed.spec, calibration)
    return engine.fit_of(parsed.run, correction)[1].verdict


def _changed(request: estimate_pb2.EstimateRunRequest) -> Iterator[estimate_pb2.EstimateRunRequest]:
    """The request with its first fallback, with its first two, and so on. Raises InvalidArgument."""
    spec = run_spec_pb2.RunSpec()
    spec.CopyFrom(request.spec)
    for number, fallback in enumerate(request.fallbacks):
        spec.MergeFrom(fallback)
        changed = with_spec(request, spec)
        validate(changed, path=f"fallbacks[{number}]")
        yield changed
