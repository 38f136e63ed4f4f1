# SPDX-License-Identifier: Apache-2.0
"""Answer to a request: the estimate of its run, or of its first fallback that fits."""

from collections.abc import Iterator
from dataclasses import dataclass

from finetree_api.estimator.v1 import estimate_pb2
from finetree_runtime.errors import invalid_field
from finetree_runtime.server.validation import validate

from finetree_estimator.estimate import Estimate, Prediction
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
    estimate: Estimate
    fallbacks_taken: int


@dataclass(frozen=True, slots=True)
class _Candidate:
    """The run of a request with its first fallbacks, `taken` of them."""

    parsed: ParsedRequest
    prediction: Prediction
    taken: int

    @property
    def verdict(self) -> Verdict:
        """Whether it fits; skips the peak where weights and optimizer states alone exceed the device."""
        return Verdict.DOES_NOT_FIT if self.prediction.exceeds else self.prediction.fit.verdict


def answer_request(
    request: estimate_pb2.EstimateRunRequest, knowledge: Knowledge, calibration: Calibration = EMPTY
) -> Answer:
    """Estimate a request's run, or its first fallback that fits.

    Raises the errors of `parse_request`, for the run and for each fallback that is tried, and InvalidArgument for a run
    whose numbers exceed 2^53.
    """
    chosen = _choose(request, knowledge, calibration)
    # The SUMMARY view has no remarks.
    explained = request.view != estimate_pb2.ESTIMATE_VIEW_SUMMARY
    try:
        estimate = chosen.prediction.estimate(explained=explained)
    except BeyondLimitError as error:
        raise invalid_field("spec", f"estimated {error} exceeds 2^53; check the settings") from error
    return Answer(
        parsed=chosen.parsed,
        correction=chosen.prediction.correction,
        estimate=estimate,
        fallbacks_taken=chosen.taken,
    )


def _choose(request: estimate_pb2.EstimateRunRequest, knowledge: Knowledge, calibration: Calibration) -> _Candidate:
    """Select the run to answer; only the peak is computed for each candidate, not the whole estimate."""
    candidate = _candidate(parse_request(request, knowledge), calibration)
    if not request.fallbacks or candidate.verdict is Verdict.FITS:
        return candidate
    tried: dict[Verdict, _Candidate] = {candidate.verdict: candidate}
    for taken, changed in enumerate(_changed(request), start=1):
        parsed = parse_request(changed, knowledge, like=candidate.parsed)
        candidate = _candidate(parsed, calibration, taken)
        # Of candidates that do not fit the last is the smallest; of others the least changed one is preferred.
        if candidate.verdict is Verdict.DOES_NOT_FIT or candidate.verdict not in tried:
            tried[candidate.verdict] = candidate
        if candidate.verdict is Verdict.FITS:
            break
    return next((tried[verdict] for verdict in _PREFERRED if verdict in tried), candidate)


def _candidate(parsed: ParsedRequest, calibration: Calibration, taken: int = 0) -> _Candidate:
    return _Candidate(parsed, Prediction(parsed.run, correction_for(parsed.spec, calibration)), taken)


def _changed(request: estimate_pb2.EstimateRunRequest) -> Iterator[estimate_pb2.EstimateRunRequest]:
    """Generate the request with its first fallback, its first two, and so on. Raises InvalidArgument."""
    last = with_spec(request, request.spec)
    for number, fallback in enumerate(request.fallbacks):
        changed = estimate_pb2.EstimateRunRequest()
        changed.CopyFrom(last)
        changed.spec.MergeFrom(fallback)
        # The rest of the request is valid already.
        validate(changed.spec, path=f"fallbacks[{number}].spec")
        yield changed
        last = changed
