# SPDX-License-Identifier: Apache-2.0
"""Answer to a request: the estimate of its run, or of its first fallback that fits."""

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
    """The parsed request, the applied correction, and the estimate."""

    parsed: ParsedRequest
    """Parsed from the caller's request; where fallbacks were taken, from a copy with the changed spec."""
    correction: Correction
    """Correction factors from observed runs."""
    estimate: engine.Estimate
    fallbacks_taken: int


def answer_request(
    request: estimate_pb2.EstimateRunRequest, knowledge: Knowledge, calibration: Calibration = EMPTY
) -> Answer:
    """Estimate a request's run, or its first fallback that fits.

    Raises the errors of `parse_request`, for the run and for each fallback that is tried, and InvalidArgument for a run
    whose numbers exceed 2^53.
    """
    parsed, taken = _choose(request, knowledge, calibration)
    correction = correction_for(parsed.spec, calibration)
    # The SUMMARY view has no remarks.
    explained = request.view != estimate_pb2.ESTIMATE_VIEW_SUMMARY
    try:
        estimate = engine.estimate(parsed.run, correction, explained=explained)
    except BeyondLimitError as error:
        raise invalid_field("spec", f"estimated {error} exceeds 2^53; check the settings") from error
    return Answer(parsed=parsed, correction=correction, estimate=estimate, fallbacks_taken=taken)


def _choose(
    request: estimate_pb2.EstimateRunRequest, knowledge: Knowledge, calibration: Calibration
) -> tuple[ParsedRequest, int]:
    """Select the run to answer, and count its fallbacks.

    Only the peak is computed for each candidate, not the whole estimate.
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
            # Of candidates that do not fit the last is the smallest; of others the least changed one is preferred.
            if verdict is Verdict.DOES_NOT_FIT or verdict not in tried:
                tried[verdict] = parsed, taken
            if verdict is Verdict.FITS:
                break
    best = next((verdict for verdict in _PREFERRED if verdict in tried), Verdict.DOES_NOT_FIT)
    return tried[best]


def _verdict(parsed: ParsedRequest, calibration: Calibration) -> Verdict:
    """Whether a run fits; skips the peak where weights and optimizer states alone exceed the device."""
    if engine.exceeds(parsed.run):
        return Verdict.DOES_NOT_FIT
    correction = correction_for(parsed.spec, calibration)
    return engine.fit_of(parsed.run, correction)[1].verdict


def _changed(request: estimate_pb2.EstimateRunRequest) -> Iterator[estimate_pb2.EstimateRunRequest]:
    """Generate the request with its first fallback, its first two, and so on. Raises InvalidArgument."""
    spec = run_spec_pb2.RunSpec()
    spec.CopyFrom(request.spec)
    for number, fallback in enumerate(request.fallbacks):
        spec.MergeFrom(fallback)
        changed = with_spec(request, spec)
        validate(changed, path=f"fallbacks[{number}]")
        yield changed
