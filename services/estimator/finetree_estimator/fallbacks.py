# SPDX-License-Identifier: Apache-2.0
"""A run, and what to change where it does not fit: the first of them that does."""

from collections.abc import Iterator

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_runtime.validation import validate

from finetree_estimator import engine
from finetree_estimator.engine import Estimate
from finetree_estimator.fit import Verdict
from finetree_estimator.lookups import Knowledge
from finetree_estimator.reading import Reading, read

_PREFERRED = (Verdict.FITS, Verdict.TIGHT, Verdict.UNSPECIFIED)


def choose(
    request: pb.EstimateRunRequest, knowledge: Knowledge
) -> tuple[pb.EstimateRunRequest, Reading, Estimate, int]:
    """The request that is answered, understood and estimated, and how many of the fallbacks it has taken over.

    Raises what `read` raises, for the run and for each fallback that is tried, and BeyondLimitError.
    """
    reading = read(request, knowledge)
    estimate = engine.estimate(reading.run)
    if not request.fallbacks or estimate.fit.verdict is Verdict.FITS:
        return request, reading, estimate, 0
    tried: dict[Verdict, tuple[pb.EstimateRunRequest, Reading, int]] = {}
    tried[estimate.fit.verdict] = (request, reading, 0)
    for taken, changed in enumerate(_changed(request), start=1):
        reading = read(changed, knowledge)
        _, fit = engine.fit_of(reading.run)
        # Of runs that do not fit the last is the smallest; of others the least changed one is wanted.
        if fit.verdict is Verdict.DOES_NOT_FIT or fit.verdict not in tried:
            tried[fit.verdict] = changed, reading, taken
        if fit.verdict is Verdict.FITS:
            break
    best = next((verdict for verdict in _PREFERRED if verdict in tried), Verdict.DOES_NOT_FIT)
    chosen, reading, taken = tried[best]
    return chosen, reading, engine.estimate(reading.run) if taken else estimate, taken


def _changed(request: pb.EstimateRunRequest) -> Iterator[pb.EstimateRunRequest]:
    """The request with its first fallback, with its first two, and so on."""
    last = request
    for number, fallback in enumerate(request.fallbacks):
        changed = pb.EstimateRunRequest()
        changed.CopyFrom(last)
        changed.ClearField("fallbacks")
        changed.spec.MergeFrom(fallback)
        validate(changed, path=f"fallbacks[{number}]")
        yield changed
        last = changed
